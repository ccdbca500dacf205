//! Owns where a setting's value came from, and how to name that to the user. Must not know what a value means.

/// Where a value came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    #[default]
    Default,
    Flag,
    /// The setting's variable.
    Variable,
    /// `PORT`. Only for ports.
    Port,
    /// The profile, set by its flag.
    Profile,
    /// The profile, set by its variable.
    ProfileVariable,
}

impl Source {
    /// The source for programs that read JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Flag => "flag",
            Self::Variable | Self::Port => "variable",
            Self::Profile | Self::ProfileVariable => "profile",
        }
    }

    /// What to change for another value of the setting with this flag and variable: `--wait`, `REBERTH_WAIT`, `PORT`.
    pub fn place(self, flag: &str, variable: &str) -> String {
        match self {
            Self::Default => "the default".into(),
            Self::Flag => format!("--{flag}"),
            Self::Variable => variable.into(),
            Self::Port => "PORT".into(),
            Self::Profile => "--profile".into(),
            Self::ProfileVariable => "REBERTH_PROFILE".into(),
        }
    }
}

/// The sources of the settings that are set. All others have their default.
#[derive(Debug, Clone, Default)]
pub struct Sources(Vec<(&'static str, Source)>);

impl Sources {
    /// Records where this setting came from. Only the first call counts.
    pub fn note(&mut self, flag: &'static str, source: Source) {
        if self.of(flag) == Source::Default {
            self.0.push((flag, source));
        }
    }

    pub fn of(&self, flag: &str) -> Source {
        self.0.iter().find(|(known, _)| *known == flag).map_or(Source::Default, |(_, source)| *source)
    }
}

/// Settings are equal if their values are, wherever the values came from.
impl PartialEq for Sources {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Sources {}
