//! Hypercall numbers, virtual interrupts, and the pages that every domain shares with its host (`xen.h`, `arch-x86/xen.h`).

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// PV: set the trap table.
pub const __HYPERVISOR_set_trap_table: u32 = 0;
/// PV: write page table entries.
pub const __HYPERVISOR_mmu_update: u32 = 1;
/// PV: set the global descriptor table.
pub const __HYPERVISOR_set_gdt: u32 = 2;
/// PV: set the kernel's stack.
pub const __HYPERVISOR_stack_switch: u32 = 3;
/// PV: set the kernel's entries.
pub const __HYPERVISOR_set_callbacks: u32 = 4;
/// PV: have the next use of the FPU trap, or not.
pub const __HYPERVISOR_fpu_taskswitch: u32 = 5;
/// Operations on the machine, for the host's own domain.
pub const __HYPERVISOR_platform_op: u32 = 7;
/// PV: set a debug register.
pub const __HYPERVISOR_set_debugreg: u32 = 8;
/// PV: read a debug register.
pub const __HYPERVISOR_get_debugreg: u32 = 9;
/// PV: write a segment descriptor.
pub const __HYPERVISOR_update_descriptor: u32 = 10;
/// Memory operations.
pub const __HYPERVISOR_memory_op: u32 = 12;
/// Many calls in one.
pub const __HYPERVISOR_multicall: u32 = 13;
/// PV: write the page table entry of an address.
pub const __HYPERVISOR_update_va_mapping: u32 = 14;
/// The old one-shot timer.
pub const __HYPERVISOR_set_timer_op: u32 = 15;
/// Questions about the hypervisor.
pub const __HYPERVISOR_xen_version: u32 = 17;
/// The emergency console.
pub const __HYPERVISOR_console_io: u32 = 18;
/// Grant table operations.
pub const __HYPERVISOR_grant_table_op: u32 = 20;
/// Switch optional behaviour on.
pub const __HYPERVISOR_vm_assist: u32 = 21;
/// PV: the same for a frame of another domain.
pub const __HYPERVISOR_update_va_mapping_otherdomain: u32 = 22;
/// PV: return from an exception.
pub const __HYPERVISOR_iret: u32 = 23;
/// vCPU operations.
pub const __HYPERVISOR_vcpu_op: u32 = 24;
/// PV: set a segment's base.
pub const __HYPERVISOR_set_segment_base: u32 = 25;
/// Memory management of PV guests.
pub const __HYPERVISOR_mmuext_op: u32 = 26;
/// Security module operations.
pub const __HYPERVISOR_xsm_op: u32 = 27;
/// Set the NMI's handler.
pub const __HYPERVISOR_nmi_op: u32 = 28;
/// Scheduling operations.
pub const __HYPERVISOR_sched_op: u32 = 29;
/// PV: set one of the kernel's entries.
pub const __HYPERVISOR_callback_op: u32 = 30;
/// Event channel operations.
pub const __HYPERVISOR_event_channel_op: u32 = 32;
/// Physical device operations.
pub const __HYPERVISOR_physdev_op: u32 = 33;
/// HVM operations.
pub const __HYPERVISOR_hvm_op: u32 = 34;
/// The number of entries in a hypercall page that have a meaning.
pub const HYPERCALL_PAGE_ENTRIES: u32 = 64;

/// The timer; one per vCPU.
pub const VIRQ_TIMER: u32 = 0;
/// A request for debug output; one per vCPU.
pub const VIRQ_DEBUG: u32 = 1;
/// Bytes on the emergency console; global.
pub const VIRQ_CONSOLE: u32 = 2;
/// A domain ended or changed; global.
pub const VIRQ_DOM_EXC: u32 = 3;
/// Trace buffers are full; global.
pub const VIRQ_TBUF: u32 = 4;
/// A debugger's event; global.
pub const VIRQ_DEBUGGER: u32 = 6;
/// A profile sample; one per vCPU.
pub const VIRQ_XENOPROF: u32 = 7;
/// Performance counters; one per vCPU.
pub const VIRQ_XENPMU: u32 = 13;
/// Virtual interrupts there are.
pub const NR_VIRQS: u32 = 24;

/// Write to the emergency console.
pub const CONSOLEIO_write: u32 = 0;
/// Read from it.
pub const CONSOLEIO_read: u32 = 1;

/// vCPUs that have their `vcpu_info` in the shared info page.
pub const XEN_LEGACY_MAX_VCPUS: usize = 32;

/// `struct multicall_entry`, 64 bytes: one call of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MulticallEntry {
    /// In: `__HYPERVISOR_*`.
    pub op: u64,
    /// Out: what it returned.
    pub result: u64,
    /// In: its arguments.
    pub args: [u64; 6],
}

/// `struct vcpu_time_info`, 32 bytes: the clock page. Also the layout of KVM's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuTimeInfo {
    /// Odd while it is being written.
    pub version: u32,
    /// Padding.
    pub pad0: u32,
    /// The TSC at the last update.
    pub tsc_timestamp: u64,
    /// System time then, in nanoseconds.
    pub system_time: u64,
    /// TSC to nanoseconds: multiplier.
    pub tsc_to_system_mul: u32,
    /// TSC to nanoseconds: shift, as the bits of a signed byte.
    pub tsc_shift: i8,
    /// `XEN_PVCLOCK_*`.
    pub flags: u8,
    /// Padding.
    pub pad1: [u8; 2],
}

/// `struct vcpu_info`, 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuInfo {
    /// Not zero: look at `evtchn_pending_sel`.
    pub evtchn_upcall_pending: u8,
    /// PV only: upcalls are masked.
    pub evtchn_upcall_mask: u8,
    /// Padding.
    pub pad: [u8; 6],
    /// Which words of `evtchn_pending` to look at.
    pub evtchn_pending_sel: u64,
    /// The last page fault's address (PV).
    pub cr2: u64,
    /// Padding.
    pub pad2: u64,
    /// The vCPU's clock.
    pub time: VcpuTimeInfo,
}

/// `struct shared_info` of a 64-bit domain, 3136 bytes, at the start of its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SharedInfo {
    /// The first vCPUs' info, where it was not placed elsewhere.
    pub vcpu_info: [VcpuInfo; XEN_LEGACY_MAX_VCPUS],
    /// 2-level event channels: a bit a port, set by the host, cleared by the guest.
    pub evtchn_pending: [u64; 64],
    /// 2-level event channels: a bit a port, set and cleared by the guest.
    pub evtchn_mask: [u64; 64],
    /// Odd while the wall clock is being written.
    pub wc_version: u32,
    /// Wall clock at system time 0: seconds since 1970, low half.
    pub wc_sec: u32,
    /// And nanoseconds.
    pub wc_nsec: u32,
    /// Seconds, high half.
    pub wc_sec_hi: u32,
    /// `arch`: PV's memory lists.
    pub arch: ArchSharedInfo,
}

/// `struct arch_shared_info`, 48 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArchSharedInfo {
    /// Entries in the P2M.
    pub max_pfn: u64,
    /// The P2M's frames.
    pub pfn_to_mfn_frame_list_list: u64,
    /// Why an NMI came.
    pub nmi_reason: u64,
    /// The address space of `p2m_vaddr`.
    pub p2m_cr3: u64,
    /// The linear P2M.
    pub p2m_vaddr: u64,
    /// Changes of it.
    pub p2m_generation: u64,
}

const _: () = {
    assert!(size_of::<MulticallEntry>() == 64);
    assert!(size_of::<VcpuTimeInfo>() == 32 && size_of::<VcpuInfo>() == 64);
    assert!(offset_of!(VcpuInfo, time) == 32 && offset_of!(VcpuInfo, evtchn_pending_sel) == 8);
    assert!(size_of::<SharedInfo>() == 3136);
    assert!(
        offset_of!(SharedInfo, evtchn_pending) == 2048
            && offset_of!(SharedInfo, evtchn_mask) == 2560
    );
    assert!(offset_of!(SharedInfo, wc_version) == 3072 && offset_of!(SharedInfo, arch) == 3088);
};
