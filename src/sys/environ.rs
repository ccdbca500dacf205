//! Owns the entries of our environment that `std::env` skips. Must not know what they mean.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};

/// The entries of our environment that are not `NAME=VALUE`, which `std::env` skips. They are legal (`environ(7)`), and
/// the app gets them unchanged.
pub fn nameless() -> Vec<CString> {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    let mut found = Vec::new();
    // SAFETY: the C library's own array, which nothing in this program changes.
    let mut at = unsafe { environ };
    if at.is_null() {
        return found;
    }
    // SAFETY: the array ends with NULL, and every entry before it is a C string that lives as long as the process.
    while let Some(entry) = unsafe { (*at).as_ref() }.map(|entry| unsafe { CStr::from_ptr(entry) }) {
        // std takes a leading `=` as part of the name.
        let rest = entry.to_bytes().get(1..).unwrap_or_default();
        if memchr::memchr(b'=', rest).is_none() {
            found.push(entry.to_owned());
        }
        // SAFETY: not past the NULL, which ends the loop.
        at = unsafe { at.add(1) };
    }
    found
}
