//! Owns the requests to one etcd cluster through its JSON gateway (`/v3/lease/grant` and so on). Must not know when a
//! request is made, or why.
//!
//! Blocking, and therefore only for the process beside PID 1. It starts no thread: ureq would start one to resolve a
//! name with a timeout, so `sys::lookup` does that.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::entry::Entry;
use super::machine::{Act, Answer};
use super::place::{Credentials, Registry, authority};
use crate::error::words;
use crate::setting::value::shown;
use crate::sys::lookup;

/// More than any answer has.
const MAX_ANSWER: u64 = 64 * 1024;

/// gRPC status codes, as the gateway returns them.
const NOT_FOUND: i64 = 5;
const UNAVAILABLE: i64 = 14;
const UNAUTHENTICATED: i64 = 16;

/// One cluster.
pub struct Cluster<'a> {
    registry: &'a Registry,
    credentials: &'a Credentials,
    ttl: Duration,
    /// Timeout of one request to one member.
    limit: Duration,
    agent: Option<Agent>,
    /// The member that answered last.
    first: usize,
    token: Option<String>,
}

/// Why a request failed.
#[derive(Debug)]
enum Broken {
    /// This member did not answer; another one may.
    Unavailable(String),
    Refused {
        code: i64,
        why: String,
    },
}

impl<'a> Cluster<'a> {
    pub fn new(registry: &'a Registry, credentials: &'a Credentials, ttl: Duration) -> Self {
        let members = u32::try_from(registry.endpoints.len()).unwrap_or(u32::MAX).max(1);
        // A lease is renewed every third of its TTL: all members must be tried before it expires.
        let limit = (ttl / 3 / members).clamp(Duration::from_millis(500), Duration::from_secs(5));
        Self { registry, credentials, ttl, limit, agent: None, first: 0, token: None }
    }

    /// Makes the request for `act`.
    pub fn perform(&mut self, act: Act, entry: &Entry) -> Answer {
        let asked = match act {
            Act::Grant => self.ask("lease/grant", &json!({"TTL": self.ttl.as_secs().to_string(), "ID": "0"})),
            Act::Put(lease) => self.put(lease, entry),
            Act::Renew(lease) => self.ask("lease/keepalive", &json!({"ID": lease.to_string()})),
            Act::Revoke(lease) => self.ask("lease/revoke", &json!({"ID": lease.to_string()})),
        };
        match (act, asked) {
            (_, Err(Broken::Refused { code: NOT_FOUND, .. })) => Answer::Unknown,
            (_, Err(Broken::Refused { why, .. } | Broken::Unavailable(why))) => Answer::Failed(why),
            (Act::Grant, Ok(answer)) => number(answer.get("ID"))
                .filter(|id| *id != 0)
                .map_or_else(|| Answer::Failed(self.unexpected()), Answer::Granted),
            // An unknown lease has no time left. The answer is one message of a stream.
            (Act::Renew(_), Ok(answer)) => match answer.get("result").map(|result| number(result.get("TTL"))) {
                Some(Some(1..)) => Answer::Done,
                Some(_) => Answer::Unknown,
                None => Answer::Failed(self.unexpected()),
            },
            (_, Ok(_)) => Answer::Done,
        }
    }

    /// An error that names the member that answered last.
    fn unexpected(&self) -> String {
        let member = self.registry.endpoints.get(self.first).map(|(host, port)| authority(host, *port));
        format!("{}: answers, but not as an etcd does", member.unwrap_or_default())
    }

    /// The app's host in the entry.
    pub fn address(&self, entry: &Entry) -> Result<String, String> {
        match &entry.host {
            Some(host) => Ok(host.clone()),
            None => self.local_address(),
        }
    }

    fn put(&mut self, lease: u64, entry: &Entry) -> Result<Value, Broken> {
        let host = self.address(entry).map_err(Broken::Unavailable)?;
        let encoded = |text: String| STANDARD.encode(text);
        let (key, text) = (encoded(entry.key(&self.registry.prefix)), encoded(entry.text(&host)));
        self.ask("kv/put", &json!({"key": key, "value": text, "lease": lease.to_string()}))
    }

    /// The local address of the route to the member that answered last. Connecting a UDP socket sends nothing.
    fn local_address(&self) -> Result<String, String> {
        let (host, port) = self.registry.endpoints.get(self.first).ok_or("no member")?;
        let mut why = format!("{host}: no address");
        for there in addresses(host, *port, Instant::now() + self.limit)? {
            let any: SocketAddr = if there.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
            let found = UdpSocket::bind(any).and_then(|socket| {
                socket.connect(there)?;
                socket.local_addr()
            });
            match found {
                Ok(found) => return Ok(found.ip().to_string()),
                Err(error) => why = format!("{there}: {}", words(&error)),
            }
        }
        Err(why)
    }

    /// Tries the members in turn, starting with the one that answered last. A repeated request is harmless: an extra
    /// lease expires.
    fn ask(&mut self, path: &str, body: &Value) -> Result<Value, Broken> {
        let (count, first) = (self.registry.endpoints.len(), self.first);
        let mut last = Broken::Unavailable("no member".into());
        for at in (0..count).map(|step| (first + step) % count) {
            match self.ask_member(at, path, body) {
                Err(Broken::Unavailable(why)) => last = Broken::Unavailable(why),
                answer => {
                    self.first = at;
                    return answer;
                }
            }
        }
        // Connections, certificates and tokens may be outdated.
        (self.agent, self.token) = (None, None);
        Err(last)
    }

    fn ask_member(&mut self, at: usize, path: &str, body: &Value) -> Result<Value, Broken> {
        let answer = self.ask_with_token(at, path, body);
        let refused = |code: i64| matches!(&answer, Err(Broken::Refused { code: told, .. }) if *told == code);
        if self.token.is_some() && refused(UNAUTHENTICATED) {
            // Tokens expire after five minutes, and are lost with their member.
            self.token = None;
            return self.ask_with_token(at, path, body);
        }
        answer
    }

    fn ask_with_token(&mut self, at: usize, path: &str, body: &Value) -> Result<Value, Broken> {
        if let (None, Some((name, password))) = (&self.token, &self.credentials.user) {
            match self.post(at, "auth/authenticate", &json!({"name": name, "password": password})) {
                Ok(answer) => self.token = answer.get("token").and_then(Value::as_str).map(Into::into),
                // Ignored, as etcdctl does.
                Err(Broken::Refused { why, .. }) if why.contains("authentication is not enabled") => {}
                Err(Broken::Refused { code, why }) => {
                    return Err(Broken::Refused { code, why: format!("{why}; check ETCDCTL_USER") });
                }
                Err(silent) => return Err(silent),
            }
        }
        self.post(at, path, body)
    }

    fn post(&mut self, at: usize, path: &str, body: &Value) -> Result<Value, Broken> {
        let Some((host, port)) = self.registry.endpoints.get(at) else {
            return Err(Broken::Unavailable("no member".into()));
        };
        let member = authority(host, *port);
        let silent = |why: String| Broken::Unavailable(format!("{member}: {why}"));
        let scheme = if self.registry.tls { "https" } else { "http" };
        let agent = match &self.agent {
            Some(agent) => agent.clone(),
            None => {
                let made = agent(self.registry.tls, self.credentials, self.limit).map_err(Broken::Unavailable)?;
                self.agent.insert(made).clone()
            }
        };
        let ask = || {
            let request =
                agent.post(format!("{scheme}://{member}/v3/{path}")).header("content-type", "application/json");
            let request = match &self.token {
                Some(token) => request.header("authorization", token),
                None => request,
            };
            let mut response = request.send(body.to_string())?;
            let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_string()?;
            Ok((response.status().as_u16(), text))
        };
        let answer = match ask() {
            // A connection kept from the last request, which the member has closed since.
            Err(error) if !matches!(error, ureq::Error::Timeout(_)) => ask(),
            answer => answer,
        };
        let (status, text) = answer.map_err(|error| silent(reason(&error, self.limit)))?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let refused = answer.get("error").or_else(|| answer.get("code"));
        if status == 200 && refused.is_none() {
            return Ok(answer);
        }
        // The gateway's format: {"error": …, "code": …}, one level deeper in a stream.
        let told = answer.get("error").filter(|error| error.is_object()).unwrap_or(&answer);
        let code = told.get("code").or_else(|| told.get("grpc_code")).and_then(Value::as_i64).unwrap_or(0);
        let why = told.get("message").or_else(|| told.get("error")).and_then(Value::as_str);
        let why = why.map_or_else(
            || match status {
                404 => "status 404: there is no JSON gateway, which an etcd has at /v3 from 3.4 on".to_owned(),
                _ => format!("status {status}"),
            },
            shown_words,
        );
        if why.contains("user name is empty") {
            return Err(Broken::Refused { code, why: format!("{member}: {why}; set ETCDCTL_USER=USER:PASSWORD") });
        }
        if code == UNAVAILABLE || status >= 500 && code == 0 {
            return Err(silent(why));
        }
        Err(Broken::Refused { code, why: format!("{member}: {why}") })
    }
}

/// A server's error message, truncated, without characters that would break a log line.
fn shown_words(text: &str) -> String {
    shown(text).trim_matches('"').to_owned()
}

/// etcd encodes 64-bit numbers as strings.
fn number(value: Option<&Value>) -> Option<u64> {
    let value = value?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn reason(error: &ureq::Error, limit: Duration) -> String {
    match error {
        ureq::Error::Timeout(_) => format!("no answer within {limit:?}"),
        ureq::Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => {
            "the connection was closed before the whole answer".into()
        }
        ureq::Error::Io(error) => words(error),
        // Our own error, from resolving the name.
        ureq::Error::Other(why) => shown_words(&why.to_string()),
        ureq::Error::HostNotFound => "no such host".into(),
        other => shown_words(&other.to_string()),
    }
}

fn agent(tls: bool, credentials: &Credentials, limit: Duration) -> Result<Agent, String> {
    let config = Config::builder()
        .proxy(None)
        .max_redirects(0)
        .http_status_as_error(false)
        .user_agent(concat!("reberth/", env!("CARGO_PKG_VERSION")))
        .timeout_global(Some(limit));
    #[cfg(feature = "tls")]
    let config = if tls { config.tls_config(tls::config(credentials)?) } else { config };
    #[cfg(not(feature = "tls"))]
    let _ = (tls, credentials);
    Ok(Agent::with_parts(config.build(), DefaultConnector::default(), Names { limit }))
}

/// Resolves host names.
#[derive(Debug)]
struct Names {
    limit: Duration,
}

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or_default();
        let found = addresses(host, port, Instant::now() + self.limit).map_err(|why| ureq::Error::Other(why.into()))?;
        let mut all = self.empty();
        // The array holds no more than these.
        found.into_iter().take(8).for_each(|address| all.push(address));
        if all.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(all) }
    }
}

fn addresses(host: &str, port: u16, end: Instant) -> Result<Vec<SocketAddr>, String> {
    let found = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => lookup::addresses(host, end).map_err(|failed| match failed {
            lookup::Failed::Timeout => "the name server does not answer".to_owned(),
            lookup::Failed::Error(why) => why,
        })?,
    };
    Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect())
}

#[cfg(feature = "tls")]
mod tls {
    //! Owns which certificates a connection trusts and presents. The files are read for each new agent, because
    //! certificates are renewed.

    use std::path::Path;
    use std::sync::Arc;

    use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

    use super::super::place::Credentials;
    use crate::error::words;

    pub fn config(credentials: &Credentials) -> Result<TlsConfig, String> {
        let roots = match &credentials.ca {
            Some(path) => certificates("ETCDCTL_CACERT", path)?,
            None => {
                let found = rustls_native_certs::load_native_certs().certs;
                if found.is_empty() {
                    return Err(
                        "there is no store of certificates here: name the registry's authority with ETCDCTL_CACERT"
                            .into(),
                    );
                }
                found.iter().map(|one| Certificate::from_der(one).to_owned()).collect()
            }
        };
        let client = match (&credentials.cert, &credentials.key) {
            (Some(cert), Some(key)) => {
                let pem = read("ETCDCTL_KEY", key)?;
                let private = PrivateKey::from_pem(&pem)
                    .map_err(|_| format!("ETCDCTL_KEY={}: has no private key in PEM", key.display()))?;
                Some(ClientCert::new_with_certs(&certificates("ETCDCTL_CERT", cert)?, private))
            }
            _ => None,
        };
        Ok(TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&roots))
            .client_cert(client)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build())
    }

    fn read(variable: &str, path: &Path) -> Result<Vec<u8>, String> {
        std::fs::read(path).map_err(|error| format!("{variable}={}: cannot be read: {}", path.display(), words(&error)))
    }

    fn certificates(variable: &str, path: &Path) -> Result<Vec<Certificate<'static>>, String> {
        let pem = read(variable, path)?;
        let found = parse_pem(&pem).filter_map(|item| match item {
            Ok(PemItem::Certificate(one)) => Some(one),
            _ => None,
        });
        let found: Vec<_> = found.collect();
        if found.is_empty() {
            return Err(format!("{variable}={}: has no certificate in PEM", path.display()));
        }
        Ok(found)
    }
}
