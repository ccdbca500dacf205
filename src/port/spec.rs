//! Owns the port spec `[NAME=][ADDR:]PORT[/udp]`: its type and its text form. Must not know sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The transport a port belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// Lower case, as in `/etc/services`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port to claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// `[a-z][a-z0-9-]{0,14}`
    pub name: Option<String>,
    /// `None`: the wildcard on both families.
    pub addr: Option<IpAddr>,
    /// 0: any free port.
    pub port: u16,
    pub protocol: Protocol,
}

impl Spec {
    /// The same spec on another port.
    pub fn with_port(&self, port: u16) -> Self {
        Self { port, ..self.clone() }
    }

    /// The addresses to try to bind, best first: `[::]` (dual-stack) and then `0.0.0.0` for a wildcard.
    pub fn candidates(&self) -> Vec<SocketAddr> {
        match self.addr {
            Some(addr) => vec![SocketAddr::new(addr, self.port)],
            None => vec![
                SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.port),
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), self.port),
            ],
        }
    }
}
