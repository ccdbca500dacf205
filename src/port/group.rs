//! Owns the names of meeting points, where instances that share a port connect, and which of them exist. Must not know
//! the protocol.

use super::spec::{Protocol, Spec};

/// The groups with a meeting point for this port in our network namespace (`/proc/net/unix`; abstract names begin with
/// `@` there).
pub fn groups(spec: &Spec) -> Vec<String> {
    groups_in(&std::fs::read_to_string("/proc/net/unix").unwrap_or_default(), spec)
}

/// Every meeting point in our network namespace: the group, the protocol and the port, each once.
pub fn all() -> Vec<(String, &'static str, u16)> {
    all_in(&std::fs::read_to_string("/proc/net/unix").unwrap_or_default())
}

fn all_in(text: &str) -> Vec<(String, &'static str, u16)> {
    let place = |line: &str| {
        let (_, place) = line.rsplit_once(" @reberth/share/")?;
        let mut parts = place.trim_end_matches('@').split('/');
        let (name, protocol, port) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
        let protocol = [Protocol::Tcp, Protocol::Udp].map(Protocol::name).into_iter().find(|name| *name == protocol)?;
        Some((name.to_owned(), protocol, port)).filter(|_| !name.is_empty() && parts.next().is_none())
    };
    let mut places: Vec<_> = text.lines().filter_map(place).collect();
    places.sort_unstable();
    places.dedup();
    places
}

fn groups_in(text: &str, spec: &Spec) -> Vec<String> {
    let end = format!("/{}/{}", spec.protocol.name(), spec.port);
    let name = |line: &str| {
        let (_, place) = line.rsplit_once(" @reberth/share/")?;
        // A requester's connection has the same name; each group is listed once.
        Some(place.trim_end_matches('@').strip_suffix(&end)?.to_owned()).filter(|name| !name.is_empty())
    };
    let mut names: Vec<String> = text.lines().filter_map(name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The abstract name of the meeting point for this port of a group. Each port has one, so that instances with different
/// sets of ports find each other.
pub fn place(name: &str, spec: &Spec) -> Vec<u8> {
    format!("reberth/share/{name}/{}/{}", spec.protocol.name(), spec.port).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_from_the_list_of_unix_sockets() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                    0000: 00000002 00000000 00010000 0005 01 11 @reberth/share/api/tcp/8080\n\
                    0000: 00000003 00000000 00000000 0005 03 12 @reberth/share/api/tcp/8080\n\
                    0000: 00000002 00000000 00010000 0005 01 13 @reberth/share/web/tcp/8081\n\
                    0000: 00000002 00000000 00010000 0001 01 14 /run/x/tcp/8080\n\
                    0000: 00000003 00000000 00000000 0001 03 15\n";
        let of = |spec: &str| groups_in(text, &spec.parse().unwrap());
        assert_eq!(of("8080"), ["api"]);
        assert_eq!(of("8081"), ["web"]);
        let all = [("api".to_owned(), "tcp", 8080), ("web".to_owned(), "tcp", 8081)];
        assert_eq!(all_in(text), all);
        assert_eq!(of("8080/udp"), [""; 0]);
        assert_eq!(of("80"), [""; 0]);
    }
}
