//! The switch with ports of any kind: frames, options and changes as its own description of inputs has them.

/// Runs one input.
///
/// # Panics
///
/// As [`cantle_switch::test_utils::any_frames`].
pub fn run(data: &[u8]) {
    cantle_switch::test_utils::any_frames(data);
}
