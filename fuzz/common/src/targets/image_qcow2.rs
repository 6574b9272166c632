//! Any bytes as a qcow2 image: opened, read, written, checked and repaired. The first says how.

/// Runs one input.
///
/// # Panics
///
/// Never, unless there is a fault.
pub fn run(data: &[u8]) {
    cantle_qcow2::exercise(data);
}
