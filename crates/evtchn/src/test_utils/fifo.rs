//! A guest's view of the FIFO interface: it hands in pages, takes events from the queues, masks and unmasks, as a kernel does.

use std::mem::offset_of;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cantle_abi::event_channel::{
    EVTCHN_FIFO_BUSY, EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED,
    EVTCHN_FIFO_MAX_QUEUES, EVTCHN_FIFO_PENDING, EvtchnFifoControlBlock,
};
use cantle_abi::ring::HeapPages;
use cantle_abi::{Port, VcpuId};

use crate::page::SharedPage;
use crate::{FifoError, GuestDomain};

const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;

/// More steps than a chain of all ports has: a guest that has broken its own queues stops.
const MOST_STEPS: u32 = 1 << 18;

/// A page as it is handed in, and as it is used.
type Page = (Arc<HeapPages>, SharedPage);

/// A guest's FIFO pages.
pub(super) struct FifoPages {
    controls: Vec<Page>,
    /// Where each queue goes on, by vCPU: what the kernel remembers between two interrupts.
    heads: Vec<Mutex<[u32; EVTCHN_FIFO_MAX_QUEUES]>>,
    array: Box<[OnceLock<Page>]>,
}

impl FifoPages {
    pub(super) fn new(vcpus: u32) -> Self {
        let control = |_| {
            let page = Arc::new(HeapPages::new(1));
            (page.clone(), SharedPage::new(page))
        };
        Self {
            controls: (0..vcpus).map(control).collect(),
            heads: (0..vcpus).map(|_| Mutex::default()).collect(),
            array: (0..128).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Hands in a vCPU's control block, somewhere in its page.
    pub(super) fn init_control(&self, domain: &GuestDomain, vcpu: VcpuId) -> Result<(), FifoError> {
        let (page, _) = self
            .controls
            .get(vcpu.0 as usize)
            .ok_or(FifoError::NoVcpu(vcpu))?;
        domain.init_control(vcpu, page.clone(), control_at(vcpu))
    }

    /// Hands in the next page of event words, its ports masked or not.
    pub(super) fn expand(&self, domain: &GuestDomain, masked: bool) -> Result<(), FifoError> {
        let pages = Arc::new(HeapPages::new(1));
        let page = SharedPage::new(pages.clone());
        for word in (0..4096).step_by(4).filter_map(|offset| page.u32(offset)) {
            word.store(if masked { MASKED } else { 0 }, SeqCst);
        }
        let free = self.array.iter().find(|place| place.get().is_none());
        let Some(place) = free else {
            return Err(FifoError::ArrayFull);
        };
        // Known here before the host can put anything on it.
        let _ = place.set((pages.clone(), page));
        domain.expand_array(pages)
    }

    /// Hands in all that there is, once more.
    pub(super) fn hand_in_again(&self, domain: &GuestDomain) -> Result<(), FifoError> {
        for (pages, _) in self.array.iter().map_while(OnceLock::get) {
            domain.expand_array(pages.clone())?;
        }
        (0..)
            .map(VcpuId)
            .zip(&self.controls)
            .try_for_each(|(vcpu, _)| self.init_control(domain, vcpu))
    }

    /// All event words.
    pub(super) fn words(&self) -> Vec<u32> {
        (0..)
            .map_while(|port| self.word(Port(port)))
            .map(|word| word.load(SeqCst))
            .collect()
    }

    pub(super) fn set_words(&self, words: &[u32]) {
        for (port, value) in (0..).zip(words) {
            if let Some(word) = self.word(Port(port)) {
                word.store(*value, SeqCst);
            }
        }
    }

    /// A port's event word.
    pub(super) fn word(&self, port: Port) -> Option<&AtomicU32> {
        let (_, page) = self.array.get((port.0 / 1024) as usize)?.get()?;
        page.u32((port.0 % 1024) as usize * 4)
    }

    pub(super) fn mask(&self, port: Port) {
        if let Some(word) = self.word(port) {
            word.fetch_or(MASKED, SeqCst);
        }
    }

    pub(super) fn is_masked(&self, port: Port) -> bool {
        self.word(port)
            .is_some_and(|word| word.load(SeqCst) & MASKED != 0)
    }

    pub(super) fn is_linked(&self, port: Port) -> bool {
        self.word(port)
            .is_some_and(|word| word.load(SeqCst) & LINKED != 0)
    }

    /// Clears the mask where nothing is pending; false where the host must do it.
    pub(super) fn unmask(&self, port: Port) -> bool {
        let Some(word) = self.word(port) else {
            return true;
        };
        let mut seen = word.load(SeqCst);
        loop {
            if seen & MASKED == 0 {
                return true;
            }
            if seen & PENDING != 0 {
                return false;
            }
            // While the host holds the word, this waits.
            let old = seen & !BUSY;
            match word.compare_exchange(old, old & !MASKED, SeqCst, SeqCst) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    pub(super) fn clear_pending(&self, port: Port) {
        if let Some(word) = self.word(port) {
            word.fetch_and(!PENDING, SeqCst);
        }
    }

    /// Takes all that is on the vCPU's queues, the highest priority first.
    pub(super) fn take(&self, vcpu: VcpuId) -> Vec<Port> {
        let mut taken = Vec::new();
        let n = vcpu.0 as usize;
        let (Some((_, control)), Some(heads)) = (self.controls.get(n), self.heads.get(n)) else {
            return taken;
        };
        let at = control_at(vcpu);
        let Some(ready) = control.u32(at + offset_of!(EvtchnFifoControlBlock, ready)) else {
            return taken;
        };
        let mut heads = heads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut queues = ready.swap(0, SeqCst);
        for _ in 0..MOST_STEPS {
            let queue = queues.trailing_zeros() as usize;
            let Some(head) = heads.get_mut(queue) else {
                break;
            };
            if *head == 0 {
                let first = at + offset_of!(EvtchnFifoControlBlock, head) + queue * 4;
                *head = control.u32(first).map_or(0, |head| head.load(SeqCst));
            }
            let port = Port(*head);
            *head = self.unlink(port);
            if *head == 0 {
                queues &= !(1 << queue);
            }
            if let Some(word) = self.word(port)
                && word.load(SeqCst) & (PENDING | MASKED) == PENDING
            {
                word.fetch_and(!PENDING, SeqCst);
                taken.push(port);
            }
            queues |= ready.swap(0, SeqCst);
        }
        taken
    }

    /// Takes a port off its queue; returns the one behind it, 0 for none.
    fn unlink(&self, port: Port) -> u32 {
        let Some(word) = self.word(port) else {
            return 0;
        };
        let clear = |seen| Some(seen & !(LINKED | EVTCHN_FIFO_LINK_MASK));
        let (Ok(old) | Err(old)) = word.fetch_update(SeqCst, SeqCst, clear);
        old & EVTCHN_FIFO_LINK_MASK
    }
}

/// Each vCPU's block at another offset.
fn control_at(vcpu: VcpuId) -> usize {
    vcpu.0 as usize * 80 % 4000 / 8 * 8
}
