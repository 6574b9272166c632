//! See `fuzz_common::targets::xenstore_server`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::xenstore_server::run(data));
