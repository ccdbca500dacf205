//! Owns the URL of an HTTP target: parsing, printing, and resolving a redirect. Must not know sockets.

use std::fmt::Write as _;

use crate::health::host::{bracketed, plain_zone, without_zone};

/// A parsed `http://…` or `https://…` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    pub tls: bool,
    /// As typed. An IPv6 address has no brackets, and its zone follows a plain `%`.
    pub host: String,
    pub port: u16,
    /// Path and query as typed, from the first `/`. Without the fragment, which is never sent.
    pub path: String,
}

impl Url {
    /// Parses `http://[USER[:PASSWORD]@]HOST[:PORT][/PATH][?QUERY]`, the scheme in any case (RFC 3986, 3.2).
    ///
    /// # Errors
    /// What is wrong, without the text itself.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("it has no http:// or https://")?;
        let tls = match scheme {
            scheme if scheme.eq_ignore_ascii_case("http") => false,
            scheme if scheme.eq_ignore_ascii_case("https") => true,
            _ => return Err("its scheme is neither http nor https"),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        // Settings refuse a login. One in a `Location` comes from the server, and is neither sent nor shown.
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => match bracketed.split_once(']').ok_or("its [ has no ]")? {
                // A host with other characters would not survive being printed and parsed again.
                (host, _) if !host.contains(':') || host.contains('[') => return Err("its [] hold no IPv6 address"),
                parts => parts,
            },
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        if host.is_empty() {
            return Err("it has no host");
        }
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => default_port(tls),
            Some("") => default_port(tls),
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or("its port is not 1 to 65535")?,
            None => return Err("something follows its ]"),
        };
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let host = match host.split_once('%').filter(|_| host.contains(':')) {
            Some((address, zone)) => format!("{address}%{}", plain_zone(zone)),
            None => host.to_owned(),
        };
        Ok(Self { tls, host, port, path })
    }

    /// The hostname of a `Location`, as text: empty if it has none (`mailto:`), this URL's if it is relative. The rest of it may be
    /// invalid, because the kubelet compares hostnames before it looks at scheme and port.
    pub fn host_of<'l>(&'l self, location: &'l str) -> &'l str {
        let rest = match location.split_once(':') {
            Some((_, rest)) if has_scheme(location) => rest,
            _ if location.starts_with("//") => location,
            _ => return &self.host,
        };
        let authority =
            rest.strip_prefix("//").map_or("", |rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => address,
            None => host.split(':').next().unwrap_or_default(),
        }
    }

    /// Resolves a `Location` against this URL (RFC 3986, 5.2).
    ///
    /// # Errors
    /// What is wrong, without the text itself: the server is not trusted.
    pub fn join(&self, location: &str) -> Result<Self, &'static str> {
        let location = location.split('#').next().unwrap_or_default();
        let (path, query) = match location.find('?') {
            Some(at) => location.split_at(at),
            None => (location, ""),
        };
        if has_scheme(location) {
            return Self::parse(location);
        }
        if location.starts_with("//") {
            return Self::parse(&format!("http{}:{location}", if self.tls { "s" } else { "" }));
        }
        let own = self.path.split('?').next().unwrap_or_default();
        let path = if path.is_empty() {
            own.to_owned()
        } else if path.starts_with('/') {
            without_dots(path)
        } else {
            let folder = own.rsplit_once('/').map_or("", |(folder, _)| folder);
            without_dots(&format!("{folder}/{path}"))
        };
        // An empty reference keeps the query; one with a path does not.
        let query = if location.is_empty() { self.path.get(own.len()..).unwrap_or_default() } else { query };
        Ok(Self { path: path + query, ..self.clone() })
    }

    /// The value of the Host header: with the port only if it is not the scheme's default, and without the zone, which has no meaning on
    /// another host (RFC 6874, 4).
    pub fn authority(&self) -> String {
        self.with_port(bracketed(without_zone(&self.host)))
    }

    fn with_port(&self, host: String) -> String {
        if self.port == default_port(self.tls) { host } else { format!("{host}:{}", self.port) }
    }

    /// The request target. Bytes that a request line cannot carry are percent-encoded; the rest is as typed.
    pub fn request_target(&self) -> String {
        let mut target = String::with_capacity(self.path.len());
        for byte in self.path.bytes() {
            if byte.is_ascii_graphic() {
                target.push(char::from(byte));
            } else {
                let _ = write!(target, "%{byte:02X}");
            }
        }
        target
    }

    /// For the verdict.
    pub fn shown(&self) -> String {
        format!("http{}://{}{}", if self.tls { "s" } else { "" }, self.with_port(bracketed(&self.host)), self.path)
    }

    /// For the verdict, if the URL comes from a server's `Location`: without the query, which may hold a session.
    pub fn shown_without_query(&self) -> String {
        let shown = self.shown();
        shown.split('?').next().unwrap_or_default().to_owned()
    }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

/// Whether a reference is absolute: `https://…`, `mailto:…`.
pub fn has_scheme(location: &str) -> bool {
    location.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    })
}

/// Removes `.` and `..` from a path that starts with `/` (RFC 3986, 5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsing() {
        for (text, want) in [
            ("http://a", Ok((false, "a", 80, "/"))),
            ("HTTPS://A:8443/x?y#z", Ok((true, "A", 8443, "/x?y"))),
            ("http://[::1]:80?q", Ok((false, "::1", 80, "/?q"))),
            ("http://[::1]", Ok((false, "::1", 80, "/"))),
            ("http://a:/", Ok((false, "a", 80, "/"))),
            ("http://[fe80::1%eth0]/", Ok((false, "fe80::1%eth0", 80, "/"))),
            ("http://[fe80::1%25eth0]:8080/", Ok((false, "fe80::1%eth0", 8080, "/"))),
            ("http://[fe80::1%25]/", Ok((false, "fe80::1%25", 80, "/"))),
            ("https://u:p@w@h/@b", Ok((true, "h", 443, "/@b"))),
            ("ftp://a", Err("its scheme is neither http nor https")),
            ("a:80", Err("it has no http:// or https://")),
            ("http://", Err("it has no host")),
            ("http://:80", Err("it has no host")),
            ("http://a:0", Err("its port is not 1 to 65535")),
            ("http://a:65536", Err("its port is not 1 to 65535")),
            ("http://[::1", Err("its [ has no ]")),
            ("http://[h]", Err("its [] hold no IPv6 address")),
            ("http://[[::1]", Err("its [] hold no IPv6 address")),
            ("http://[::1]x", Err("something follows its ]")),
        ] {
            let got = Url::parse(text);
            let got = got.as_ref().map(|url| (url.tls, &*url.host, url.port, &*url.path));
            assert_eq!(got.map_err(|why| *why), want, "{text}");
        }
    }

    #[test]
    fn joining() {
        let base = Url::parse("http://h:8080/a/b?c").unwrap();
        for (location, want) in [
            ("/x", "http://h:8080/x"),
            ("x?y", "http://h:8080/a/x?y"),
            ("../x", "http://h:8080/x"),
            ("../../x/.", "http://h:8080/x/"),
            ("./", "http://h:8080/a/"),
            ("?q", "http://h:8080/a/b?q"),
            ("#f", "http://h:8080/a/b?c"),
            ("//g/x", "http://g/x"),
            ("https://h/x#f", "https://h/x"),
            ("/x?u=http://elsewhere/", "http://h:8080/x?u=http://elsewhere/"),
            ("/a b", "http://h:8080/a b"),
        ] {
            assert_eq!(base.join(location).unwrap().shown(), want, "{location}");
        }
        for location in ["mailto:a@b", "ftp://h/x", "http://"] {
            assert!(base.join(location).is_err(), "{location}");
        }
    }

    #[test]
    fn hostnames_of_references() {
        let base = Url::parse("http://h:8080/a").unwrap();
        for (location, want) in [
            ("/x?next=http://g/", "h"),
            ("x", "h"),
            ("http://g:99999/", "g"),
            ("//g:1/x", "g"),
            ("ftp://u:p@g/", "g"),
            ("http://[::1]:80/", "::1"),
            ("myapp://callback", "callback"),
            ("mailto:a@b", ""),
            ("http:/x", ""),
        ] {
            assert_eq!(base.host_of(location), want, "{location}");
        }
    }

    #[test]
    fn what_is_sent_and_shown() {
        let url = Url::parse("http://u:secret@[::1]:80/a b?é\r\n").unwrap();
        assert_eq!(url.request_target(), "/a%20b?%C3%A9%0D%0A");
        assert_eq!(url.authority(), "[::1]");
        assert!(!url.shown().contains("secret"));
        let zoned = Url::parse("http://[fe80::1%25eth0]:81/").unwrap();
        assert_eq!((&*zoned.authority(), &*zoned.shown()), ("[fe80::1]:81", "http://[fe80::1%eth0]:81/"));
        assert_eq!(bracketed("fe80::1%25a"), "[fe80::1%2525a]");
        assert_eq!(Url::parse("https://h:80/a?b").unwrap().shown_without_query(), "https://h:80/a");
    }
}
