//! Owns the environment as raw text: the known `REBERTH_*` variables in the same shape as the flags (through envy), `PORT`, `NO_COLOR`,
//! `TERM` and those of etcdctl. Must not know defaults, nor what a value means. No other variable is looked at.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Deserializer};

use crate::setting::table;
use crate::setting::value::nearest;

const PREFIX: &str = "REBERTH_";
const HEALTH_PREFIX: &str = "HEALTH_";

/// A struct of optional texts. Sharing one deserializing function among all fields makes the binary 32 KB smaller.
macro_rules! variables {
    ($(#[$doc:meta])* $name:ident { $($field:ident),* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
        pub struct $name {
            $(#[serde(default, deserialize_with = "text")] pub $field: Option<String>,)*
        }
    };
}

#[inline(never)]
fn text<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    String::deserialize(value).map(Some)
}

variables! {
    /// `REBERTH_*` of `run`: the raw text of each variable that is set and not empty.
    Run {
        port, profile, wait, fallback, backoff, handover, prewarm, share, share_secret_file, relaunch,
        port_file, log_file, log, log_format, exec, signal_scope, signal_map, exit_map, drain, grace,
        parent_death_signal, health, liveness, start_timeout, after, after_wait, exit_on_unhealthy,
        unhealthy_failures, register, advertise, register_metadata, register_ttl, state_dir
    }
}

variables! {
    /// `REBERTH_HEALTH_*` of `healthcheck`, in the same form.
    Healthcheck {
        probe, timeout, wait, interval, status, header, method, body_contains, ca, insecure, cert, key,
        user_agent, quiet
    }
}

/// etcdctl's variables that `--register` uses, as raw bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Etcdctl {
    pub user: Option<OsString>,
    pub password: Option<OsString>,
    pub cacert: Option<OsString>,
    pub cert: Option<OsString>,
    pub key: Option<OsString>,
}

/// Hides the password.
impl fmt::Debug for Etcdctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Etcdctl")
    }
}

impl Etcdctl {
    fn field(&mut self, name: &str) -> Option<&mut Option<OsString>> {
        match name {
            "USER" => Some(&mut self.user),
            "PASSWORD" => Some(&mut self.password),
            "CACERT" => Some(&mut self.cacert),
            "CERT" => Some(&mut self.cert),
            "KEY" => Some(&mut self.key),
            _ => None,
        }
    }
}

/// The part of the environment that reberth uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environ {
    pub run: Run,
    pub healthcheck: Healthcheck,
    pub port: Option<String>,
    /// etcdctl's variables, for `--register`.
    pub etcdctl: Etcdctl,
    /// `NO_COLOR` is set and not empty (no-color.org).
    pub no_color: bool,
    /// `TERM` is `dumb`: the terminal cannot rewrite a line.
    pub dumb: bool,
    /// Known variables whose value is not UTF-8: an error if the setting is used.
    pub not_utf8: Vec<(&'static str, OsString)>,
    /// Unknown names under `REBERTH_`, with their values.
    unknown: Vec<(String, String)>,
}

impl Environ {
    /// Picks out the known variables. If a name occurs twice, the first one counts, as in `getenv(3)`. An empty value counts as unset.
    pub fn read(environ: &[(OsString, OsString)]) -> Self {
        let mut found = Self::default();
        let (mut run, mut healthcheck) = (Vec::new(), Vec::new());
        let mut seen: Vec<&str> = Vec::new();
        for (name, value) in environ {
            // Cheapest test first: a pod may have hundreds of service-link variables.
            let ours = name.as_bytes().starts_with(PREFIX.as_bytes())
                || ["PORT", "NO_COLOR", "TERM"].into_iter().any(|ours| name == ours);
            if let Some(rest) = name.as_bytes().strip_prefix(b"ETCDCTL_") {
                let field = std::str::from_utf8(rest).ok().and_then(|rest| found.etcdctl.field(rest));
                if let Some(field) = field.filter(|field| field.is_none() && !value.is_empty()) {
                    *field = Some(value.clone());
                }
                continue;
            }
            let Some(name) = name.to_str().filter(|name| ours && !seen.contains(name)) else { continue };
            seen.push(name);
            if value.is_empty() {
                continue;
            }
            match (name, value.to_str()) {
                ("PORT", text) => found.port = text.map(Into::into),
                ("NO_COLOR", _) => found.no_color = true,
                ("TERM", text) => found.dumb = text == Some("dumb"),
                (name, text) => match (table::variables().find(|known| *known == name), text) {
                    (Some(_), Some(text)) => {
                        let name = name.strip_prefix(PREFIX).unwrap_or(name);
                        match name.strip_prefix(HEALTH_PREFIX) {
                            Some(name) => healthcheck.push((name.into(), text.into())),
                            None => run.push((name.into(), text.into())),
                        }
                    }
                    (Some(known), None) => found.not_utf8.push((known, value.clone())),
                    (None, _) => found.unknown.push((name.into(), value.to_string_lossy().into_owned())),
                },
            }
        }
        // These cannot fail: every field is an optional string, and every name is unique.
        found.run = envy::from_iter(run).unwrap_or_default();
        found.healthcheck = envy::from_iter(healthcheck).unwrap_or_default();
        found
    }

    /// One warning for each unknown `REBERTH_*` name, with the nearest known name. The variables that Kubernetes sets for a Service named
    /// `reberth…` share one warning.
    pub fn warnings(&self) -> Vec<String> {
        let (links, typos): (Vec<_>, Vec<_>) =
            self.unknown.iter().partition(|(name, value)| service_link_name(name) || service_link(value));
        let mut warnings: Vec<String> = typos
            .iter()
            .map(|(name, _)| match nearest(name, table::variables()) {
                Some(near) => format!("{name}: unknown setting, ignored (did you mean {near}?)"),
                None => format!("{name}: unknown setting, ignored"),
            })
            .collect();
        if let Some((first, _)) = links.first() {
            let others = if links.len() > 1 { format!(" and {} more", links.len() - 1) } else { String::new() };
            warnings.push(format!(
                "{first}{others}: set by Kubernetes for a Service named reberth…, ignored; \
                 enableServiceLinks: false in the pod spec keeps them out"
            ));
        }
        warnings
    }
}

/// Whether a value looks like the `<SERVICE>_PORT` that Kubernetes sets: `scheme://ip:port`.
/// Source: kubelet, pkg/kubelet/envvars (`makeLinkVariables`).
pub fn service_link(value: &str) -> bool {
    value.split_once("://").is_some_and(|(scheme, address)| {
        !scheme.is_empty()
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
            && address.parse::<std::net::SocketAddr>().is_ok()
    })
}

/// The other service-link variables: `…_SERVICE_HOST`, `…_SERVICE_PORT[_NAME]`, `…_PORT_80_TCP[_ADDR|_PORT|_PROTO]`.
fn service_link_name(name: &str) -> bool {
    let numbered = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| numbered(rest))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn pairs(list: &[(&str, &[u8])]) -> Vec<(OsString, OsString)> {
        list.iter().map(|(name, value)| (OsString::from(name), OsString::from_vec(value.to_vec()))).collect()
    }

    #[test]
    fn every_known_variable_has_a_field() {
        for known in table::variables() {
            let found = Environ::read(&pairs(&[(known, b"x")]));
            let text = format!("{:?} {:?}", found.run, found.healthcheck);
            assert_eq!(text.matches("Some(\"x\")").count(), 1, "{known}: {text}");
            assert_eq!(found.warnings(), [""; 0]);
        }
    }

    #[test]
    fn duplicate_empty_and_lower_case_names() {
        let found = Environ::read(&pairs(&[
            ("REBERTH_WAIT", b"1s"),
            ("REBERTH_WAIT", b"2s"),
            ("REBERTH_GRACE", b""),
            ("REBERTH_GRACE", b"3s"),
            ("reberth_log", b"debug"),
            ("PORT", b"80"),
            ("NO_COLOR", b""),
        ]));
        assert_eq!(found.run, Run { wait: Some("1s".into()), ..Run::default() });
        assert_eq!((found.port.as_deref(), found.no_color), (Some("80"), false));
    }

    #[test]
    fn values_that_are_not_utf8() {
        let found = Environ::read(&pairs(&[
            ("REBERTH_WAIT", b"\xff"),
            ("REBERTH_NOPE", b"\xff"),
            ("OTHER", b"\xff"),
            ("PORT", b"\xff"),
        ]));
        assert_eq!(found.not_utf8.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["REBERTH_WAIT"]);
        assert_eq!((found.port, found.unknown.len()), (None, 1));
    }

    #[test]
    fn unknown_names_and_service_links() {
        let found = Environ::read(&pairs(&[
            ("REBERTH_WIAT", b"1s"),
            ("REBERTH_HEALTH_TIMOUT", b"1s"),
            ("REBERTH_EMPTY", b""),
            ("REBERTH_SERVICE_HOST", b"10.0.0.1"),
            ("REBERTH_SERVICE_PORT_HTTP", b"80"),
            ("REBERTH_PORT_80_TCP_ADDR", b"10.0.0.1"),
            ("REBERTH_WEB_PORT", b"tcp://10.0.0.1:80"),
        ]));
        let warnings = found.warnings();
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[0].contains("REBERTH_WIAT") && warnings[0].contains("REBERTH_WAIT?"));
        assert!(warnings[1].contains("REBERTH_HEALTH_TIMEOUT?"));
        assert!(warnings[2].contains("and 3 more") && warnings[2].contains("enableServiceLinks: false"));
        for (value, want) in [
            ("tcp://10.0.0.1:80", true),
            ("udp://[fd00::1]:53", true),
            ("tcp://10.0.0.1", false),
            ("tcp://host:80", false),
            ("http://10.0.0.1:80/", false),
            ("://10.0.0.1:80", false),
            ("8080", false),
        ] {
            assert_eq!(service_link(value), want, "{value}");
        }
    }
}
