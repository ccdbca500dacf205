//! Hands what libFuzzer makes up to the check; see `src/fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| reberth::fuzzing::database(data));
