//! Owns which remarks have been logged about an app that does not serve its port: each once per launch. Must not know their wording.

/// A remark that is logged once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remark {
    /// The app does not listen on any port yet.
    NowhereSoFar,
    /// It does not listen on any port, and should by now.
    Nowhere,
    /// It listens on other ports so far.
    ElsewhereSoFar,
    /// It listens on another port, which is a mistake.
    Elsewhere,
    /// It has closed the socket it was given.
    Closed,
    /// Clients are queued, and it accepts none of them.
    Queue,
    /// It has not taken the socket it was given.
    NotTaken,
}

/// The remarks logged so far.
#[derive(Debug, Clone, Default)]
pub struct Remarks(Vec<Remark>);

impl Remarks {
    /// True the first time.
    pub fn insert(&mut self, remark: Remark) -> bool {
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
