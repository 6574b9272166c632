//! Any bytes as a VMDK image, or as a descriptor and its extents: opened, read, written, checked and repaired.

/// Runs one input: how many actions of 8 bytes there are, these, and the image.
///
/// # Panics
///
/// Where the contract of a disk format is broken.
pub fn run(data: &[u8]) {
    let Some((count, rest)) = data.split_first() else {
        return;
    };
    let actions = usize::from(count % 65) * 8;
    let (actions, image) = rest.split_at(actions.min(rest.len()));
    cantle_vmdk::test_utils::exercise(image, actions);
}
