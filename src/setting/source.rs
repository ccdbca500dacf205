//! Owns where a setting's value came from, and how that is named to whoever has to change it. Must not know what a value means.

/// Where a value came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    #[default]
    Default,
    Flag,
    /// The setting's own variable.
    Variable,
    /// `PORT`, which is for ports only.
    Port,
    /// The profile, which a flag named.
    Profile,
    /// The profile, which its variable named.
    ProfileVariable,
}

impl Source {
    /// The word for machines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Flag => "flag",
            Self::Variable | Self::Port => "variable",
            Self::Profile | Self::ProfileVariable => "profile",
        }
    }

    /// What has to be changed for another value, for the setting with this flag and variable: `--wait`, `REBERTH_WAIT`, `PORT`.
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

/// The sources of the settings that are set; all others have their default.
#[derive(Debug, Clone, Default)]
pub struct Sources(Vec<(&'static str, Source)>);

impl Sources {
    /// Notes where this setting came from; the first note counts.
    pub fn note(&mut self, flag: &'static str, source: Source) {
        if self.of(flag) == Source::Default {
            self.0.push((flag, source));
        }
    }

    pub fn of(&self, flag: &str) -> Source {
        self.0.iter().find(|(known, _)| *known == flag).map_or(Source::Default, |(_, source)| *source)
    }
}

/// Where a value came from is no part of what it is: settings are equal that mean the same.
impl PartialEq for Sources {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Sources {}
