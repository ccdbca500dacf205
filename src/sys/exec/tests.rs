//! Owns the tables of how a search along PATH goes on and what it ends in. Must not know how anything is executed.

use super::*;

#[test]
fn the_search_goes_on_past_what_is_not_the_files_own_fault() {
    let search = |failures: &[i32]| {
        let mut errno = libc::ENOENT;
        for (position, failed) in failures.iter().enumerate() {
            errno = weightier(errno, *failed);
            if ends_the_search(*failed) {
                return (errno, position + 1);
            }
        }
        (errno, failures.len())
    };
    use libc::{E2BIG, EACCES, ENODEV, ENOENT, ENOEXEC, ENOTDIR, ESTALE, ETIMEDOUT};
    for (failures, told, tried) in [
        (&[][..], ENOENT, 0),
        (&[ENOENT, ENOTDIR], ENOENT, 2),
        (&[EACCES, ENOENT], EACCES, 2),
        (&[ESTALE, ENOENT, ENOENT], ESTALE, 3),
        (&[ENOENT, ENODEV, ETIMEDOUT], ENODEV, 3),
        (&[ETIMEDOUT, EACCES, ESTALE], EACCES, 3),
        (&[ESTALE, ENOEXEC, ENOENT], ENOEXEC, 2),
        (&[EACCES, E2BIG, ENOENT], E2BIG, 2),
    ] {
        assert_eq!(search(failures), (told, tried), "{failures:?}");
    }
}
