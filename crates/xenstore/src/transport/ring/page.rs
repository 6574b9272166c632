//! The server's end of the page: two rings of bytes, and the fields beside them.

// UNSAFETY: 32-bit fields of the page are reached through a raw pointer into memory that the guest writes.
#![expect(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering, fence};

use cantle_abi::SharedMemory;
use cantle_abi::io::xs_wire::{
    XENSTORE_CONNECTED, XENSTORE_CONNECTION_OFFSET, XENSTORE_ERROR_NONE, XENSTORE_ERROR_OFFSET,
    XENSTORE_RECONNECT, XENSTORE_REQ, XENSTORE_RSP, XENSTORE_SERVER_FEATURE_RECONNECTION,
    XENSTORE_SERVER_FEATURES_OFFSET,
};
use cantle_abi::ring::RingBroken;

/// The offsets of the four indices.
const INDICES: [usize; 4] = [2048, 2052, 2056, 2060];

/// What a service does with a page, whatever its memory is.
pub(crate) trait PageEnd {
    /// Whether the guest asks for a reset.
    fn wants_reset(&self) -> bool;
    /// Takes bytes out of the ring of requests.
    fn read(&self, buffer: &mut [u8]) -> Result<usize, RingBroken>;
    /// Writes as many bytes as there is room for into the ring of replies.
    fn write(&self, bytes: &[u8]) -> Result<usize, RingBroken>;
    /// Empties both rings and says that they are connected. The server has forgotten all about the connection.
    fn reset(&self);
    /// Says why the rings are dead.
    fn fail(&self, code: u32);
}

/// A page, and what the guest was told that it may do there.
#[derive(Debug)]
pub(crate) struct Page<M> {
    memory: M,
    features: u32,
}

impl<M: SharedMemory> Page<M> {
    /// Uses a page and offers `features`, before anything else is done to it.
    pub(crate) fn new(memory: M, features: u32) -> Self {
        let page = Self { memory, features };
        page.put(XENSTORE_SERVER_FEATURES_OFFSET, features);
        page
    }

    /// A field of the page, where the page is long enough to have it.
    fn field(&self, offset: usize) -> Option<&AtomicU32> {
        if !offset.is_multiple_of(4) || offset + 4 > self.memory.len() {
            return None;
        }
        // SAFETY: inside the memory by the check above, aligned since the memory is (by its trait) and the offset is; an
        // atomic may alias memory that others write, and the memory outlives the borrow.
        Some(unsafe { AtomicU32::from_ptr(self.memory.as_ptr().add(offset).cast().as_ptr()) })
    }

    fn put(&self, offset: usize, value: u32) {
        if let Some(field) = self.field(offset) {
            // Release: a guest that sees it sees what was written before it.
            field.store(value, Ordering::Release);
        }
    }
}

impl<M: SharedMemory> PageEnd for Page<M> {
    fn wants_reset(&self) -> bool {
        // Acquire pairs with the guest's store: what it wrote before is of the old connection, and goes.
        self.features & XENSTORE_SERVER_FEATURE_RECONNECTION != 0
            && self
                .field(XENSTORE_CONNECTION_OFFSET)
                .is_some_and(|field| field.load(Ordering::Acquire) == XENSTORE_RECONNECT)
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize, RingBroken> {
        let taken = XENSTORE_REQ.read(&self.memory, buffer)?;
        // Our consumer index must be out before the guest's producer index is read the next time: the guest looks the other
        // way round to decide whether it has to tell us of more.
        fence(Ordering::SeqCst);
        Ok(taken)
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, RingBroken> {
        let written = XENSTORE_RSP.write(&self.memory, bytes)?;
        if written == bytes.len() {
            return Ok(written);
        }
        // It is full. The guest tells us of room only where it found it full, so that it must be seen to be before we look
        // whether there is room meanwhile.
        fence(Ordering::SeqCst);
        let rest = bytes.get(written..).unwrap_or_default();
        Ok(written + XENSTORE_RSP.write(&self.memory, rest)?)
    }

    fn reset(&self) {
        for offset in INDICES {
            self.put(offset, 0);
        }
        self.put(XENSTORE_ERROR_OFFSET, XENSTORE_ERROR_NONE);
        self.put(XENSTORE_CONNECTION_OFFSET, XENSTORE_CONNECTED);
    }

    fn fail(&self, code: u32) {
        self.put(XENSTORE_ERROR_OFFSET, code);
    }
}
