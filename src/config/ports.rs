//! Owns what `run` and `healthcheck` share about ports: the precedence of the variables, and the profile. Must not know flags.

use super::reader::{Reader, from, no_carriage_return};
use crate::env::{Environ, service_link};
use crate::port::spec::{self, Spec};
use crate::setting::Source;
use crate::setting::value::{shown, word};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Prod,
    Dev,
    Test,
}

/// The text form of `--profile`.
pub fn profile(text: &str) -> Result<Profile, String> {
    word(text, &[("prod", Profile::Prod), ("dev", Profile::Dev), ("test", Profile::Test)])
}

/// The port of profile `test` if none is configured: any free port.
pub fn any() -> Spec {
    Spec { name: None, addr: None, port: 0, protocol: spec::Protocol::Tcp }
}

/// The result of reading the port variables.
pub enum Ports {
    Unset,
    Set(Vec<Spec>),
    Bad,
}

/// `REBERTH_PORT`, else `PORT`. A Kubernetes service link counts as unset; the ignored ones are returned with their names.
pub fn of_environment<'a>(reader: &mut Reader<'_>, environ: &'a Environ) -> (Ports, Vec<(&'static str, &'a str)>) {
    let outcome = |ports: Option<Vec<Spec>>| ports.map_or(Ports::Bad, Ports::Set);
    let own = environ.run.port.as_deref().filter(|text| service_link(text));
    let not_utf8 = environ.not_utf8.iter().any(|(name, _)| *name == "REBERTH_PORT");
    if own.is_none() && (environ.run.port.is_some() || not_utf8) {
        return (outcome(reader.read("port", from(&None, &environ.run.port), spec::list)), Vec::new());
    }
    let plain = environ.port.as_deref().filter(|text| service_link(text));
    let ports = match &environ.port {
        Some(text) if plain.is_none() => {
            reader.sources.note("port", Source::Port);
            outcome(plain_port(text).map_or_else(|line| reader.bad(line), Some))
        }
        _ => Ports::Unset,
    };
    let links = [("REBERTH_PORT", own), ("PORT", plain)];
    (ports, links.into_iter().filter_map(|(name, text)| Some((name, text?))).collect())
}

/// `PORT`, in the syntax of `--port`. The error names the variable.
fn plain_port(text: &str) -> Result<Vec<Spec>, String> {
    let ports = no_carriage_return(text).and_then(|()| spec::list(text));
    ports.map_err(|reason| format!("PORT={}: {reason}", shown(text)))
}
