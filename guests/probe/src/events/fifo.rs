//! The FIFO interface, the guest's side: event words in pages that it hands in, queues that it takes from.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use cantle_abi::event_channel::{
    EVTCHN_FIFO_LINK_BITS, EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED,
    EVTCHN_FIFO_MAX_QUEUES, EVTCHN_FIFO_PENDING,
};
use cantle_abi::{Errno, PAGE_SIZE, Port};

use super::{VCPUS, calls, seen};
use crate::memory::{self, Window};
use crate::report::{Because as _, Outcome};
use crate::{cpu, ensure, fail};

pub(crate) const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
pub(crate) const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
pub(crate) const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
pub(crate) const LINK: u32 = EVTCHN_FIFO_LINK_MASK;

/// Words in a page, and pages that the array can have.
pub(crate) const WORDS: u32 = 1024;
const PAGES: usize = 128;
/// Bytes from one vCPU's control block to the next one's: more than it has, and aligned.
const CONTROL_STEP: u32 = 128;
/// Where the heads begin in a control block.
const HEADS: usize = 8;

static IN_USE: AtomicBool = AtomicBool::new(false);
/// The page with all vCPUs' control blocks; 0 before there is one.
static CONTROL: AtomicU64 = AtomicU64::new(0);
/// Whose control block the host knows.
static PLACED: [AtomicBool; VCPUS] = [const { AtomicBool::new(false) }; VCPUS];
/// The array's pages that there are, and how many of them the host knows.
static ARRAY: [AtomicU64; PAGES] = [const { AtomicU64::new(0) }; PAGES];
static EXPANDED: AtomicUsize = AtomicUsize::new(0);
/// Where each vCPU goes on in each of its queues; 0 where it asks the control block.
static NEXT: [[AtomicU32; EVTCHN_FIFO_MAX_QUEUES]; VCPUS] =
    [const { [const { AtomicU32::new(0) }; EVTCHN_FIFO_MAX_QUEUES] }; VCPUS];

/// Whether events come by this interface now.
pub(crate) fn in_use() -> bool {
    IN_USE.load(Ordering::Acquire)
}

/// Switches over, with vCPU 0's control block alone and no page of words. The host refuses it while ports are open that the guest
/// opened itself.
pub(crate) fn enter() -> Outcome {
    ensure!(!in_use(), "the FIFO interface is in use already");
    if CONTROL.load(Ordering::Relaxed) == 0 {
        CONTROL.store(memory::page()?.addr(), Ordering::Relaxed);
    }
    // No event may come in between by an interface that is not looked at.
    cpu::without_interrupts(|| {
        place_control(0).because("init_control of vCPU 0")?;
        IN_USE.store(true, Ordering::Release);
        Ok(())
    })
}

/// The host has gone back to the 2-level interface.
pub(super) fn left() {
    IN_USE.store(false, Ordering::Release);
    EXPANDED.store(0, Ordering::Release);
    for (vcpu, placed) in (0..).zip(&PLACED) {
        placed.store(false, Ordering::Release);
        if let Some(block) = block(vcpu) {
            block.fill(0, CONTROL_STEP as usize, |_| 0);
        }
    }
    for next in NEXT.iter().flatten() {
        next.store(0, Ordering::Release);
    }
}

/// Hands in a vCPU's control block.
pub(crate) fn place_control(vcpu: u32) -> Result<(), Errno> {
    let (Some(block), Some(placed)) = (block(vcpu), PLACED.get(vcpu as usize)) else {
        return Err(Errno::ENOENT);
    };
    let page = block.gfn();
    // First, since events may come before the call is back.
    let was = placed.swap(true, Ordering::AcqRel);
    let bits = calls::init_control(vcpu, page, vcpu * CONTROL_STEP)
        .inspect_err(|_| placed.store(was, Ordering::Release))?;
    if u32::from(bits) == EVTCHN_FIFO_LINK_BITS {
        Ok(())
    } else {
        Err(Errno::ERANGE)
    }
}

/// Hands in the next page of event words, which all begin as told.
pub(crate) fn expand(word: u32) -> Outcome {
    let index = EXPANDED.load(Ordering::Relaxed);
    let Some(slot) = ARRAY.get(index) else {
        fail!("the array has all its pages");
    };
    if slot.load(Ordering::Relaxed) == 0 {
        slot.store(memory::page()?.addr(), Ordering::Relaxed);
    }
    let Some(page) = memory::pool_window(slot.load(Ordering::Relaxed), PAGE_SIZE) else {
        fail!("the array's page is not in the pool");
    };
    page.fill(0, PAGE_SIZE, |_| u64::from(word) << 32 | u64::from(word));
    // The words are known before the host can link them.
    EXPANDED.store(index + 1, Ordering::Release);
    if let Err(errno) = calls::expand_array(page.gfn()) {
        EXPANDED.store(index, Ordering::Release);
        fail!("expand_array, page {index}: {errno}");
    }
    Ok(())
}

/// How many ports have event words.
pub(crate) fn words() -> u32 {
    u32::try_from(EXPANDED.load(Ordering::Acquire)).map_or(0, |pages| pages * WORDS)
}

/// The place for a vCPU's control block.
pub(crate) fn block(vcpu: u32) -> Option<Window> {
    let base = CONTROL.load(Ordering::Relaxed);
    if base == 0 || vcpu as usize >= VCPUS {
        return None;
    }
    let offset = u64::from(vcpu * CONTROL_STEP);
    memory::pool_window(base + offset, CONTROL_STEP as usize)
}

/// A queue's head as the host wrote it last.
pub(crate) fn head(vcpu: u32, priority: usize) -> u32 {
    block(vcpu).map_or(0, |block| {
        block.word32(HEADS + priority * 4).load(Ordering::Acquire)
    })
}

/// A port's event word.
pub(crate) fn word(port: Port) -> Option<&'static AtomicU32> {
    let page = (port.0 / WORDS) as usize;
    if page >= EXPANDED.load(Ordering::Acquire) {
        return None;
    }
    let page = memory::pool_window(ARRAY.get(page)?.load(Ordering::Relaxed), PAGE_SIZE)?;
    Some(page.word32((port.0 % WORDS) as usize * 4))
}

/// A port's event word as it is now; 0 where it has none.
pub(crate) fn bits(port: Port) -> u32 {
    word(port).map_or(0, |word| word.load(Ordering::Acquire))
}

/// Takes what is on a vCPU's queues, the highest priority first. With interrupts off: it is not to interrupt itself.
pub(super) fn collect(vcpu: u32) {
    let placed = PLACED
        .get(vcpu as usize)
        .is_some_and(|placed| placed.load(Ordering::Acquire));
    let (true, Some(block), Some(next)) = (placed, block(vcpu), NEXT.get(vcpu as usize)) else {
        return;
    };
    let mut ready = block.word32(0).swap(0, Ordering::AcqRel);
    while ready != 0 {
        let queue = ready.trailing_zeros();
        if let Some(next) = next.get(queue as usize)
            && !take_one(vcpu, &block, queue, next)
        {
            ready &= !(1 << queue);
        }
        // A higher one may have become ready meanwhile.
        ready |= block.word32(0).swap(0, Ordering::AcqRel);
    }
}

/// Takes a queue's first port; false where the queue is empty after that.
fn take_one(vcpu: u32, block: &Window, queue: u32, next: &AtomicU32) -> bool {
    let mut port = next.load(Ordering::Relaxed);
    if port == 0 {
        port = block
            .word32(HEADS + queue as usize * 4)
            .load(Ordering::Acquire);
    }
    let Some(word) = word(Port(port)) else {
        // A head that cannot be: the test that waits for the event fails.
        next.store(0, Ordering::Relaxed);
        return false;
    };
    // The link goes with the bit, so that the host sees both or none.
    let unlinked = |bits: u32| Some(bits & !(LINKED | LINK));
    let link = word
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, unlinked)
        .map_or(0, |bits| bits & LINK);
    next.store(link, Ordering::Relaxed);
    let bits = word.load(Ordering::Acquire);
    if bits & MASKED == 0 && word.fetch_and(!PENDING, Ordering::AcqRel) & PENDING != 0 {
        seen::note(port, vcpu);
    }
    link != 0
}

pub(super) fn mask(port: Port) -> bool {
    word(port).is_some_and(|word| word.fetch_or(MASKED, Ordering::AcqRel) & MASKED != 0)
}

pub(super) fn clear(port: Port) {
    if let Some(word) = word(port) {
        word.fetch_and(!PENDING, Ordering::AcqRel);
    }
}
