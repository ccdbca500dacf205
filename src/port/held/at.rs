//! Owns what can be computed about the sockets on one port without a system call: where each is bound, which exclude
//! each other, and how to serve a bind. Must not know the sockets themselves.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::port::holder::sockets::{self, Reach};

/// What an app passes to bind(2), without the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Its family is that of the app's socket: an IPv4-mapped address is IPv6.
    pub ip: IpAddr,
    /// `sin6_scope_id`: an interface. 0 for IPv4.
    pub scope_id: u32,
    /// `IPV6_V6ONLY` of the app's socket. False for IPv4.
    pub v6_only: bool,
}

/// Where a socket is bound, without the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At(Want);

impl At {
    /// What the kernel makes of it (`__inet6_bind` in net/ipv6/af_inet6.c): a scope counts for link-local addresses
    /// only, and an address that is neither the wildcard nor mapped is IPv6-only, whatever the option says.
    pub fn of(want: Want) -> Self {
        let IpAddr::V6(ip) = want.ip else {
            return Self(Want { scope_id: 0, v6_only: false, ..want });
        };
        let scope_id = if ip.is_unicast_link_local() { want.scope_id } else { 0 };
        let v6_only = want.v6_only || !(ip.is_unspecified() || ip.to_ipv4_mapped().is_some());
        Self(Want { scope_id, v6_only, ..want })
    }

    /// The IPv6 wildcard without IPv4.
    fn without_v4(self) -> Self {
        Self(Want { v6_only: true, ..self.0 })
    }

    pub fn v6_only(self) -> bool {
        self.0.v6_only
    }

    pub fn with_port(self, port: u16) -> SocketAddr {
        match self.0.ip {
            IpAddr::V4(ip) => SocketAddrV4::new(ip, port).into(),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.0.scope_id).into(),
        }
    }

    pub fn reach(self) -> Reach {
        sockets::reach(self.0.ip, self.0.v6_only)
    }

    /// True if only one of the two may listen.
    pub fn excludes(self, other: Self) -> bool {
        let scopes = (self.0.scope_id, other.0.scope_id);
        let apart = scopes.0 != scopes.1 && scopes.0 != 0 && scopes.1 != 0;
        !apart && sockets::overlap(self.reach(), other.reach())
    }

    /// True if every client that reaches `other` would reach this one instead.
    fn covers(self, other: Self) -> bool {
        self.covers_v4(other) && self.covers_v6(other)
    }

    fn covers_v4(self, other: Self) -> bool {
        other.reach().0.is_none_or(|asked| self.reach().0.is_some_and(|own| own.is_unspecified() || own == asked))
    }

    fn covers_v6(self, other: Self) -> bool {
        other.reach().1.is_none_or(|asked| {
            self.reach()
                .1
                .is_some_and(|own| own.is_unspecified() || own == asked && self.0.scope_id == other.0.scope_id)
        })
    }
}

/// The role of one of our sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It keeps the port from other processes, and does not listen.
    Silent,
    /// It listens, and the app was not given it yet.
    Ready,
    /// The app was given it.
    Given,
}

/// What to do for an app that binds an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Use the socket at this position.
    Take(usize),
    /// Create a new one there. The sockets at these positions are in the way, if the bind fails.
    Make(At, Vec<usize>),
    /// The app itself has a socket that excludes it: what bind(2) would return.
    InUse,
}

/// Plans for `at`; `there` are the sockets on the port. `has` returns whether the app still has the one at a position,
/// and is called for given sockets that are in the way.
pub fn plan(at: At, there: &[(At, Role)], has: &mut dyn FnMut(usize) -> bool) -> Plan {
    let listening = || there.iter().enumerate().filter(|(_, (_, role))| *role != Role::Silent);
    if let Some((same, _)) = listening().find(|(_, (other, _))| *other == at) {
        return Plan::Take(same);
    }
    let in_the_way = listening().filter(|(_, (other, _))| other.excludes(at));
    let (kept, aside): (Vec<_>, Vec<_>) =
        in_the_way.partition(|(position, (_, role))| *role == Role::Given && has(*position));
    if kept.is_empty() {
        return Plan::Make(at, aside.into_iter().map(|(position, _)| position).collect());
    }
    if let Some((covering, _)) = kept.iter().find(|(_, (other, _))| other.covers(at)) {
        return Plan::Take(*covering);
    }
    // An app that has IPv4 separately and now binds both means IPv6, as if it had set IPV6_V6ONLY.
    let dual = at.reach().0.is_some() && at.reach().1.is_some();
    if dual && kept.iter().any(|(_, (other, _))| other.covers_v4(at)) {
        return plan(at.without_v4(), there, has);
    }
    Plan::InUse
}

/// The same if the sockets are shared: the same address, else one that covers it, else any.
pub fn plan_shared(at: At, there: &[(At, Role)]) -> Plan {
    let find = |fits: &dyn Fn(At) -> bool| there.iter().position(|(other, _)| fits(*other));
    let found = find(&|other| other == at).or_else(|| find(&|other| other.covers(at))).or_else(|| find(&|_| true));
    found.map_or(Plan::InUse, Plan::Take)
}

/// True if a silent socket at `at` keeps nothing from other processes that the listeners do not keep.
pub fn is_redundant(at: At, there: &[(At, Role)]) -> bool {
    let mut listening = there.iter().filter(|(_, role)| *role != Role::Silent).map(|(other, _)| *other);
    listening.clone().any(|other| other.covers_v4(at)) && listening.any(|other| other.covers_v6(at))
}

#[cfg(test)]
mod tests {
    use super::{At, Plan, Role, Want, is_redundant, plan};

    /// `0.0.0.0`, `::` (both families), `::|6` (IPv6 only), `fe80::1%2`.
    fn at(text: &str) -> At {
        let (text, v6_only) = text.strip_suffix("|6").map_or((text, false), |text| (text, true));
        let (ip, scope) = text.split_once('%').unwrap_or((text, "0"));
        At::of(Want { ip: ip.parse().unwrap(), scope_id: scope.parse().unwrap(), v6_only })
    }

    /// `-` silent, `+` ready, `!` given and still open, `?` given and closed by the app.
    fn plan_for(wanted: &str, there: &[&str]) -> String {
        let role = |mark: &str| match mark {
            "-" => Role::Silent,
            "+" => Role::Ready,
            _ => Role::Given,
        };
        let sockets: Vec<(At, Role)> = there.iter().map(|text| (at(&text[1..]), role(&text[..1]))).collect();
        match plan(at(wanted), &sockets, &mut |position| there[position].starts_with('!')) {
            Plan::Take(position) => format!("take {}", &there[position][1..]),
            Plan::Make(made, aside) if aside.is_empty() => format!("make {}", shown(made)),
            Plan::Make(made, aside) => {
                let aside: Vec<&str> = aside.into_iter().map(|position| &there[position][1..]).collect();
                format!("make {} after {}", shown(made), aside.join(" "))
            }
            Plan::InUse => "in use".to_owned(),
        }
    }

    fn shown(at: At) -> String {
        let mark = if at.0.ip.is_ipv6() && at.0.ip.is_unspecified() && at.v6_only() { "|6" } else { "" };
        let scope = if at.0.scope_id == 0 { String::new() } else { format!("%{}", at.0.scope_id) };
        format!("{}{scope}{mark}", at.0.ip)
    }

    #[test]
    fn plans_for_a_bind() {
        let table: &[(&str, &[&str], &str)] = &[
            // A port held without listening.
            ("0.0.0.0", &["-::"], "make 0.0.0.0"),
            ("::", &["-::"], "make ::"),
            ("::|6", &["-::"], "make ::|6"),
            ("127.0.0.1", &["-0.0.0.0"], "make 127.0.0.1"),
            // The same address again: given or not, still open or not.
            ("0.0.0.0", &["+0.0.0.0"], "take 0.0.0.0"),
            ("0.0.0.0", &["-::", "!0.0.0.0"], "take 0.0.0.0"),
            ("0.0.0.0", &["?0.0.0.0"], "take 0.0.0.0"),
            ("::1", &["!::1"], "take ::1"),
            ("::1|6", &["!::1"], "take ::1"),
            ("::ffff:127.0.0.1", &["!::ffff:127.0.0.1"], "take ::ffff:127.0.0.1"),
            // Not the same address: another family, or with IPv4 instead of without.
            ("::", &["+::|6"], "make :: after ::|6"),
            ("::|6", &["+::"], "make ::|6 after ::"),
            ("::ffff:127.0.0.1", &["+127.0.0.1"], "make ::ffff:127.0.0.1 after 127.0.0.1"),
            // A listener that was never given, or was closed, makes room.
            ("127.0.0.1", &["+0.0.0.0"], "make 127.0.0.1 after 0.0.0.0"),
            ("0.0.0.0", &["+::"], "make 0.0.0.0 after ::"),
            ("::", &["?0.0.0.0", "?::|6"], "make :: after 0.0.0.0 ::|6"),
            ("0.0.0.0", &["+127.0.0.1", "+127.0.0.2", "+::1"], "make 0.0.0.0 after 127.0.0.1 127.0.0.2"),
            // Sockets that are not in the way.
            ("::|6", &["!0.0.0.0"], "make ::|6"),
            ("::1", &["!0.0.0.0"], "make ::1"),
            ("127.0.0.2", &["!127.0.0.1"], "make 127.0.0.2"),
            ("fe80::1%2", &["!fe80::1%3"], "make fe80::1%2"),
            ("fe80::1%2", &["!0.0.0.0"], "make fe80::1%2"),
            // The app has a socket that covers it.
            ("127.0.0.1", &["!0.0.0.0"], "take 0.0.0.0"),
            ("0.0.0.0", &["!::"], "take ::"),
            ("::|6", &["!::"], "take ::"),
            ("127.0.0.1", &["!::"], "take ::"),
            ("::1", &["!::|6", "!0.0.0.0"], "take ::|6"),
            ("fe80::1%2", &["!::|6"], "take ::|6"),
            ("::ffff:127.0.0.1", &["!0.0.0.0"], "take 0.0.0.0"),
            ("127.0.0.1", &["!::ffff:0.0.0.0"], "take ::ffff:0.0.0.0"),
            // Both families, one of which the app has.
            ("::", &["!0.0.0.0"], "make ::|6"),
            ("::", &["!0.0.0.0", "+::1"], "make ::|6 after ::1"),
            ("::", &["!0.0.0.0", "!::|6"], "take ::|6"),
            ("::", &["!0.0.0.0", "!::1"], "in use"),
            // Conflicts with the app's own sockets.
            ("0.0.0.0", &["!127.0.0.1"], "in use"),
            ("::", &["!127.0.0.1"], "in use"),
            ("::", &["!::|6"], "in use"),
            ("::", &["!::1"], "in use"),
        ];
        for (wanted, there, expected) in table {
            assert_eq!(&plan_for(wanted, there), expected, "{wanted} with {there:?}");
        }
    }

    #[test]
    fn when_a_silent_socket_is_redundant() {
        let table: &[(&str, &[&str], bool)] = &[
            ("::", &["!::"], true),
            ("::", &["!0.0.0.0"], false),
            ("::", &["!::|6"], false),
            ("::", &["!0.0.0.0", "!::|6"], true),
            ("::", &["!127.0.0.1", "!::|6"], false),
            ("::", &["!0.0.0.0", "-::|6"], false),
            ("0.0.0.0", &["!127.0.0.1"], false),
            ("0.0.0.0", &["!::"], true),
            ("127.0.0.1", &["+0.0.0.0"], true),
            ("::", &["!::ffff:0.0.0.0", "!::|6"], true),
        ];
        for (silent, there, expected) in table {
            let role = |text: &str| if text.starts_with('-') { Role::Silent } else { Role::Given };
            let sockets: Vec<(At, Role)> = there.iter().map(|text| (at(&text[1..]), role(text))).collect();
            assert_eq!(is_redundant(at(silent), &sockets), *expected, "{silent} with {there:?}");
        }
    }
}
