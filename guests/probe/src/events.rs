//! Event channels: the shared pages, how events are taken, and how often each port was signalled.

mod calls;
pub(crate) mod fifo;
mod seen;
mod two_level;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cantle_abi::hvm::{HVMOP_set_evtchn_upcall_vector, XenHvmEvtchnUpcallVector};
use cantle_abi::memory::{XENMAPSPACE_shared_info, XENMEM_add_to_physmap, XenAddToPhysmap};
use cantle_abi::vcpu::{VCPUOP_register_vcpu_info, VcpuRegisterVcpuInfo};
use cantle_abi::xen::{__HYPERVISOR_hvm_op, __HYPERVISOR_memory_op};
use cantle_abi::{DomId, Errno, Gfn, PAGE_SIZE, Port};

use crate::hypercall;
use crate::interrupts::UPCALL_VECTOR;
use crate::memory::{self, Window};
use crate::report::{Because as _, Outcome};
use crate::{apic, clock, cpu, fail};

pub(crate) use calls::*;
pub(crate) use seen::{after, all, count, seen_by};

/// Where Linux's HVM guests put the shared info page: in the hole for devices.
pub(crate) const SHARED_INFO: u64 = 0xfe70_0000;

const VCPU_INFO: u32 = 64;
const TIME: usize = 32;

/// How many vCPUs the probe can tell apart.
pub(crate) const VCPUS: usize = 16;

static READY: AtomicBool = AtomicBool::new(false);
/// Each vCPU's registered `vcpu_info`, as an address; 0 for none.
static VCPU_INFOS: [AtomicU64; VCPUS] = [const { AtomicU64::new(0) }; VCPUS];
/// Whether events are to come by the FIFO interface from the first on.
static WANT_FIFO: AtomicBool = AtomicBool::new(false);

/// Events come by the FIFO interface from the first on. To be said before the first use.
pub(crate) fn want_fifo() {
    WANT_FIFO.store(true, Ordering::Relaxed);
}

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
    two_level::mask_all(&shared);
    clock::at(shared.addr() + TIME as u64);
    let page = memory::page()?;
    INFO_PAGE.store(page.addr(), Ordering::Relaxed);
    join(0)?;
    clock::at(page.addr() + TIME as u64);
    if WANT_FIFO.load(Ordering::Relaxed) {
        fifo::enter()?;
        fifo::expand(fifo::MASKED)?;
    }
    Ok(())
}

/// Registers a vCPU's `vcpu_info`, and its control block where events come by FIFO. On the vCPU itself, or for one that does not run yet.
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
    if fifo::in_use() {
        fifo::place_control(vcpu).because("init_control")?;
    }
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
    cpu::without_interrupts(|| {
        // The order is the protocol's: the flag is cleared before anything is taken, so that an event in between sets it again.
        if info.byte(0).swap(0, Ordering::AcqRel) == 0 {
            return;
        }
        if fifo::in_use() {
            fifo::collect(vcpu);
        } else {
            two_level::collect(vcpu, &shared, &info);
        }
    });
}

/// The host has reset all event channels: they come by the 2-level interface again.
pub(crate) fn were_reset() {
    fifo::left();
    // Selectors that nobody has looked at meanwhile would hide those to come.
    for info in (0..).map_while(vcpu_info) {
        info.word64(8).store(0, Ordering::Release);
    }
}

/// Masks a port; whether it was masked.
pub(crate) fn mask(port: Port) -> bool {
    if fifo::in_use() {
        fifo::mask(port)
    } else {
        two_level::mask(port)
    }
}

/// Whether a port's pending bit is set.
pub(crate) fn is_pending(port: Port) -> bool {
    if fifo::in_use() {
        fifo::bits(port) & fifo::PENDING != 0
    } else {
        two_level::is_pending(port)
    }
}

/// Clears a port's pending bit.
pub(crate) fn clear(port: Port) {
    if fifo::in_use() {
        fifo::clear(port);
    } else {
        two_level::clear(port);
    }
}
