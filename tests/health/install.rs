//! `reberth install`: the binary at its new place, whole and runnable.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::harness::launch::Launch;
use crate::harness::place::TempDir;

const REBERTH: &str = env!("CARGO_BIN_EXE_reberth");

fn install(dest: impl AsRef<Path>) -> Launch {
    Launch::new(REBERTH).arg("install").arg(dest.as_ref())
}

#[track_caller]
fn is_reberth(place: &Path) {
    assert_eq!(fs::read(place).unwrap(), fs::read(REBERTH).unwrap());
    assert_eq!(fs::metadata(place).unwrap().permissions().mode() & 0o7777, 0o755);
    Launch::new(place).arg("--version").start().finish().expect_code(0);
}

#[test]
fn it_installs_into_a_folder_to_a_file_and_over_itself() {
    let dir = TempDir::new();
    let inside = dir.path().join("reberth");
    for (dest, place) in [(dir.path(), inside.clone()), (&inside, inside.clone())] {
        // Twice: the second one replaces the first.
        install(dest).start().finish().expect_code(0);
        is_reberth(&place);
        let first = fs::metadata(&place).unwrap().ino();
        install(dest).start().finish().expect_code(0);
        is_reberth(&place);
        assert_ne!(fs::metadata(&place).unwrap().ino(), first, "it is renamed into place, never written in place");
    }
    // The copy installs itself, over itself, while it runs.
    Launch::new(&inside).arg("install").arg(&inside).start().finish().expect_code(0);
    is_reberth(&inside);
    let relative = Launch::new(REBERTH).arg("install").arg("here").cwd(dir.path());
    relative.start().finish().expect_code(0);
    is_reberth(&dir.path().join("here"));
    let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["here", "reberth"], "nothing is left beside it");
}

#[test]
fn a_place_that_does_not_work_is_reported_with_its_reason() {
    let dir = TempDir::new();
    let file = dir.file("file", "x", 0o644);
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::create_dir(dir.path().join("sub/reberth")).unwrap();
    for (dest, words) in [
        (dir.path().join("missing/reberth"), "no folder"),
        (dir.path().join("missing/"), "no folder"),
        (file.join("reberth"), "no folder"),
        (dir.path().join("sub"), "folder itself"),
        ("/dev/null".into(), "neither a file nor a folder"),
        ("/proc/self/reberth".into(), "cannot be written"),
    ] {
        let outcome = install(&dest).start().finish().expect_code(125);
        assert!(
            outcome.stderr.contains(words) && outcome.stderr.lines().count() == 1,
            "{dest:?}\n{}",
            outcome.report()
        );
    }
    assert!(!dir.path().join("missing").exists());
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn a_symbolic_link_is_replaced_and_not_followed() {
    let dir = TempDir::new();
    let victim = dir.file("victim", "keep", 0o644);
    let link = dir.path().join("link");
    symlink(&victim, &link).unwrap();
    install(&link).start().finish().expect_code(0);
    is_reberth(&link);
    assert_eq!(fs::read_to_string(victim).unwrap(), "keep");
}
