//! Owns the ways in which the app comes to its port. Must not know how a port is claimed, or how the app is started.

use crate::setting::value::word;

/// How the app comes to its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// It binds by itself, and reberth lets the port go at the last moment.
    Off,
    /// It is given the listening socket as a descriptor.
    Listen,
    /// It is given the listening socket in its own bind(2).
    Bind,
}

/// The text form of `--handover`. `None`: auto.
pub fn handover(text: &str) -> Result<Option<Handover>, String> {
    let ways =
        [("auto", None), ("on", Some(Handover::Listen)), ("off", Some(Handover::Off)), ("bind", Some(Handover::Bind))];
    word(text, &ways)
}
