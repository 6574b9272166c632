//! What tests of this and other crates need of a guest: who was told, and its view of its shared info page.

use std::mem::{offset_of, size_of};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, PoisonError};

use cantle_abi::ring::HeapPages;
use cantle_abi::xen::{SharedInfo, VcpuInfo};
use cantle_abi::{DomId, Port, VcpuId};

use crate::page::SharedPage;
use crate::{Abi, EvtchnError, FifoError, GuestConfig, GuestDomain, Hub, Upcall};

mod fifo;

use fifo::FifoPages;

/// Remembers which vCPUs were told, in order.
#[derive(Debug, Default)]
pub struct Recorder {
    raised: Mutex<Vec<VcpuId>>,
    poll_wakes: Mutex<u64>,
}

impl Recorder {
    /// The vCPUs that were told since the last call.
    pub fn take(&self) -> Vec<VcpuId> {
        std::mem::take(&mut *self.raised.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How often pollers were woken.
    pub fn poll_wakes(&self) -> u64 {
        *self
            .poll_wakes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upcall for Recorder {
    fn raise(&self, vcpu: VcpuId) {
        self.raised
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(vcpu);
    }

    fn wake_pollers(&self) {
        *self
            .poll_wakes
            .lock()
            .unwrap_or_else(PoisonError::into_inner) += 1;
    }
}

/// A guest on the heap: its domain, who was told, and its own view of its pages, which masks and takes events as a kernel does.
pub struct HeapGuest {
    /// The guest's domain.
    pub domain: Arc<GuestDomain>,
    /// Who was told.
    pub upcalls: Arc<Recorder>,
    page: SharedPage,
    vcpus: u32,
    max_ports: u32,
    fifo: Mutex<Arc<FifoPages>>,
}

impl HeapGuest {
    /// Adds a guest to `hub`.
    ///
    /// # Errors
    ///
    /// As [`Hub::add_guest`].
    pub fn new(hub: &Hub, dom: DomId, vcpus: u32, max_ports: u32) -> Result<Self, EvtchnError> {
        let memory = Arc::new(HeapPages::new(1));
        let upcalls = Arc::new(Recorder::default());
        let config = GuestConfig { vcpus, max_ports };
        let domain = hub.add_guest(dom, config, memory.clone(), upcalls.clone())?;
        Ok(Self {
            domain,
            upcalls,
            page: SharedPage::new(memory),
            vcpus,
            max_ports,
            fifo: Mutex::new(Arc::new(FifoPages::new(vcpus))),
        })
    }

    /// The same guest with the same memory, as a new domain in `hub`; the old one ends first.
    ///
    /// # Errors
    ///
    /// As [`Hub::add_guest`].
    pub fn moved_to(self, hub: &Hub) -> Result<Self, EvtchnError> {
        let (dom, upcalls) = (self.domain.id(), self.upcalls.clone());
        let memory = Arc::new(HeapPages::new(1));
        let fifo = self.fifo();
        // As it was before the old domain's end cleared what was pending.
        let words = fifo.words();
        copy(&self.page, &SharedPage::new(memory.clone()));
        drop(self.domain);
        fifo.set_words(&words);
        let config = GuestConfig {
            vcpus: self.vcpus,
            max_ports: self.max_ports,
        };
        Ok(Self {
            domain: hub.add_guest(dom, config, memory.clone(), upcalls.clone())?,
            upcalls,
            page: SharedPage::new(memory),
            vcpus: self.vcpus,
            max_ports: self.max_ports,
            fifo: Mutex::new(fifo),
        })
    }

    /// Hands in the FIFO pages that there are again, as the host does for a guest that was restored.
    ///
    /// # Errors
    ///
    /// As [`GuestDomain::init_control`] and [`GuestDomain::expand_array`].
    pub fn hand_in_again(&self) -> Result<(), FifoError> {
        self.fifo().hand_in_again(&self.domain)
    }

    /// Switches to the FIFO interface, as a kernel does when it starts: a control block for each vCPU, and a first page of
    /// event words, unmasked.
    ///
    /// # Errors
    ///
    /// As [`GuestDomain::init_control`] and [`GuestDomain::expand_array`].
    pub fn start_fifo(&self) -> Result<(), FifoError> {
        self.forget_fifo();
        for vcpu in 0..self.vcpus {
            self.init_control(VcpuId(vcpu))?;
        }
        self.expand_array(false)
    }

    /// Forgets the pages that were handed in, as after a reset.
    pub fn forget_fifo(&self) {
        let pages = Arc::new(FifoPages::new(self.vcpus));
        *self.fifo.lock().unwrap_or_else(PoisonError::into_inner) = pages;
    }

    /// Hands in a vCPU's control block.
    ///
    /// # Errors
    ///
    /// As [`GuestDomain::init_control`].
    pub fn init_control(&self, vcpu: VcpuId) -> Result<(), FifoError> {
        self.fifo().init_control(&self.domain, vcpu)
    }

    /// Hands in a page of event words, its ports masked or not.
    ///
    /// # Errors
    ///
    /// As [`GuestDomain::expand_array`].
    pub fn expand_array(&self, masked: bool) -> Result<(), FifoError> {
        self.fifo().expand(&self.domain, masked)
    }

    /// Whether a port is on a FIFO queue.
    pub fn is_linked(&self, port: Port) -> bool {
        self.fifo().is_linked(port)
    }

    /// Changes a port's FIFO event word, as only a kernel that has lost its mind does; false where it has none.
    pub fn scribble(&self, port: Port, change: impl Fn(u32) -> u32) -> bool {
        let fifo = self.fifo();
        let word = fifo.word(port);
        word.is_some_and(|word| {
            let _ = word.fetch_update(SeqCst, SeqCst, |seen| Some(change(seen)));
            true
        })
    }

    /// Unmasks a port: by itself where nothing is pending, by the host's call otherwise.
    pub fn unmask(&self, port: Port) {
        if self.domain.abi() == Abi::TwoLevel || !self.fifo().unmask(port) {
            // A closed port has nothing to deliver.
            let _ = self.domain.unmask(port);
        }
    }

    fn fifo(&self) -> Arc<FifoPages> {
        self.fifo
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sets a port's mask bit.
    pub fn mask(&self, port: Port) {
        if self.domain.abi() == Abi::Fifo {
            return self.fifo().mask(port);
        }
        let (word, bit) = place(port);
        if let Some(mask) = self.page.u64(offset_of!(SharedInfo, evtchn_mask) + word) {
            mask.fetch_or(bit, SeqCst);
        }
    }

    /// Whether a port's mask bit is set.
    pub fn is_masked(&self, port: Port) -> bool {
        if self.domain.abi() == Abi::Fifo {
            return self.fifo().is_masked(port);
        }
        let (word, bit) = place(port);
        let mask = self.page.u64(offset_of!(SharedInfo, evtchn_mask) + word);
        mask.is_some_and(|mask| mask.load(SeqCst) & bit != 0)
    }

    /// What a kernel's event interrupt does on a vCPU whose `vcpu_info` is in shared info: takes all events that are pending,
    /// selected and not masked, clearing their bits, from the lowest port; or all that is on the vCPU's queues, from the highest
    /// priority.
    pub fn take(&self, vcpu: VcpuId) -> Vec<Port> {
        let mut taken = Vec::new();
        let info = vcpu.0 as usize * size_of::<VcpuInfo>();
        let upcall = self
            .page
            .u8(info + offset_of!(VcpuInfo, evtchn_upcall_pending));
        let select = self
            .page
            .u64(info + offset_of!(VcpuInfo, evtchn_pending_sel));
        let (Some(upcall), Some(select)) = (upcall, select) else {
            return taken;
        };
        upcall.store(0, SeqCst);
        if self.domain.abi() == Abi::Fifo {
            return self.fifo().take(vcpu);
        }
        let selected = select.swap(0, SeqCst);
        for word in (0..64).filter(|word| selected & (1 << word) != 0) {
            let at = word * 8;
            let pending = self.page.u64(offset_of!(SharedInfo, evtchn_pending) + at);
            let mask = self.page.u64(offset_of!(SharedInfo, evtchn_mask) + at);
            let (Some(pending), Some(mask)) = (pending, mask) else {
                continue;
            };
            let active = pending.load(SeqCst) & !mask.load(SeqCst);
            pending.fetch_and(!active, SeqCst);
            for bit in (0..64u32).filter(|bit| active & (1 << bit) != 0) {
                taken.push(Port(u32::try_from(word).unwrap_or(0) * 64 + bit));
            }
        }
        taken
    }

    /// Clears a port's pending bit, as a kernel does that polls.
    pub fn clear_pending(&self, port: Port) {
        if self.domain.abi() == Abi::Fifo {
            return self.fifo().clear_pending(port);
        }
        let (word, bit) = place(port);
        if let Some(pending) = self.page.u64(offset_of!(SharedInfo, evtchn_pending) + word) {
            pending.fetch_and(!bit, SeqCst);
        }
    }

    /// A vCPU's pending selector in shared info.
    pub fn pending_sel(&self, vcpu: VcpuId) -> u64 {
        let info = vcpu.0 as usize * size_of::<VcpuInfo>();
        self.page
            .u64(info + offset_of!(VcpuInfo, evtchn_pending_sel))
            .map_or(0, |select| select.load(SeqCst))
    }
}

impl std::fmt::Debug for HeapGuest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.domain.fmt(f)
    }
}

/// Copies a page's bytes.
fn copy(from: &SharedPage, to: &SharedPage) {
    for offset in (0..from.len()).step_by(8) {
        if let (Some(from), Some(to)) = (from.u64(offset), to.u64(offset)) {
            to.store(from.load(SeqCst), SeqCst);
        }
    }
}

/// The byte offset of a port's word in its array, and its bit; port numbers wrap at 4096.
fn place(port: Port) -> (usize, u64) {
    ((port.0 / 64 % 64) as usize * 8, 1 << (port.0 % 64))
}
