//! The driver's side of a split virtqueue (virtio 1.2, 2.7), with event indices or without.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use anyhow::{Result, ensure};
use vm_memory::{MmapRegion, VolatileMemory};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Entries of a queue, as QEMU gives them to a Linux guest.
pub(super) const ENTRIES: u16 = 256;
/// Bytes at the beginning of a queue's memory that its rings take.
pub(super) const RINGS_BYTES: usize = 3 * PAGE;

/// Flags of a descriptor.
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// A flag of the used ring: the device looks for itself.
const NO_NOTIFY: u16 = 1;
/// Bytes of a descriptor.
pub(super) const DESCRIPTOR: usize = 16;

const PAGE: usize = 4096;
const COUNT: usize = ENTRIES as usize;
/// Where the three parts are.
const AVAILABLE: usize = PAGE;
const USED: usize = 2 * PAGE;
/// Where both rings have their index and their first entry, after flags that event indices make idle.
const INDEX: usize = 2;
const RING: usize = 4;
/// The driver writes the first, at the end of the available ring; the device writes the second, at the end of the used ring.
const USED_EVENT: usize = AVAILABLE + RING + 2 * COUNT;
const AVAILABLE_EVENT: usize = USED + RING + 8 * COUNT;

/// How long the device may be silent.
const PATIENCE_MS: i32 = 20_000;

/// How each side says when it wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// By the index that is to be passed (`VIRTIO_RING_F_EVENT_IDX`).
    ByIndex,
    /// By a flag.
    ByFlag,
}

/// A queue whose entries' numbers are the caller's: each is in use from [`push`](Self::push) until [`pop`](Self::pop) returns it.
#[derive(Debug)]
pub(super) struct Virtqueue {
    memory: Arc<MmapRegion>,
    base: usize,
    wake: Wake,
    kick: EventFd,
    call: EventFd,
    called: Epoll,
    /// The next entry of the available ring, and the first that the device has not been shown.
    next_available: u16,
    first_unseen: u16,
    /// The next entry of the used ring.
    next_used: u16,
}

impl Virtqueue {
    /// A queue with nothing in it, in zeroed memory from `base` on.
    ///
    /// # Errors
    ///
    /// No descriptor is free.
    pub(super) fn new(memory: Arc<MmapRegion>, base: usize, wake: Wake) -> Result<Self> {
        let (kick, call) = (
            EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
            EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
        );
        let called = Epoll::new()?;
        let readable = EpollEvent::new(EventSet::IN, 0);
        called.ctl(ControlOperation::Add, call.as_raw_fd(), readable)?;
        Ok(Self {
            memory,
            base,
            wake,
            kick,
            call,
            called,
            next_available: 0,
            first_unseen: 0,
            next_used: 0,
        })
    }

    /// The descriptors' address in this process.
    pub(super) fn descriptors(&self) -> usize {
        self.memory.as_ptr().addr() + self.base
    }

    /// The available ring's address.
    pub(super) fn available(&self) -> usize {
        self.descriptors() + AVAILABLE
    }

    /// The used ring's address.
    pub(super) fn used(&self) -> usize {
        self.descriptors() + USED
    }

    /// What wakes the device.
    pub(super) fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// What wakes the driver.
    pub(super) fn call(&self) -> &EventFd {
        &self.call
    }

    /// Puts a request in the queue whose `count` descriptors are in a table at `table`. Unseen until [`publish`](Self::publish).
    pub(super) fn push(&mut self, entry: u16, table: usize, count: usize) -> Result<()> {
        self.push_direct(entry, table, count * DESCRIPTOR, INDIRECT)
    }

    /// As [`push`](Self::push), of a request that is one piece of `len` bytes at `address`; `flags` say whether it is the device that writes.
    pub(super) fn push_direct(
        &mut self,
        entry: u16,
        address: usize,
        len: usize,
        flags: u16,
    ) -> Result<()> {
        let at = self.base + usize::from(entry % ENTRIES) * DESCRIPTOR;
        describe(&self.memory, at, address, len, flags, 0)?;
        let place = AVAILABLE + RING + 2 * usize::from(self.next_available % ENTRIES);
        // Published by the index.
        self.word(place)?.store(entry, Ordering::Relaxed);
        self.next_available = self.next_available.wrapping_add(1);
        Ok(())
    }

    /// Shows the device what was pushed, and wakes it where it wants to be.
    pub(super) fn publish(&mut self) -> Result<()> {
        let (old, new) = (self.first_unseen, self.next_available);
        if old == new {
            return Ok(());
        }
        // Pairs with the device's read of the index: it then sees entries and descriptors.
        self.word(AVAILABLE + INDEX)?.store(new, Ordering::Release);
        self.first_unseen = new;
        // Between our index and its event index or flag; the device has its own between the two in the other order.
        fence(Ordering::SeqCst);
        let wanted = match self.wake {
            Wake::ByIndex => passed(
                self.word(AVAILABLE_EVENT)?.load(Ordering::Relaxed),
                new,
                old,
            ),
            Wake::ByFlag => self.word(USED)?.load(Ordering::Relaxed) & NO_NOTIFY == 0,
        };
        if wanted {
            self.kick.write(1)?;
        }
        Ok(())
    }

    /// The next entry that the device is done with.
    pub(super) fn pop(&mut self) -> Result<Option<u16>> {
        // Pairs with the device's write of the index: we then see entries, status and data.
        let index = self.word(USED + INDEX)?.load(Ordering::Acquire);
        if index == self.next_used {
            return Ok(None);
        }
        let place = self.base + USED + RING + 8 * usize::from(self.next_used % ENTRIES);
        let entry = self.memory.get_ref::<u32>(place)?.load();
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Some(u16::try_from(entry)?))
    }

    /// Sleeps until there may be something to [`pop`](Self::pop).
    ///
    /// By indices, the device is asked for a signal only here, for its next entry; it has none to give while the driver is awake. By flags
    /// it always is.
    ///
    /// # Errors
    ///
    /// The device is silent for very long.
    pub(super) fn sleep(&self) -> Result<()> {
        self.word(USED_EVENT)?
            .store(self.next_used, Ordering::Relaxed);
        // Between our event index and its index; the device has its own between the two in the other order.
        fence(Ordering::SeqCst);
        if self.word(USED + INDEX)?.load(Ordering::Relaxed) != self.next_used {
            return Ok(());
        }
        let mut events = [EpollEvent::default()];
        let woken = match self.called.wait(PATIENCE_MS, &mut events) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            woken => woken?,
        };
        ensure!(woken > 0, "the daemon does not answer");
        self.call.read()?;
        Ok(())
    }

    fn word(&self, place: usize) -> Result<&AtomicU16> {
        Ok(self.memory.get_atomic_ref(self.base + place)?)
    }
}

/// Writes a descriptor at `at`: of `len` bytes at `address`, followed by `next` in its table where `flags` say so.
pub(super) fn describe(
    memory: &MmapRegion,
    at: usize,
    address: usize,
    len: usize,
    flags: u16,
    next: u16,
) -> Result<()> {
    let rest = u64::from(u32::try_from(len)?) | u64::from(flags) << 32 | u64::from(next) << 48;
    memory.get_ref::<u64>(at)?.store((address as u64).to_le());
    memory.get_ref::<u64>(at + 8)?.store(rest.to_le());
    Ok(())
}

/// Whether an index that went from `old` to `new` has passed `event` (virtio 1.2, 2.7.10).
fn passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_passed_when_its_entry_is_added() {
        assert!(passed(0, 1, 0), "the first entry");
        assert!(!passed(1, 1, 0), "the entry after it");
        assert!(passed(4, 8, 3), "one of several");
        assert!(!passed(2, 8, 3), "one of before");
        assert!(passed(u16::MAX, 2, 0xfffe), "across the end of numbers");
        assert!(!passed(2, 2, 0xfffe));
    }
}
