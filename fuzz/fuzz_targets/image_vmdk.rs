//! See `fuzz_common::targets::image_vmdk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::image_vmdk::run(data));
