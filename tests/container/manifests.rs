//! Owns the proof that the probes in k8s/ work as written: each command is run in a container beside an app that serves. Must not know what
//! a probe does.

use crate::engine::Container;

/// The argument vectors of all exec probes in a manifest, in order. The manifests keep each on one line.
fn probes(manifest: &str) -> Vec<Vec<&str>> {
    manifest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("exec: {command: [")?.strip_suffix("]}"))
        .map(|list| list.split(", ").collect())
        .collect()
}

#[test]
fn the_probes_of_every_manifest_pass_as_written() {
    let volume = [
        "-e",
        "PORT=7878",
        "-e",
        "REBERTH_HEALTH=/health",
        "--user",
        "65534:65534",
        "--cap-drop",
        "ALL",
        "--read-only",
    ];
    let app = Container::run(&volume, "busybox", &[]);
    app.wait_health("healthy");
    let mut manifests = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/k8s")).unwrap() {
        let path = entry.unwrap().path();
        let manifest = std::fs::read_to_string(&path).unwrap();
        let probes = probes(&manifest);
        assert_eq!(probes.len(), 3, "startup, liveness and readiness in {}", path.display());
        assert_eq!(
            manifest.matches("Probe:").count(),
            probes.len(),
            "a probe in {} is not an exec probe",
            path.display()
        );
        for mut probe in probes {
            // The path where an init container put it; here it is part of the image.
            if probe[0] == "/opt/reberth/reberth" {
                probe[0] = "/reberth";
            }
            let verdict = app.exec(&probe);
            assert_eq!(verdict.code, 0, "{} in {}: {}", probe.join(" "), path.display(), verdict.out);
        }
        manifests += 1;
    }
    assert!(manifests >= 5, "only {manifests} manifests were found");
}
