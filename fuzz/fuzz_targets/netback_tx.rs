//! See `fuzz_common::targets::netback_tx`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::netback_tx::run(data));
