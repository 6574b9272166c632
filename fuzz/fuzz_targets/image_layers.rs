//! See `fuzz_common::targets::image_layers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::image_layers::run(data));
