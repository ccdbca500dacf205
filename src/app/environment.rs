//! Owns the environment of the app: all that was inherited, byte for byte, and what reberth sets on top. Must not know how a port is
//! claimed, or how the app is launched.

use std::ffi::OsString;

use super::told::ToldPort;

/// An environment, byte for byte, in its order.
pub type Environment = Vec<(OsString, OsString)>;

/// Stands for the app's pid, which only the fork knows. It is overwritten in place, and ended with a zero byte where the pid is shorter:
/// systemd's reader (`strtoul`, base 0) would take a number padded with zeros for octal.
pub const PID_PLACEHOLDER: &str = "0000000000";

/// The environment of the app: `PORT` (the primary, if there is a port), `PORT_<NAME>` for each named port, and, where sockets are passed,
/// `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` (sd_listen_fds(3)). A variable that is already there is replaced in its place.
///
/// `passed`: a name for each descriptor from 3 on; `None`: no sockets are passed.
pub fn build(inherited: &[(OsString, OsString)], ports: &[ToldPort], passed: Option<&[String]>) -> Environment {
    let mut environment = inherited.to_vec();
    if let Some(primary) = ports.first() {
        set(&mut environment, "PORT", &primary.port.to_string());
    }
    for told in ports {
        if let Some(name) = &told.name {
            let variable = format!("PORT_{}", name.to_ascii_uppercase().replace('-', "_"));
            set(&mut environment, &variable, &told.port.to_string());
        }
    }
    if let Some(names) = passed {
        set(&mut environment, "LISTEN_FDS", &names.len().to_string());
        set(&mut environment, "LISTEN_FDNAMES", &names.join(":"));
        set(&mut environment, "LISTEN_PID", PID_PLACEHOLDER);
    }
    environment
}

/// Sets one variable, and removes duplicates of it: which of two an app sees depends on its language.
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

    fn told(name: Option<&str>, port: u16) -> ToldPort {
        ToldPort { name: name.map(Into::into), addr: None, port, fd: None }
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

        let ports = [told(Some("web-1"), 8080), told(None, 81)];
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
