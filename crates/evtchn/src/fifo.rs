//! The FIFO interface: an event word a port, in pages that the guest hands in; sixteen queues a vCPU, one for each priority,
//! whose heads are in a control block that the guest hands in, too.
//!
//! Delivery sets PENDING; where the port is neither MASKED nor LINKED it goes to the end of its queue, and where the queue begins
//! with it, the queue's ready bit is set and the vCPU told. The guest takes a port from a queue's head by clearing LINKED, and
//! only then looks at PENDING: whoever comes second sees what the first one did.
//!
//! A port is put on queues under the lock of its vCPU and of the vCPU that it was last put on a queue of; those change with both
//! locks held. So whoever finds them changed knows that somebody has linked the port since, and the guest will look at it.

use std::mem::{offset_of, size_of};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU32, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cantle_abi::event_channel::{
    EVTCHN_FIFO_MAX_QUEUES, EVTCHN_FIFO_NR_CHANNELS, EvtchnFifoControlBlock,
};
use cantle_abi::{PAGE_SIZE, Port, SharedMemory, VcpuId};

use crate::FifoError;
use crate::page::SharedPage;
use crate::place::Queue;
use crate::slots::Slot;
use crate::vcpus::Vcpus;

mod queue;

use queue::{LINKED, MASKED, PENDING, Word, append, claim};

/// Event words in one page.
pub(crate) const WORDS_PER_PAGE: u32 = 1024;
const PAGES: u32 = EVTCHN_FIFO_NR_CHANNELS / WORDS_PER_PAGE;

/// One guest's FIFO state.
pub(crate) struct Fifo {
    pages: Box<[OnceLock<SharedPage>]>,
    vcpus: Box<[VcpuQueues]>,
}

/// One vCPU's queues.
struct VcpuQueues {
    control: OnceLock<ControlBlock>,
    queues: Mutex<Tails>,
}

/// What the host alone knows of a vCPU's queues.
#[derive(Default)]
struct Tails {
    /// The port last put on each; 0 for none.
    ports: [u32; EVTCHN_FIFO_MAX_QUEUES],
    /// An event could not be put on a queue for want of a control block.
    missed: bool,
}

/// A control block in guest memory.
struct ControlBlock {
    page: SharedPage,
    offset: usize,
}

impl ControlBlock {
    fn ready(&self) -> Option<&AtomicU32> {
        self.page
            .u32(self.offset + offset_of!(EvtchnFifoControlBlock, ready))
    }

    fn head(&self, queue: Queue) -> Option<&AtomicU32> {
        let head = usize::try_from(queue.priority()).ok()? * size_of::<u32>();
        self.page
            .u32(self.offset + offset_of!(EvtchnFifoControlBlock, head) + head)
    }
}

impl VcpuQueues {
    fn lock(&self) -> MutexGuard<'_, Tails> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a control block may be at `offset`: aligned and within one page.
pub(crate) fn check_control(offset: usize) -> Result<(), FifoError> {
    if !offset.is_multiple_of(8) || offset > PAGE_SIZE - size_of::<EvtchnFifoControlBlock>() {
        return Err(FifoError::BadControlBlock(offset));
    }
    Ok(())
}

impl Fifo {
    pub(crate) fn new(vcpus: u32) -> Self {
        Self {
            pages: (0..PAGES).map(|_| OnceLock::new()).collect(),
            vcpus: (0..vcpus)
                .map(|_| VcpuQueues {
                    control: OnceLock::new(),
                    queues: Mutex::default(),
                })
                .collect(),
        }
    }

    /// With the queues of a snapshot, and without pages and control blocks: they are handed in again. With each block all that
    /// is pending and on no queue is looked at.
    pub(crate) fn restored(vcpus: u32, tails: &[[u32; EVTCHN_FIFO_MAX_QUEUES]]) -> Self {
        let fifo = Self::new(vcpus);
        for state in &fifo.vcpus {
            state.lock().missed = true;
        }
        for (state, tails) in fifo.vcpus.iter().zip(tails) {
            state.lock().ports = *tails;
        }
        fifo
    }

    /// The last port on each queue of each vCPU.
    pub(crate) fn tails(&self) -> Vec<[u32; EVTCHN_FIFO_MAX_QUEUES]> {
        self.vcpus.iter().map(|state| state.lock().ports).collect()
    }

    /// Places a vCPU's control block. True where events could not be linked before for want of it: the caller then links
    /// what is pending for the vCPU ([`relink`](Self::relink)).
    pub(crate) fn init_control(
        &self,
        vcpu: VcpuId,
        page: Arc<dyn SharedMemory + Send + Sync>,
        offset: usize,
    ) -> Result<bool, FifoError> {
        let state = usize::try_from(vcpu.0).ok().and_then(|n| self.vcpus.get(n));
        let state = state.ok_or(FifoError::NoVcpu(vcpu))?;
        check_control(offset)?;
        let page = SharedPage::new(page);
        if page.len() < PAGE_SIZE {
            return Err(FifoError::BadPage(page.len()));
        }
        // With the lock held: an event is put on a queue afterwards, or counted as missed before.
        let mut tails = state.lock();
        if state.control.set(ControlBlock { page, offset }).is_err() {
            return Err(FifoError::ControlBlockPlaced(vcpu));
        }
        Ok(std::mem::take(&mut tails.missed))
    }

    /// Adds a page of event words; returns its first port. The caller holds the domain's control lock, and then delivers what
    /// waits on these ports ([`deliver_waiting`](Self::deliver_waiting)).
    pub(crate) fn expand_array(
        &self,
        page: Arc<dyn SharedMemory + Send + Sync>,
    ) -> Result<Port, FifoError> {
        let page = SharedPage::new(page);
        if page.len() < PAGE_SIZE {
            return Err(FifoError::BadPage(page.len()));
        }
        let firsts = (0..EVTCHN_FIFO_NR_CHANNELS).step_by(WORDS_PER_PAGE as usize);
        for (first, place) in firsts.zip(&self.pages) {
            if place.get().is_none() {
                // Releases the whole page to those who find it (XSA-359).
                return match place.set(page) {
                    Ok(()) => Ok(Port(first)),
                    Err(_) => Err(FifoError::ArrayFull),
                };
            }
        }
        Err(FifoError::ArrayFull)
    }

    /// Marks `port` pending, and puts it on its queue unless it is masked or on one.
    pub(crate) fn set_pending(&self, port: Port, slot: &Slot, vcpus: &Vcpus) {
        if let Some(word) = self.word(port) {
            self.pend(port, word, slot, vcpus);
            return;
        }
        slot.set_waiting(true);
        // Either this sees the page, or who brings the page sees the mark. Pairs with the fence in `deliver_waiting`.
        fence(SeqCst);
        self.take_waiting(port, slot, vcpus);
    }

    /// Delivers what waited for a port's event word, which has just come.
    pub(crate) fn deliver_waiting(&self, port: Port, slot: &Slot, vcpus: &Vcpus) {
        fence(SeqCst);
        self.take_waiting(port, slot, vcpus);
    }

    /// Clears the mask bit; delivers what became pending meanwhile.
    pub(crate) fn unmask(&self, port: Port, slot: &Slot, vcpus: &Vcpus) {
        if let Some(word) = self.word(port) {
            let old = word.lower(MASKED);
            if old & PENDING != 0 && old & LINKED == 0 {
                self.link(port, word, slot, vcpus);
            }
        }
    }

    /// Puts a port on its queue if it is pending, not masked and on none.
    pub(crate) fn relink(&self, port: Port, slot: &Slot, vcpus: &Vcpus) {
        if let Some(word) = self.word(port)
            && word.get() & (PENDING | MASKED | LINKED) == PENDING
        {
            self.link(port, word, slot, vcpus);
        }
    }

    pub(crate) fn clear_pending(&self, port: Port) {
        if let Some(word) = self.word(port) {
            word.lower(PENDING);
        }
    }

    pub(crate) fn is_pending(&self, port: Port) -> bool {
        self.word(port)
            .is_some_and(|word| word.get() & PENDING != 0)
    }

    /// Whether the guest has the port on a queue, or says so.
    pub(crate) fn is_linked(&self, port: Port) -> bool {
        self.word(port).is_some_and(|word| word.get() & LINKED != 0)
    }

    fn take_waiting(&self, port: Port, slot: &Slot, vcpus: &Vcpus) {
        if let Some(word) = self.word(port)
            && slot.set_waiting(false)
        {
            self.pend(port, word, slot, vcpus);
        }
    }

    fn pend(&self, port: Port, word: &AtomicU32, slot: &Slot, vcpus: &Vcpus) {
        let old = word.raise(PENDING);
        // Where it was pending and on no queue the guest has dropped it, or is about to clear it: as Xen, link it again.
        if old & (MASKED | LINKED) == 0 {
            self.link(port, word, slot, vcpus);
        }
        if old & PENDING == 0 {
            vcpus.wake_pollers();
        }
    }

    /// Puts a port on its queue, unless it is on one by now. Its word is PENDING already.
    fn link(&self, port: Port, word: &AtomicU32, slot: &Slot, vcpus: &Vcpus) {
        let place = slot.place();
        let (to, from) = (place.queue, place.last);
        let Some((target, mut tails)) = self.lock(to, from) else {
            return;
        };
        // Somebody has put it on a queue since: after PENDING was set, so that the guest will see it.
        if slot.place().last != from {
            return;
        }
        let Some(control) = target.control.get() else {
            // The guest unmasks nothing before that, if it keeps the rules (XSA-107).
            tails.near.missed = true;
            return;
        };
        let Some(last) = tails.tail(from, to) else {
            return;
        };
        if !claim(word, last, port.0) {
            return;
        }
        if to != from {
            slot.set_last(to);
        }
        let (Some(tail), Some(head)) = (tails.tail(to, to), control.head(to)) else {
            return;
        };
        let first = append(tail, |port| self.word(Port(port)), head, port.0);
        drop(tails);
        if first && let Some(ready) = control.ready() {
            let bit = 1 << to.priority();
            if ready.raise(bit) & bit == 0 {
                vcpus.mark(to.vcpu());
            }
        }
    }

    /// Locks two queues' vCPUs, the lower one first.
    fn lock(&self, to: Queue, from: Queue) -> Option<(&VcpuQueues, TwoTails<'_>)> {
        let near = self.vcpus.get(to.index())?;
        if to.index() == from.index() {
            let near_tails = near.lock();
            return Some((
                near,
                TwoTails {
                    near: near_tails,
                    far: None,
                },
            ));
        }
        let far = self.vcpus.get(from.index())?;
        let (near_tails, far_tails) = if to.index() < from.index() {
            let first = near.lock();
            (first, far.lock())
        } else {
            let first = far.lock();
            (near.lock(), first)
        };
        let tails = TwoTails {
            near: near_tails,
            far: Some(far_tails),
        };
        Some((near, tails))
    }

    fn word(&self, port: Port) -> Option<&AtomicU32> {
        let page = self
            .pages
            .get(usize::try_from(port.0 / WORDS_PER_PAGE).ok()?)?;
        let word = usize::try_from(port.0 % WORDS_PER_PAGE).ok()?;
        page.get()?.u32(word * size_of::<u32>())
    }
}

/// The tails of the vCPU that a port goes to, and of the one that it comes from where that is another.
struct TwoTails<'a> {
    near: MutexGuard<'a, Tails>,
    far: Option<MutexGuard<'a, Tails>>,
}

impl TwoTails<'_> {
    /// The tail of `queue`, which is on the vCPU of `near`'s queue or on the other one.
    fn tail(&mut self, queue: Queue, near: Queue) -> Option<&mut u32> {
        let tails = match &mut self.far {
            Some(far) if queue.index() != near.index() => far,
            _ => &mut self.near,
        };
        tails.ports.get_mut(usize::try_from(queue.priority()).ok()?)
    }
}
