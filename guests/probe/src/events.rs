//! Event channels: the shared pages, the operations, and how often each port was signalled.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use cantle_abi::event_channel::{
    self as abi, EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindIpi, EvtchnBindVcpu,
    EvtchnBindVirq, EvtchnPort, EvtchnStatus,
};
use cantle_abi::hvm::{HVMOP_set_evtchn_upcall_vector, XenHvmEvtchnUpcallVector};
use cantle_abi::memory::{XENMAPSPACE_shared_info, XENMEM_add_to_physmap, XenAddToPhysmap};
use cantle_abi::vcpu::{VCPUOP_register_vcpu_info, VcpuRegisterVcpuInfo};
use cantle_abi::xen::{__HYPERVISOR_event_channel_op, __HYPERVISOR_hvm_op, __HYPERVISOR_memory_op};
use cantle_abi::{DomId, Errno, Gfn, PAGE_SIZE, Port, VcpuId};
use zerocopy::{FromBytes, IntoBytes};

use crate::hypercall;
use crate::interrupts::UPCALL_VECTOR;
use crate::memory::{self, Window};
use crate::report::{Because as _, Outcome};
use crate::{apic, clock, cpu, fail};

/// Where Linux's HVM guests put the shared info page: in the hole for devices.
pub(crate) const SHARED_INFO: u64 = 0xfe70_0000;

const PENDING: usize = 2048;
const MASK: usize = 2560;
const VCPU_INFO: u32 = 64;
const TIME: usize = 32;
const PORTS: usize = 4096;

/// How many vCPUs the probe can tell apart.
pub(crate) const VCPUS: usize = 16;

static READY: AtomicBool = AtomicBool::new(false);
/// Each vCPU's registered `vcpu_info`, as an address; 0 for none.
static VCPU_INFOS: [AtomicU64; VCPUS] = [const { AtomicU64::new(0) }; VCPUS];
/// How often each port was seen pending.
static COUNTS: [AtomicU32; PORTS] = [const { AtomicU32::new(0) }; PORTS];
/// The vCPU that saw it last.
static SEEN_BY: [AtomicU32; PORTS] = [const { AtomicU32::new(u32::MAX) }; PORTS];

/// The shared info page, once mapped.
pub(crate) fn shared_info() -> Option<Window> {
    READY
        .load(Ordering::Relaxed)
        .then(|| Window::outside_image(SHARED_INFO, PAGE_SIZE))
        .flatten()
}

/// The page in which the vCPUs' infos are registered, set by `prepare`.
static INFO_PAGE: AtomicU64 = AtomicU64::new(0);

/// The 64 bytes from an address in shared info or in the page of registered infos.
pub(crate) fn info_window(addr: u64) -> Option<Window> {
    if addr == 0 {
        return None;
    }
    Window::outside_image(addr, TIME).or_else(|| memory::pool_window(addr, TIME))
}

/// Puts the shared info page at a frame.
pub(crate) fn map_shared_info(gpfn: Gfn) -> Result<u64, Errno> {
    let mut add = XenAddToPhysmap {
        domid: DomId::SELF,
        size: 0,
        space: XENMAPSPACE_shared_info,
        space_high: 0,
        idx: 0,
        gpfn,
    };
    hypercall::op(__HYPERVISOR_memory_op, XENMEM_add_to_physmap, &mut add)
}

/// Has events reach the first vCPU: maps shared info, masks all ports, registers its `vcpu_info`. Done once.
pub(crate) fn prepare() -> Outcome {
    if READY.load(Ordering::Relaxed) {
        return Ok(());
    }
    map_shared_info(Gfn::of_addr(SHARED_INFO)).because("mapping shared info")?;
    READY.store(true, Ordering::Relaxed);
    let Some(shared) = shared_info() else {
        fail!("shared info lies in the program");
    };
    for word in 0..64 {
        shared
            .word64(MASK + word * 8)
            .store(u64::MAX, Ordering::Relaxed);
    }
    clock::at(shared.addr() + TIME as u64);
    let page = memory::page()?;
    INFO_PAGE.store(page.addr(), Ordering::Relaxed);
    join(0)?;
    clock::at(page.addr() + TIME as u64);
    Ok(())
}

/// Registers a vCPU's `vcpu_info` and its upcall vector. On the vCPU itself, or for one that does not run yet.
pub(crate) fn join(vcpu: u32) -> Outcome {
    let Some(slot) = VCPU_INFOS.get(vcpu as usize) else {
        fail!("the probe knows only {VCPUS} vCPUs");
    };
    let page = INFO_PAGE.load(Ordering::Relaxed);
    let offset = vcpu * VCPU_INFO;
    let mut register = VcpuRegisterVcpuInfo {
        mfn: Gfn::of_addr(page).0,
        offset,
        rsvd: 0,
    };
    hypercall::vcpu_op(VCPUOP_register_vcpu_info, vcpu, &mut register)
        .because("registering vcpu_info")?;
    slot.store(page + u64::from(offset), Ordering::Relaxed);
    Ok(())
}

/// Has a vCPU's events arrive as interrupts. On that vCPU.
pub(crate) fn enable_upcalls(vcpu: u32) -> Outcome {
    let mut vector = XenHvmEvtchnUpcallVector {
        vcpu,
        vector: UPCALL_VECTOR,
        pad: [0; 3],
    };
    hypercall::op(
        __HYPERVISOR_hvm_op,
        HVMOP_set_evtchn_upcall_vector,
        &mut vector,
    )
    .because("HVMOP_set_evtchn_upcall_vector")?;
    apic::enable();
    cpu::enable_interrupts();
    Ok(())
}

/// Where a vCPU's `vcpu_info` lies.
pub(crate) fn vcpu_info(vcpu: u32) -> Option<Window> {
    let addr = VCPU_INFOS.get(vcpu as usize)?.load(Ordering::Relaxed);
    memory::pool_window(addr, VCPU_INFO as usize)
}

/// Takes this vCPU's pending events and counts them. Also from the interrupt handler.
pub(crate) fn collect() {
    let vcpu = crate::smp::current();
    let (Some(shared), Some(info)) = (shared_info(), vcpu_info(vcpu)) else {
        return;
    };
    // The order is the protocol's: the flag is cleared before the selector is taken, so that an event in between sets it again.
    if info.byte(0).swap(0, Ordering::AcqRel) == 0 {
        return;
    }
    let mut selector = info.word64(8).swap(0, Ordering::AcqRel);
    while selector != 0 {
        let word = selector.trailing_zeros() as usize;
        selector &= selector - 1;
        let pending = shared.word64(PENDING + word * 8);
        let unmasked = !shared.word64(MASK + word * 8).load(Ordering::Relaxed);
        let seen = pending.load(Ordering::Acquire) & unmasked;
        // Another vCPU may look at the same word: whoever clears a bit has the event.
        let mut ready = pending.fetch_and(!seen, Ordering::AcqRel) & seen;
        while ready != 0 {
            let port = word * 64 + ready.trailing_zeros() as usize;
            ready &= ready - 1;
            if let (Some(count), Some(seen_by)) = (COUNTS.get(port), SEEN_BY.get(port)) {
                seen_by.store(vcpu, Ordering::Relaxed);
                count.fetch_add(1, Ordering::Release);
            }
        }
    }
}

/// How often a port was seen pending.
pub(crate) fn count(port: Port) -> u32 {
    COUNTS
        .get(port.0 as usize)
        .map_or(0, |count| count.load(Ordering::Acquire))
}

/// The vCPU that saw the port pending last.
pub(crate) fn seen_by(port: Port) -> u32 {
    SEEN_BY
        .get(port.0 as usize)
        .map_or(u32::MAX, |vcpu| vcpu.load(Ordering::Relaxed))
}

fn bit(base: usize, port: Port) -> Option<(&'static AtomicU64, u64)> {
    let (word, bit) = (port.0 as usize / 64, port.0 % 64);
    (word < 64).then(|| shared_info().map(|s| (s.word64(base + word * 8), 1 << bit)))?
}

/// Masks a port; whether it was masked.
pub(crate) fn mask(port: Port) -> bool {
    bit(MASK, port).is_some_and(|(word, bit)| word.fetch_or(bit, Ordering::AcqRel) & bit != 0)
}

/// Whether a port's pending bit is set.
pub(crate) fn is_pending(port: Port) -> bool {
    bit(PENDING, port).is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
}

/// Clears a port's pending bit.
pub(crate) fn clear(port: Port) {
    if let Some((word, bit)) = bit(PENDING, port) {
        word.fetch_and(!bit, Ordering::AcqRel);
    }
}

fn op<T: FromBytes + IntoBytes>(command: u32, argument: &mut T) -> Result<u64, Errno> {
    hypercall::op(__HYPERVISOR_event_channel_op, command, argument)
}

/// Signals the other end.
pub(crate) fn send(port: Port) -> Result<u64, Errno> {
    op(abi::EVTCHNOP_send, &mut EvtchnPort { port })
}

/// Unmasks a port, by the host: what was pending arrives.
pub(crate) fn unmask(port: Port) -> Result<u64, Errno> {
    op(abi::EVTCHNOP_unmask, &mut EvtchnPort { port })
}

/// Closes a port.
pub(crate) fn close(port: Port) -> Result<u64, Errno> {
    op(abi::EVTCHNOP_close, &mut EvtchnPort { port })
}

/// A new port that `remote` may bind to.
pub(crate) fn alloc_unbound(remote: DomId) -> Result<Port, Errno> {
    let mut alloc = EvtchnAllocUnbound {
        dom: DomId::SELF,
        remote_dom: remote,
        port: Port(0),
    };
    op(abi::EVTCHNOP_alloc_unbound, &mut alloc)?;
    Ok(alloc.port)
}

/// Connects to a port of another domain.
pub(crate) fn bind_interdomain(remote_dom: DomId, remote_port: Port) -> Result<Port, Errno> {
    let mut bind = EvtchnBindInterdomain {
        remote_dom,
        pad: 0,
        remote_port,
        local_port: Port(0),
    };
    op(abi::EVTCHNOP_bind_interdomain, &mut bind)?;
    Ok(bind.local_port)
}

/// Binds a virtual interrupt of a vCPU.
pub(crate) fn bind_virq(virq: u32, vcpu: u32) -> Result<Port, Errno> {
    let mut bind = EvtchnBindVirq {
        virq,
        vcpu: VcpuId(vcpu),
        port: Port(0),
    };
    op(abi::EVTCHNOP_bind_virq, &mut bind)?;
    Ok(bind.port)
}

/// A port that is delivered to a vCPU of this domain.
pub(crate) fn bind_ipi(vcpu: u32) -> Result<Port, Errno> {
    let mut bind = EvtchnBindIpi {
        vcpu: VcpuId(vcpu),
        port: Port(0),
    };
    op(abi::EVTCHNOP_bind_ipi, &mut bind)?;
    Ok(bind.port)
}

/// Has a port delivered to another vCPU.
pub(crate) fn bind_vcpu(port: Port, vcpu: u32) -> Result<u64, Errno> {
    let vcpu = VcpuId(vcpu);
    op(abi::EVTCHNOP_bind_vcpu, &mut EvtchnBindVcpu { port, vcpu })
}

/// What the host says of a port of this domain.
pub(crate) fn status(port: Port) -> Result<EvtchnStatus, Errno> {
    let mut status = EvtchnStatus {
        dom: DomId::SELF,
        pad: 0,
        port,
        status: u32::MAX,
        vcpu: VcpuId(u32::MAX),
        u0: u32::MAX,
        u1: u32::MAX,
    };
    op(abi::EVTCHNOP_status, &mut status)?;
    Ok(status)
}
