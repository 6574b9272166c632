//! See `fuzz_common::targets::netback_extra`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::netback_extra::run(data));
