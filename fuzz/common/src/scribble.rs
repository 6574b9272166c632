//! The hostile party's own accesses to memory that it shares with the host.

// UNSAFETY: shared memory is reached by raw pointers.
#![expect(unsafe_code)]

use cantle_abi::SharedMemory;
use cantle_blkback::image::Segment;

/// Writes bytes anywhere: the offset wraps at the memory's end, and so do the bytes.
pub fn write(memory: &impl SharedMemory, offset: usize, bytes: &[u8]) {
    for (n, byte) in bytes.iter().enumerate() {
        let at = offset.wrapping_add(n) % memory.len();
        // SAFETY: within the memory, which lives as long as the borrow.
        unsafe { memory.as_ptr().as_ptr().add(at).write_volatile(*byte) };
    }
}

/// Reads four bytes, with the same wrapping.
pub fn read_u32(memory: &impl SharedMemory, offset: usize) -> u32 {
    let mut bytes = [0; 4];
    for (n, byte) in bytes.iter_mut().enumerate() {
        let at = offset.wrapping_add(n) % memory.len();
        // SAFETY: as in `write`.
        *byte = unsafe { memory.as_ptr().as_ptr().add(at).read_volatile() };
    }
    u32::from_le_bytes(bytes)
}

/// Reads the first and last byte of a segment, and writes them back if it is to be written: one that is not where its pages are is
/// a crash, or found by the address sanitizer.
pub fn touch(segment: &Segment, writable: bool) {
    for at in [0, segment.len().saturating_sub(1)] {
        if at < segment.len() {
            // SAFETY: a segment says of these bytes that they are inside its pages, and a back end maps pages that it reads into
            // for writing. Whether that is so is what is being tested.
            unsafe {
                let byte = segment.as_ptr().add(at).read_volatile();
                if writable {
                    segment.as_ptr().add(at).write_volatile(byte);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cantle_abi::ring::HeapPages;

    #[test]
    fn writes_wrap_at_the_end() {
        let page = HeapPages::new(1);
        write(&page, 4094, &[1, 2, 3, 4]);
        assert_eq!(read_u32(&page, 4094), 0x0403_0201);
        assert_eq!(read_u32(&page, 0) & 0xffff, 0x0403);
    }
}
