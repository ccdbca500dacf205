//! Owns which port of ours a bind is for. Must not know the sockets on it.

use std::net::{IpAddr, Ipv6Addr};

use super::at::{At, Want};
use crate::port::spec::Spec;

/// A port of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// As in the spec: 0, or another port than the one claimed after a fallback.
    pub asked: u16,
    /// The port that was claimed.
    pub port: u16,
    /// The address in the spec.
    pub at: At,
}

impl Place {
    pub fn new(spec: &Spec, port: u16) -> Self {
        let ip: IpAddr = spec.addr.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
        Self { asked: spec.port, port, at: At::of(Want { ip, scope_id: 0, v6_only: false }) }
    }
}

/// The position of the place that a bind to `port` is for; `at` overlaps the spec's address. A claimed port takes
/// precedence over a configured one. `held`: whether a port was not released. `had`: whether the app has a socket of
/// the place at this position, so that port 0 means another one.
pub fn leads_to(
    places: &[Option<Place>],
    port: u16,
    at: At,
    held: &dyn Fn(u16) -> bool,
    had: &mut dyn FnMut(usize) -> bool,
) -> Option<usize> {
    let ours = || {
        let places = places.iter().enumerate().filter_map(|(position, place)| Some((position, place.as_ref()?)));
        places.filter(|(_, place)| held(place.port) && place.at.excludes(at))
    };
    let found = if port == 0 {
        ours().find(|(position, place)| place.asked == 0 && !had(*position))
    } else {
        ours().find(|(_, place)| place.port == port).or_else(|| ours().find(|(_, place)| place.asked == port))
    };
    found.map(|(position, _)| position)
}

#[cfg(test)]
mod tests {
    use super::{At, Place, Want, leads_to};

    /// `ASKED`, `ASKED>TAKEN`, `ADDR:ASKED>TAKEN`.
    fn place(text: &str) -> Option<Place> {
        let (spec, taken) = text.split_once('>').map_or((text, None), |(spec, taken)| (spec, Some(taken)));
        let spec: crate::port::spec::Spec = spec.parse().unwrap();
        let taken = taken.map_or(spec.port, |taken| taken.parse().unwrap());
        (spec.protocol == crate::port::spec::Protocol::Tcp).then(|| Place::new(&spec, taken))
    }

    #[test]
    fn which_place_a_bind_is_for() {
        let table: &[(&[&str], &str, u16, Option<usize>)] = &[
            (&["8080"], "0.0.0.0", 8080, Some(0)),
            (&["8080"], "::", 8080, Some(0)),
            (&["8080"], "127.0.0.1", 8080, Some(0)),
            (&["8080"], "::1", 8080, Some(0)),
            (&["8080"], "0.0.0.0", 8081, None),
            (&["8080"], "0.0.0.0", 0, None),
            (&[], "0.0.0.0", 8080, None),
            (&["8080/udp"], "0.0.0.0", 8080, None),
            (&["8080/udp", "8080"], "0.0.0.0", 8080, Some(1)),
            (&["80", "443"], "0.0.0.0", 443, Some(1)),
            // After a fallback, both ports lead to the claimed one. A port that is another spec's belongs to that spec.
            (&["7878>7879"], "0.0.0.0", 7878, Some(0)),
            (&["7878>7879"], "0.0.0.0", 7879, Some(0)),
            (&["80>82", "81>80"], "0.0.0.0", 80, Some(1)),
            (&["80>82", "81>80"], "0.0.0.0", 81, Some(1)),
            (&["80>82", "81>80"], "0.0.0.0", 82, Some(0)),
            // Port 0 is the first configured one that the app does not have yet.
            (&["0>40000"], "0.0.0.0", 0, Some(0)),
            (&["0>40000"], "0.0.0.0", 40_000, Some(0)),
            (&["80", "0>40000", "0>40001"], "::", 0, Some(1)),
            (&["80", "127.0.0.1:0>40000", "[::1]:0>40001"], "::1", 0, Some(2)),
            // One of several addresses; the wildcard is the first of them; any other address does not concern us.
            (&["127.0.0.1:80", "[::1]:80"], "::1", 80, Some(1)),
            (&["127.0.0.1:80", "[::1]:80"], "::", 80, Some(0)),
            (&["127.0.0.1:80", "[::1]:80"], "127.0.0.2", 80, None),
            (&["127.0.0.1:80>81", "[::1]:80"], "127.0.0.1", 80, Some(0)),
            (&["127.0.0.1:80>81", "[::1]:80"], "::1", 80, Some(1)),
            (&["127.0.0.1:80"], "::ffff:127.0.0.1", 80, Some(0)),
            (&["0.0.0.0:80"], "::1", 80, None),
            (&["0.0.0.0:80"], "::", 80, Some(0)),
            (&["[::]:80"], "127.0.0.1", 80, Some(0)),
        ];
        for (places, ip, port, expected) in table {
            let all: Vec<_> = places.iter().map(|text| place(text)).collect();
            let at = At::of(Want { ip: ip.parse().unwrap(), scope_id: 0, v6_only: false });
            assert_eq!(
                leads_to(&all, *port, at, &|_| true, &mut |_| false),
                *expected,
                "{ip}, port {port} with {places:?}"
            );
            assert_eq!(leads_to(&all, *port, at, &|_| false, &mut |_| false), None, "released: {places:?}");
        }
    }

    #[test]
    fn an_app_that_has_a_port_of_ours_and_binds_0_means_another_one() {
        let all = [place("0>40000"), place("0>40001")];
        let at = At::of(Want { ip: "0.0.0.0".parse().unwrap(), scope_id: 0, v6_only: false });
        for (had, expected) in [(&[][..], Some(0)), (&[0], Some(1)), (&[1], Some(0)), (&[0, 1], None)] {
            assert_eq!(leads_to(&all, 0, at, &|_| true, &mut |position| had.contains(&position)), expected, "{had:?}");
            // A port number other than 0 does not call `had`.
            assert_eq!(leads_to(&all, 40_001, at, &|_| true, &mut |position| had.contains(&position)), Some(1));
        }
    }
}
