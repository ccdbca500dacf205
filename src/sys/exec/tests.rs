//! Owns the tables of when a search along PATH continues and which error it reports. Must not know how anything is
//! executed.

use super::*;

#[test]
fn the_search_continues_unless_the_file_itself_cannot_be_executed() {
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
