//! See `fuzz_common::targets::xenstore_wire`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::xenstore_wire::run(data));
