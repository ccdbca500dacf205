//! Owns the settings of `--register` and its companions, and their text form. Pure. Must not know how a registry is
//! queried.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use crate::setting::value::{duration, pairs};

/// etcd's own client port.
const DEFAULT_PORT: u16 = 2379;

/// The values of `--register` and its companions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// Never empty.
    pub registries: Vec<Registry>,
    pub advertise: Option<Advertise>,
    pub metadata: Vec<(String, String)>,
    /// Whole seconds.
    pub ttl: Duration,
    pub credentials: Credentials,
}

/// One `etcd://HOST[:PORT][,HOST…]/PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// Members of one cluster, tried in turn; IPv6 without brackets. Never empty.
    pub endpoints: Vec<(String, u16)>,
    pub tls: bool,
    /// Without a trailing slash.
    pub prefix: String,
}

/// The address that is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertise {
    /// IPv6 without brackets.
    pub host: String,
    /// `None`: the primary port, as claimed.
    pub port: Option<u16>,
}

/// The settings of etcdctl's variables.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    pub user: Option<(String, String)>,
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// A password must not appear in any log.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials {{ user: {}, … }}", if self.user.is_some() { "***" } else { "none" })
    }
}

/// As typed, without the default port.
impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "etcd+tls://" } else { "etcd://" })?;
        for (at, (host, port)) in self.endpoints.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{}", authority(host, *port))?;
        }
        write!(f, "/{}", self.prefix)
    }
}

/// `HOST:PORT`, an IPv6 address in brackets.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

const FORM: &str =
    "a registry is etcd://HOST[:2379][,HOST...]/PREFIX or etcd+tls://..., such as etcd://etcd:2379/services/api";

/// One URL of `--register`. The caller has rejected a URL with credentials already.
pub fn registry(text: &str) -> Result<Registry, String> {
    if cfg!(not(feature = "register")) {
        return Err("this reberth was built without the feature register: use the full build, or leave it out".into());
    }
    let bad = |why: &str| format!("{why}; {FORM}");
    let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("it has no scheme"))?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "etcd" => false,
        "etcd+tls" => true,
        _ => return Err(bad("no such registry")),
    };
    if tls && cfg!(not(feature = "tls")) {
        return Err("this reberth was built without TLS: use the full build, or etcd://".into());
    }
    let (hosts, prefix) = rest.split_once('/').ok_or_else(|| bad("the prefix is missing"))?;
    let prefix = prefix.trim_end_matches('/');
    if prefix.is_empty() {
        return Err(bad("the prefix is missing"));
    }
    if !prefix.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#%@".contains(&byte)) {
        return Err(bad("a prefix is visible ASCII without ?, #, % and @"));
    }
    let endpoints =
        hosts.split(',').map(endpoint).collect::<Option<Vec<_>>>().ok_or_else(|| bad("no such host or port"))?;
    Ok(Registry { endpoints, tls, prefix: prefix.into() })
}

fn endpoint(text: &str) -> Option<(String, u16)> {
    let (host, port) = host_and_port(text)?;
    Some((host, port.unwrap_or(DEFAULT_PORT)))
}

/// `HOST`, `HOST:PORT`, `[V6]` or `[V6]:PORT`, the port not 0.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        let port = if after.is_empty() { None } else { Some(after.strip_prefix(':')?) };
        (host, port)
    } else if text.parse::<Ipv6Addr>().is_ok() {
        // Without brackets, an address cannot be separated from a port.
        (text, None)
    } else {
        let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if host.is_empty() || !host.bytes().all(letter) {
            return None;
        }
        (host, port)
    };
    let port = match port {
        None => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse::<u16>().ok().filter(|port| *port > 0)?)
        }
        Some(_) => return None,
    };
    Some((host.into(), port))
}

/// `--advertise`.
pub fn advertise(text: &str) -> Result<Advertise, String> {
    let form = "must be ADDR or ADDR:PORT, a name or an address that clients reach, IPv6 as [fd00::1]:80";
    let (host, port) = host_and_port(text).ok_or(form)?;
    if host.parse::<IpAddr>().is_ok_and(|addr| addr.is_unspecified()) {
        return Err(format!("no client can reach a wildcard; {form}"));
    }
    Ok(Advertise { host, port })
}

/// `--register-metadata`. What reberth puts into every entry cannot be overridden.
pub fn metadata(text: &str) -> Result<Vec<(String, String)>, String> {
    let form = "metadata is KEY=VALUE,... such as version=1.4,zone=b";
    let key = |key: &str| match key {
        "" => Err("a key is missing".into()),
        "instance" | "ports" => Err("reberth itself sets instance and ports".into()),
        key => Ok(key.to_owned()),
    };
    pairs(text, form, key, |value| Ok(value.to_owned()))
}

/// `--register-ttl`.
pub fn ttl(text: &str) -> Result<Duration, String> {
    let form = "must be whole seconds from 5s to 1h, such as 15s";
    let ttl = duration(text).map_err(|reason| format!("{form}: {reason}"))?;
    let good = ttl.subsec_nanos() == 0 && (5..=3600).contains(&ttl.as_secs());
    if good { Ok(ttl) } else { Err(form.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "register")]
    #[test]
    fn registries() {
        for (text, shown) in [
            ("etcd://a/p", "etcd://a:2379/p"),
            ("etcd://a:1,b/p/q/", "etcd://a:1,b:2379/p/q"),
            ("ETCD://[fd00::1]:7,10.0.0.1/p", "etcd://[fd00::1]:7,10.0.0.1:2379/p"),
            ("etcd://a//p", "etcd://a:2379//p"),
        ] {
            assert_eq!(registry(text).map(|registry| registry.to_string()).as_deref(), Ok(shown), "{text}");
        }
        assert_eq!(registry("etcd+tls://a/p").is_ok(), cfg!(feature = "tls"));
        for bad in [
            "",
            "etcd",
            "a:2379/p",
            "http://a/p",
            "etcd://a",
            "etcd://a/",
            "etcd:///p",
            "etcd://a,/p",
            "etcd://a:0/p",
            "etcd://a:x/p",
            "etcd://a:65536/p",
            "etcd://[::1/p",
            "etcd://[::1]x/p",
            "etcd://a/p?x",
            "etcd://a/p q",
            "etcd://a b/p",
            "etcd://a:+1/p",
            "etcd://[a]:1/p",
        ] {
            assert!(registry(bad).is_err(), "{bad}");
        }
    }

    #[cfg(not(feature = "register"))]
    #[test]
    fn a_small_build_says_so() {
        assert!(registry("etcd://a/p").is_err_and(|reason| reason.contains("without the feature register")));
    }

    #[test]
    fn addresses_metadata_and_ttls() {
        let told = |host: &str, port| Ok(Advertise { host: host.into(), port });
        assert_eq!(advertise("app.local"), told("app.local", None));
        assert_eq!(advertise("10.0.0.1:80"), told("10.0.0.1", Some(80)));
        assert_eq!(advertise("[fd00::1]:80"), told("fd00::1", Some(80)));
        assert_eq!(advertise("fd00::1"), told("fd00::1", None));
        for bad in ["", ":80", "a:0", "a:b", "0.0.0.0", "[::]:80", "a b", "http://a"] {
            assert!(advertise(bad).is_err(), "{bad}");
        }
        assert_eq!(metadata("a=1, b=x=y"), Ok(vec![("a".into(), "1".into()), ("b".into(), "x=y".into())]));
        for bad in ["a", "=1", "a=1,a=2", "ports=1", "instance=x"] {
            assert!(metadata(bad).is_err(), "{bad}");
        }
        for (text, good) in [
            ("5s", true),
            ("1h", true),
            ("15s", true),
            ("4s", false),
            ("3601s", false),
            ("5.5s", false),
            ("15", false),
            ("0", false),
        ] {
            assert_eq!(ttl(text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let user = Some(("root".to_owned(), "hunter2".to_owned()));
        let text = format!("{:?}", Credentials { user, ..Credentials::default() });
        assert!(!text.contains("hunter2") && text.contains("***"), "{text}");
    }
}
