//! See `fuzz_common::targets::xenstore_state`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::xenstore_state::run(data));
