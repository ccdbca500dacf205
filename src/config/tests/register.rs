//! Tables of `--register` and the settings that go with it.

use super::{decision, errors};
use crate::config::*;

fn decided(list: &[&str], vars: &[(&str, &str)]) -> Decision {
    decision(&[&["run"], list, &["--", "app"]].concat(), vars)
}

fn bad(list: &[&str], vars: &[(&str, &str)]) -> Vec<String> {
    errors(&[&["run"], list, &["--", "app"]].concat(), vars)
}

#[test]
fn flags_beat_the_variable_and_both_may_name_several() {
    let registries = |list: &[&str], vars: &[(&str, &str)]| match decided(list, vars).mode {
        Ok(Mode::Run(run)) => {
            run.register.map_or_else(Vec::new, |found| found.registries.iter().map(ToString::to_string).collect())
        }
        other => panic!("{other:?}"),
    };
    let variable = [("REBERTH_REGISTER", "etcd://a:1,b/p \n etcd://c/q"), ("PORT", "80")];
    assert_eq!(registries(&[], &variable), ["etcd://a:1,b:2379/p", "etcd://c:2379/q"]);
    let flags = ["--register", "etcd://d/p", "--register=etcd://e/p", "--register", "etcd://d/p"];
    assert_eq!(registries(&flags, &variable), ["etcd://d:2379/p", "etcd://e:2379/p"]);
    assert_eq!(registries(&[], &[("PORT", "80"), ("ETCDCTL_USER", "x")]), [""; 0]);
}

#[test]
fn bad_values() {
    let port = ("PORT", "80");
    let one = |list: &[&str], vars: &[(&str, &str)], wanted: &str| {
        let lines = bad(list, vars);
        assert!(lines.len() == 1 && lines[0].contains(wanted), "{list:?} {vars:?}: {lines:?}");
    };
    let url = ["--register", "etcd://a/p"];
    one(&url, &[], "--register etcd://a/p: there is no port to announce");
    one(&["--register", "etcd://a/p", "--exec"], &[port], "with --exec (REBERTH_EXEC) it does not");
    one(&["--register", "consul://a/p"], &[port], "no such registry; a registry is etcd://HOST");
    one(&["--register", ""], &[port], "it has no scheme");
    one(&[], &[port, ("REBERTH_REGISTER", "etcd://a/p etcd://b")], "REBERTH_REGISTER=etcd://b: the prefix is missing");
    one(&["--register-ttl", "4s"], &[port], "must be whole seconds from 5s to 1h");
    one(&["--advertise", "0.0.0.0"], &[port], "no client can reach a wildcard");
    one(&["--register-metadata", "a"], &[port], "no '='");
    one(&url, &[port, ("ETCDCTL_USER", "root")], "ETCDCTL_USER: has no password");
    one(&url, &[port, ("ETCDCTL_PASSWORD", "x")], "set ETCDCTL_USER");
    one(&url, &[port, ("ETCDCTL_KEY", "/k")], "ETCDCTL_CERT, ETCDCTL_KEY");
}

#[test]
fn a_login_is_never_echoed() {
    for url in
        ["etcd://u:hunter2@a/p", "etcd://u:hunter/2@a/p", "etcd://u:hunter 2@a/p", "etcd://b/p etcd://u:hunter2@a/p"]
    {
        for lines in
            [bad(&["--register", url], &[("PORT", "80")]), bad(&[], &[("PORT", "80"), ("REBERTH_REGISTER", url)])]
        {
            assert!(lines.len() == 1 && !lines[0].contains("hunter") && lines[0].contains("ETCDCTL_USER"), "{lines:?}");
        }
    }
    let vars = [("PORT", "80"), ("ETCDCTL_USER", "root:hunter2")];
    let text = format!("{:?}", decided(&["--register", "etcd://a/p"], &vars));
    assert!(!text.contains("hunter2"), "{text}");
}
