//! Any bytes as a VHD image: opened, read, written, checked and repaired.

/// Runs one input.
///
/// # Panics
///
/// Where it is not read back what was written to an image without faults, or a repair leaves some.
pub fn run(data: &[u8]) {
    cantle_vhd::test_utils::exercise(data);
}
