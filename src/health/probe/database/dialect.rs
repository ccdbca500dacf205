//! Owns what every database's protocol comes to: a decided answer, and how the server is left. Must not know any of them.

use crate::health::probe::grpc::exchange::shortened;

/// A decided answer: why the server is healthy, and how it is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Healthy {
    pub reason: String,
    pub leave: Leave,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It waits for nothing from us.
    Silent,
    /// With these words, and it has still something to do before it closes.
    Saying(&'static [u8]),
    /// By the rest of a login, which begins with these words.
    Login(Vec<u8>),
}

/// What has come, read: `None` where more has to come before it can be judged.
pub(crate) type Read = Result<Option<Healthy>, String>;

/// A stranger's words in a reason; nothing where there are none.
pub fn quoted(words: &[u8]) -> String {
    let words = words.trim_ascii();
    if words.is_empty() { String::new() } else { format!(": {}", shortened(words)) }
}
