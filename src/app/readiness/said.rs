//! Owns what has been said of an app that does not serve its port: each remark once for a launch. Must not know the words.

/// Something that is said once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remark {
    /// It listens nowhere so far.
    NowhereSoFar,
    /// It listens nowhere, and should by now.
    Nowhere,
    /// It listens elsewhere so far.
    ElsewhereSoFar,
    /// It listens elsewhere, which is a mistake.
    Elsewhere,
    /// It has closed the socket that it was given.
    Closed,
    /// Clients wait, and it accepts none of them.
    Queue,
    /// It has not taken the socket that it was given.
    NotTaken,
}

/// The remarks that have been made.
#[derive(Debug, Clone, Default)]
pub struct Said(Vec<Remark>);

impl Said {
    /// True the first time.
    pub fn first(&mut self, remark: Remark) -> bool {
        let first = !self.contains(remark);
        if first {
            self.0.push(remark);
        }
        first
    }

    pub fn contains(&self, remark: Remark) -> bool {
        self.0.contains(&remark)
    }
}
