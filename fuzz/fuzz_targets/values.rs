//! Passes libFuzzer's bytes to the check of this name in `src/fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| reberth::fuzzing::values(data));
