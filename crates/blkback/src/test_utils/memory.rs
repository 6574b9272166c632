//! Bytes into and out of shared memory.

// UNSAFETY: shared memory is reached by raw pointers.
#![expect(unsafe_code)]

use cantle_abi::SharedMemory;

/// Copies `into.len()` bytes at `offset` out of shared memory.
///
/// # Panics
///
/// Where they are not inside.
pub fn copy_out(memory: &(impl SharedMemory + ?Sized), offset: usize, into: &mut [u8]) {
    assert!(offset + into.len() <= memory.len(), "inside the memory");
    // SAFETY: inside, as just seen. Nobody forms references to shared memory, so a plain copy tears at worst.
    unsafe {
        let from = memory.as_ptr().as_ptr().add(offset);
        std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len());
    }
}

/// Copies bytes to `offset` of shared memory.
///
/// # Panics
///
/// Where they are not inside.
pub fn copy_in(memory: &(impl SharedMemory + ?Sized), offset: usize, bytes: &[u8]) {
    assert!(offset + bytes.len() <= memory.len(), "inside the memory");
    // SAFETY: as in `copy_out`.
    unsafe {
        let to = memory.as_ptr().as_ptr().add(offset);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
    }
}
