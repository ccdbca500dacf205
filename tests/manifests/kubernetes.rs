//! Owns the manifests in k8s/: consistent times, and containers without privileges. Must not know what a setting means.

use std::path::PathBuf;

use crate::documents::documents;

fn manifests() -> Vec<(PathBuf, String)> {
    let all: Vec<_> = documents().into_iter().filter(|(path, _)| path.parent().unwrap().ends_with("k8s")).collect();
    assert!(all.len() >= 5, "the manifests are there");
    all
}

/// The number after the first `key`. Every duration in the manifests is in seconds.
fn number(text: &str, key: &str) -> u64 {
    let (_, rest) = text.split_once(key).unwrap_or_else(|| panic!("no '{key}'"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|e| panic!("'{key}': {e}"))
}

#[test]
fn the_times_in_every_manifest_fit_each_other() {
    for (path, text) in manifests() {
        let variable = |name: &str| number(&text, &format!("{{name: {name}, value: "));
        let path = path.display();
        let termination = number(&text, "terminationGracePeriodSeconds: ");
        assert!(
            variable("REBERTH_DRAIN") + variable("REBERTH_GRACE") < termination,
            "{path}: reberth ends before the kubelet kills"
        );
        assert!(variable("REBERTH_WAIT") > termination, "{path}: a new pod outwaits the old one");
        let startup = text.split("startupProbe:").nth(1).unwrap();
        let budget = number(startup, "periodSeconds: ") * number(startup, "failureThreshold: ");
        assert!(budget > variable("REBERTH_WAIT"), "{path}: a waiting pod is not restarted");
        assert_eq!(
            text.matches("timeoutSeconds: ").count(),
            text.matches("timeoutSeconds: 2").count(),
            "{path}: above the probe's 0.9 s"
        );
    }
}

#[test]
fn every_container_is_restricted() {
    for (path, text) in manifests() {
        let path = path.display();
        let containers = text.matches("image: ").count();
        for line in ["allowPrivilegeEscalation: false", "readOnlyRootFilesystem: true", "capabilities: {drop: [ALL]}"] {
            assert_eq!(text.matches(line).count(), containers, "{path}: {line}, for each container");
        }
        for line in ["runAsNonRoot: true", "seccompProfile: {type: RuntimeDefault}", "enableServiceLinks: false"] {
            assert_eq!(text.matches(line).count(), 1, "{path}: {line}, for the pod");
        }
    }
}
