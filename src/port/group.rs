//! Owns the names of the places where instances that share a port meet, and which of them exist here. Must not know what is said there.

use super::spec::{Protocol, Spec};

/// The groups that have a meeting point for this port in our network, by `/proc/net/unix` (`unix(7)`: abstract names begin with `@` there).
pub fn groups(spec: &Spec) -> Vec<String> {
    groups_in(&std::fs::read_to_string("/proc/net/unix").unwrap_or_default(), spec)
}

/// Every meeting point in our network: the group, the protocol and the port, each once.
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
        // What an asker's own connection is called is the same name; a group is told once.
        Some(place.trim_end_matches('@').strip_suffix(&end)?.to_owned()).filter(|name| !name.is_empty())
    };
    let mut names: Vec<String> = text.lines().filter_map(name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The abstract name at which those of a group who have this port are met: one for each port, so that instances with unlike ports find each
/// other.
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
