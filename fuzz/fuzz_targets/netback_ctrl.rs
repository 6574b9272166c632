//! See `fuzz_common::targets::netback_ctrl`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::netback_ctrl::run(data));
