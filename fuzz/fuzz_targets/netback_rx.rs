//! See `fuzz_common::targets::netback_rx`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::netback_rx::run(data));
