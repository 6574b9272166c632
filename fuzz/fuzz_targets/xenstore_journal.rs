//! See `fuzz_common::targets::xenstore_journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::xenstore_journal::run(data));
