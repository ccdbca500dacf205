//! Owns the environment of the app: the inherited one, byte for byte, and the variables that reberth sets. Must not know how a port is
//! claimed, or how the app is launched.

use std::ffi::OsString;

use super::app_port::AppPort;

/// An environment, byte for byte and in order.
pub type Environment = Vec<(OsString, OsString)>;

/// Placeholder for the app's pid, which is known only after the fork. It is overwritten in place; a shorter pid is terminated with a zero
/// byte. Padding with zeros would be wrong: systemd's reader (`strtoul`, base 0) would take such a number for octal.
pub const PID_PLACEHOLDER: &str = "0000000000";

/// The environment of the app: `PORT` (the primary port, if there is one), `PORT_<NAME>` for each named port, and, if sockets are passed,
/// `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` (sd_listen_fds(3)). A variable that exists is replaced in its place.
///
/// `passed`: a name for each descriptor from 3 on; `None`: no sockets are passed.
pub fn build(inherited: &[(OsString, OsString)], ports: &[AppPort], passed: Option<&[String]>) -> Environment {
    let mut environment = inherited.to_vec();
    if let Some(primary) = ports.first() {
        set(&mut environment, "PORT", &primary.port.to_string());
    }
    for port in ports {
        if let Some(name) = &port.name {
            let variable = format!("PORT_{}", name.to_ascii_uppercase().replace('-', "_"));
            set(&mut environment, &variable, &port.port.to_string());
        }
    }
    if let Some(names) = passed {
        set(&mut environment, "LISTEN_FDS", &names.len().to_string());
        set(&mut environment, "LISTEN_FDNAMES", &names.join(":"));
        set(&mut environment, "LISTEN_PID", PID_PLACEHOLDER);
    }
    environment
}

/// Sets one variable and removes its duplicates: which of two the app sees depends on its language.
fn set(environment: &mut Environment, name: &str, value: &str) {
    match environment.iter().position(|(known, _)| known == name) {
        Some(first) => {
            if let Some(entry) = environment.get_mut(first) {
                entry.1 = value.into();
            }
            let mut index = 0;
            environment.retain(|(known, _)| {
                index += 1;
                known != name || index - 1 == first
            });
        }
        None => environment.push((name.into(), value.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn app_port(name: Option<&str>, port: u16) -> AppPort {
        AppPort { name: name.map(Into::into), addr: None, port, fd: None }
    }

    #[test]
    fn environment_is_inherited_byte_for_byte() {
        let raw = (OsString::from_vec(b"\xff".to_vec()), OsString::from_vec(b"\xfe=\n".to_vec()));
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let inherited = [
            pair("A", "1"),
            pair("PORT", "x"),
            raw.clone(),
            pair("A", "2"),
            pair("PORT", "y"),
            pair("LISTEN_PID", "1"),
            pair("E", ""),
        ];
        assert_eq!(build(&inherited, &[], None), inherited);

        let ports = [app_port(Some("web-1"), 8080), app_port(None, 81)];
        let got = build(&inherited, &ports, Some(&["web-1".into(), "81".into()]));
        let want = [
            pair("A", "1"),
            pair("PORT", "8080"),
            raw,
            pair("A", "2"),
            pair("LISTEN_PID", PID_PLACEHOLDER),
            pair("E", ""),
            pair("PORT_WEB_1", "8080"),
            pair("LISTEN_FDS", "2"),
            pair("LISTEN_FDNAMES", "web-1:81"),
        ];
        assert_eq!(got, want);
    }
}
