//! Owns `--exit-map`: the exit code of reberth for each exit code of the app. Must not know how an app exits.

use crate::setting::value::{number, pairs};

/// Rewritten exit codes of the app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExitMap(pub Vec<(u8, u8)>);

impl ExitMap {
    /// The code reberth exits with when the app's own code is `code`.
    pub fn apply(&self, code: u8) -> u8 {
        self.0.iter().find(|(from, _)| *from == code).map_or(code, |(_, to)| *to)
    }
}

/// The text form of `--exit-map`: `FROM=TO,...`, each 0 to 255.
pub fn exit_map(text: &str) -> Result<ExitMap, String> {
    let code = |text: &str| number(text, 0, 255).map(|code| u8::try_from(code).unwrap_or(u8::MAX));
    pairs(text, "an exit map is FROM=TO,... with codes from 0 to 255, such as 143=0", code, code).map(ExitMap)
}
