//! Owns `reberth who`. Must not know anything else.

use crate::config::Who;
use crate::error::Error;
use crate::exit::Code;

/// Not there yet.
///
/// # Errors
/// Always.
pub fn run(_who: &Who) -> Result<Code, Error> {
    Err(Error::cannot("who: not there yet"))
}
