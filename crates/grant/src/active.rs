//! The host's count of an entry's uses, which the guest cannot reach.

use std::hint::spin_loop;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use cantle_abi::DomId;

/// An entry's uses in one word: bits 0..16 the domain, 16..38 uses, 38..60 those that write, 63 the lock.
///
/// The lock is held for the few steps between looking at the guest's entry and counting: never while a page is used.
#[derive(Default)]
pub(crate) struct Active(AtomicU64);

const LOCKED: u64 = 1 << 63;
const COUNT_BITS: u32 = 22;
/// Uses of one entry at a time; more are refused.
pub(crate) const MAX_USES: u32 = (1 << COUNT_BITS) - 1;

/// An entry's uses, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pins {
    /// Whose; means nothing without uses.
    pub(crate) grantee: DomId,
    pub(crate) uses: u32,
    /// How many of them write.
    pub(crate) writers: u32,
}

impl Pins {
    fn pack(self) -> u64 {
        u64::from(self.grantee.0)
            | u64::from(self.uses) << 16
            | u64::from(self.writers) << (16 + COUNT_BITS)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "masked to fewer bits than the types have"
    )]
    fn unpack(word: u64) -> Self {
        Self {
            grantee: DomId(word as u16),
            uses: (word >> 16) as u32 & MAX_USES,
            writers: (word >> (16 + COUNT_BITS)) as u32 & MAX_USES,
        }
    }
}

/// The entry's lock, held; dropping it stores the pins as they are then.
pub(crate) struct Locked<'a> {
    active: &'a Active,
    pub(crate) pins: Pins,
}

impl Active {
    /// Locks the entry: nobody else pins or unpins it meanwhile.
    #[inline(always)]
    pub(crate) fn lock(&self) -> Locked<'_> {
        let word = self.try_lock().unwrap_or_else(|| self.wait());
        Locked {
            active: self,
            pins: Pins::unpack(word),
        }
    }

    #[inline(always)]
    fn try_lock(&self) -> Option<u64> {
        let word = self.0.load(Relaxed);
        if word & LOCKED != 0 {
            return None;
        }
        // Acquire: pairs with the release in `drop`.
        let locked = word | LOCKED;
        let taken = self.0.compare_exchange_weak(word, locked, Acquire, Relaxed);
        taken.ok()
    }

    #[cold]
    fn wait(&self) -> u64 {
        let mut tries = 0u32;
        loop {
            if let Some(word) = self.try_lock() {
                return word;
            }
            tries = tries.wrapping_add(1);
            if tries.is_multiple_of(64) {
                // The holder may have been taken off its CPU.
                std::thread::yield_now();
            } else {
                spin_loop();
            }
        }
    }
}

/// All entries of a table, locked. Locks are taken in ascending order, as whoever takes two does.
pub(crate) struct AllLocked<'a>(Vec<&'a [Active]>);

impl<'a> AllLocked<'a> {
    /// Locks every entry. Bounded by the table's size.
    pub(crate) fn new(frames: impl Iterator<Item = &'a [Active]>) -> Self {
        let mut all = Self(Vec::new());
        for frame in frames {
            for active in frame {
                // The lock stays; `drop` gives it back.
                std::mem::forget(active.lock());
            }
            all.0.push(frame);
        }
        all
    }

    /// The uses of each entry, from the first.
    pub(crate) fn pins(&self) -> impl Iterator<Item = Pins> + '_ {
        let entries = self.0.iter().flat_map(|frame| frame.iter());
        entries.map(|active| Pins::unpack(active.0.load(Relaxed)))
    }
}

impl Drop for AllLocked<'_> {
    fn drop(&mut self) {
        for active in self.0.iter().flat_map(|frame| frame.iter()) {
            // Only the holder writes a locked word.
            let word = active.0.load(Relaxed);
            active.0.store(word & !LOCKED, Release);
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.active.0.store(self.pins.pack(), Release);
    }
}
