//! Owns the entry: its key and its text, in the format that etcd's own naming client reads (clientv3/naming/endpoints:
//! a JSON object with `Op`, `Addr` and `Metadata`). Pure. Must not know how it gets into a registry.
//!
//! In that format `Metadata` may be any JSON, but an object crashes the client: grpc-go compares addresses with `==` or
//! uses them as map keys, and Go panics if an interface value holds a map. So ours is an object encoded as a string,
//! which is comparable.

use serde_json::{Map, Value};

use super::place::{Register, authority};
use crate::state::State;

/// The entry of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub instance: String,
    /// `None`: the local address of the route to the registry.
    pub host: Option<String>,
    pub port: u16,
    metadata: Map<String, Value>,
}

impl Entry {
    /// The entry of an app in this state on this host; `None`: it has no port, or the port is not known.
    pub fn new(register: &Register, state: &State, hostname: &str) -> Option<Self> {
        let primary = state.ports.first().filter(|primary| primary.port != 0)?;
        let instance = format!("{}-{}", segment(hostname), primary.port);
        let own = primary.addr.filter(|addr| !addr.is_unspecified() && !addr.is_loopback());
        let advertise = register.advertise.as_ref();
        let mut ports = Map::new();
        for port in &state.ports {
            let name = port.name.clone().unwrap_or_else(|| port.asked.to_string());
            ports.insert(name, port.port.into());
        }
        let mut metadata = Map::new();
        metadata.insert("instance".into(), instance.clone().into());
        metadata.insert("ports".into(), ports.into());
        metadata.extend(register.metadata.iter().map(|(key, value)| (key.clone(), value.clone().into())));
        Some(Self {
            instance,
            host: advertise.map(|told| told.host.clone()).or_else(|| own.map(|addr| addr.to_string())),
            port: advertise.and_then(|told| told.port).unwrap_or(primary.port),
            metadata,
        })
    }

    pub fn key(&self, prefix: &str) -> String {
        format!("{prefix}/{}", self.instance)
    }

    /// The address in the entry, with this host.
    pub fn address(&self, host: &str) -> String {
        authority(host, self.port)
    }

    pub fn text(&self, host: &str) -> String {
        let mut object = Map::new();
        object.insert("Op".into(), 0.into());
        object.insert("Addr".into(), self.address(host).into());
        object.insert("Metadata".into(), Value::from(self.metadata.clone()).to_string().into());
        Value::from(object).to_string()
    }
}

/// A host name as one segment of a path.
fn segment(hostname: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() && c != '/' { c } else { '-' };
    let name: String = hostname.chars().map(plain).collect();
    if name.is_empty() { "localhost".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::spec;
    use crate::register::place::{Advertise, Credentials};
    use crate::state::{Phase, PortState};

    fn entry(specs: &str, taken: u16, advertise: Option<Advertise>) -> Option<Entry> {
        let register = Register {
            registries: Vec::new(),
            advertise,
            metadata: vec![("zone".into(), "b\"c".into())],
            ttl: std::time::Duration::from_secs(15),
            credentials: Credentials::default(),
        };
        let specs = spec::list(specs).unwrap();
        let ports =
            specs.iter().enumerate().map(|(at, spec)| PortState::new(spec, if at == 0 { taken } else { spec.port }));
        let state = State {
            phase: Phase::Ready,
            ports: ports.collect(),
            health: None,
            liveness: None,
            app_pid: None,
            shared: false,
        };
        Entry::new(&register, &state, "no/de")
    }

    #[test]
    fn the_text_is_what_etcds_resolver_reads() {
        let entry = entry("http=8080,9090", 8081, None).unwrap();
        assert_eq!(entry.key("services/api"), "services/api/no-de-8081");
        let value: Value = serde_json::from_str(&entry.text("fd00::7")).unwrap();
        // endpoints.go: Op 0 is Add; Addr is the address that a client dials.
        assert_eq!((&value["Op"], &value["Addr"]), (&0.into(), &"[fd00::7]:8081".into()));
        let wanted =
            serde_json::json!({"instance": "no-de-8081", "ports": {"http": 8081, "9090": 9090}, "zone": "b\"c"});
        // A string makes no client panic.
        let metadata: Value = serde_json::from_str(value["Metadata"].as_str().unwrap()).unwrap();
        assert_eq!(metadata, wanted);
    }

    #[test]
    fn which_address_is_announced() {
        let told = |host: &str, port| Some(Advertise { host: host.into(), port });
        for (specs, advertise, host, port) in [
            ("80", None, None, 81),
            ("0.0.0.0:80", None, None, 81),
            ("127.0.0.1:80", None, None, 81),
            ("10.1.2.3:80", None, Some("10.1.2.3"), 81),
            ("10.1.2.3:80", told("a", None), Some("a"), 81),
            ("80", told("a", Some(9)), Some("a"), 9),
        ] {
            let entry = entry(specs, 81, advertise).unwrap();
            assert_eq!((entry.host.as_deref(), entry.port), (host, port), "{specs}");
        }
        assert_eq!(entry("0", 0, None), None);
    }
}
