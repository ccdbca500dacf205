//! Owns what can be built: which CPU, with or without TLS, and the resulting names. Must not know how it is built.

use anyhow::{Result, bail};
use clap::ValueEnum;

/// A CPU, with its name in container images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    #[value(alias = "x86_64")]
    Amd64,
    #[value(alias = "aarch64")]
    Arm64,
}

impl Arch {
    pub fn of_this_machine() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("no static build is known for {other}: name one, amd64 or arm64"),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    pub fn triple(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }

    /// The binutils program for this CPU's files, by Debian's name: each objcopy handles the files of one machine only.
    pub fn objcopy(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu-objcopy",
            Self::Arm64 => "aarch64-linux-gnu-objcopy",
        }
    }
}

/// One static binary of a release.
#[derive(Clone, Copy)]
pub struct Binary {
    pub arch: Arch,
    pub tls: bool,
}

impl Binary {
    /// The prefix of all files of binaries in dist/.
    pub const PREFIX: &'static str = "reberth-linux-";

    /// Its file in dist/.
    pub fn name(self) -> String {
        format!("{}{}{}", Self::PREFIX, self.arch.name(), if self.tls { "" } else { "-no-tls" })
    }

    /// The flags of cargo for its features.
    pub fn features(self) -> &'static [&'static str] {
        if self.tls { &[] } else { &["--no-default-features"] }
    }
}
