//! Owns `reberth install`. Must not know anything else.

use std::path::Path;

use crate::error::Error;

/// Not there yet.
///
/// # Errors
/// Always.
pub fn run(_destination: &Path) -> Result<(), Error> {
    Err(Error::cannot("install: not there yet"))
}
