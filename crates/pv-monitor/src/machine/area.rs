//! A vCPU's area: what is where in it.
//!
//! State at the start, stacks of exceptions that must not use the ordinary one, a page that is not mapped, and the ordinary stack up to the end.
// UNSAFETY: the areas are at addresses that the host has mapped, and this module makes references of them.
#![expect(unsafe_code)]

use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use cantle_abi::pv::VGCF_in_syscall;
use cantle_abi::xen::{__HYPERVISOR_iret, VcpuInfo};
use cantle_pv_monitor::interface::{DIRECT_MAP, MAX_VCPUS, VCPU_AREA_SIZE, VCPU_GUARD, vcpu_area};
use cantle_pv_monitor::regs::Regs;
use cantle_pv_monitor::segments::{KERNEL_CS, KERNEL_SS, SYSRET};
use cantle_pv_monitor::start::{FIXED_RFLAGS, GUEST_RFLAGS, Start};
use cantle_pv_monitor::vcpu::{Callback, Vcpu};

/// What other vCPUs use of a vCPU.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Shared {
    /// It runs in the guest or in the monitor, so that it has translations and answers an interrupt. While it is not set (it sleeps, or the host
    /// works for it), it uses none of the guest's, and looks at `asked` before it does again.
    pub(crate) active: AtomicBool,
    /// It is meant to run (`VCPUOP_up`).
    pub(crate) up: AtomicBool,
    /// The host has been told to start it.
    pub(crate) started: AtomicBool,
    /// `VCPUOP_initialise` has said how it begins.
    pub(crate) initialised: AtomicBool,
    /// Its local APIC.
    pub(crate) apic: AtomicU32,
    /// How often it has been asked to flush.
    pub(crate) asked: AtomicU64,
    /// How often it had been when it last flushed.
    pub(crate) flushed: AtomicU64,
}

/// The task segment: where the stacks are.
#[repr(C, packed(4))]
pub(crate) struct Task {
    reserved: u32,
    /// rsp on the way into rings 0 to 2.
    pub(crate) rsp: [u64; 3],
    reserved2: u64,
    /// Stacks that an entry of the interrupt table may ask for; the first is number 1.
    pub(crate) ist: [u64; 7],
    reserved3: u64,
    reserved4: u16,
    /// Beyond the segment's limit: no ports.
    pub(crate) ports: u16,
}
const _: () = assert!(size_of::<Task>() as u64 == cantle_pv_monitor::segments::TASK_BYTES);

/// Where the parts are.
const SHARED: u64 = 0x1e00;
const TASK: u64 = 0x1f00;
const START: u64 = 0x2000;
/// The ends of the stacks for `#DB`, NMI and `#DF`, in the order of their numbers from 1.
pub(crate) const IST_ENDS: [u64; 3] = [0x2800, 0x3000, VCPU_GUARD];
/// The bytes that the registers take at the end of the ordinary stack.
pub(crate) const REGS: u64 = size_of::<Regs>() as u64;

const _: () = {
    assert!(size_of::<Vcpu>() as u64 <= SHARED);
    assert!(SHARED + size_of::<Shared>() as u64 <= TASK);
    assert!(TASK + size_of::<Task>() as u64 <= START);
    assert!(START + (size_of::<Start>() as u64) < IST_ENDS[0] - 0x400);
    // The entry code knows these.
    assert!(offset_of!(Vcpu, scratch) == 0);
    assert!(offset_of!(Vcpu, stack_top) == 8);
    assert!(offset_of!(Vcpu, in_kernel) == 20);
    assert!(offset_of!(Vcpu, one_address_space) == 21);
    assert!(offset_of!(Vcpu, vcpu_info) == 24);
    assert!(offset_of!(Vcpu, kernel_sp) == 32);
    assert!(offset_of!(Vcpu, syscall) == 96);
    assert!(offset_of!(Callback, address) == 0 && offset_of!(Callback, masks_events) == 8);
    assert!(offset_of!(VcpuInfo, evtchn_upcall_pending) == 0);
    assert!(offset_of!(VcpuInfo, evtchn_upcall_mask) == 1);
    assert!(KERNEL_CS == 0xe031 && KERNEL_SS == 0xe039);
    assert!(SYSRET.0 == 0x33 && SYSRET.1 == 0x2b);
    assert!(GUEST_RFLAGS == 0x0025_0dd5 && FIXED_RFLAGS == 0x202);
    assert!(VGCF_in_syscall == 0x100 && __HYPERVISOR_iret == 23);
    assert!(REGS == 168);
    assert!(offset_of!(Regs, cs) == 136);
    assert!(VCPU_AREA_SIZE == 0x8000);
};

/// The area in which an address of the stack is.
pub(crate) const fn of(stack: u64) -> u64 {
    stack & !(VCPU_AREA_SIZE - 1)
}

/// The state of the vCPU whose area this is.
pub(crate) fn vcpu(area: u64) -> *mut Vcpu {
    pointer(area)
}

/// The registers at the end of its ordinary stack: the guest's, whenever it has been entered from there.
pub(crate) fn regs(area: u64) -> *mut Regs {
    pointer(area + VCPU_AREA_SIZE - REGS)
}

/// How the vCPU begins.
pub(crate) fn start(area: u64) -> *mut Start {
    pointer(area + START)
}

/// Its task segment.
pub(crate) fn task(area: u64) -> *mut Task {
    pointer(task_address(area))
}

/// Where that is.
pub(crate) const fn task_address(area: u64) -> u64 {
    area + TASK
}

/// What other vCPUs use of one. `None` for a number that there is not.
pub(crate) fn shared(vcpu: u32) -> Option<&'static Shared> {
    if vcpu >= super::boot().vcpus.min(MAX_VCPUS) {
        return None;
    }
    // SAFETY: the host has mapped an area for each vCPU, filled with zeroes, which are valid for atomics; nothing else is at this offset.
    unsafe { pointer::<Shared>(vcpu_area(vcpu) + SHARED).as_ref() }
}

/// An entry of a table, in the direct map.
pub(super) fn table_entry(mfn: u64, slot: usize) -> *mut u64 {
    pointer(DIRECT_MAP + (mfn << 12) + (slot as u64 & 511) * 8)
}

/// An address as a pointer.
#[expect(clippy::cast_possible_truncation, reason = "the machine has 64 bits")]
pub(super) const fn pointer<T>(address: u64) -> *mut T {
    core::ptr::with_exposed_provenance_mut(address as usize)
}
