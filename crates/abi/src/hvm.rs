//! HVM operations and parameters (`hvm/hvm_op.h`, `hvm/params.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::DomId;

/// Set a parameter.
pub const HVMOP_set_param: u32 = 0;
/// Read a parameter.
pub const HVMOP_get_param: u32 = 1;
/// Flush TLBs.
pub const HVMOP_flush_tlbs: u32 = 5;
/// A page table is about to be freed.
pub const HVMOP_pagetable_dying: u32 = 9;
/// System time.
pub const HVMOP_get_time: u32 = 10;
/// A frame's type.
pub const HVMOP_get_mem_type: u32 = 15;
/// The vector of a vCPU's upcall.
pub const HVMOP_set_evtchn_upcall_vector: u32 = 23;

/// How the upcall is delivered.
pub const HVM_PARAM_CALLBACK_IRQ: u32 = 0;
/// The frame of xenstore's ring.
pub const HVM_PARAM_STORE_PFN: u32 = 1;
/// The port of xenstore's ring.
pub const HVM_PARAM_STORE_EVTCHN: u32 = 2;
/// Whether PAE is enabled.
pub const HVM_PARAM_PAE_ENABLED: u32 = 4;
/// The frame of the device model's ring.
pub const HVM_PARAM_IOREQ_PFN: u32 = 5;
/// The frame of the device model's buffered ring.
pub const HVM_PARAM_BUFIOREQ_PFN: u32 = 6;
/// Timer mode.
pub const HVM_PARAM_TIMER_MODE: u32 = 10;
/// Whether there is an HPET.
pub const HVM_PARAM_HPET_ENABLED: u32 = 11;
/// The device model's domain.
pub const HVM_PARAM_DM_DOMAIN: u32 = 13;
/// The ACPI sleep state.
pub const HVM_PARAM_ACPI_S_STATE: u32 = 14;
/// Whether timers of vCPUs are aligned.
pub const HVM_PARAM_VPT_ALIGN: u32 = 16;
/// The frame of the console's ring.
pub const HVM_PARAM_CONSOLE_PFN: u32 = 17;
/// The port of the console's ring.
pub const HVM_PARAM_CONSOLE_EVTCHN: u32 = 18;
/// Where the generation id lies.
pub const HVM_PARAM_VM_GENERATION_ID_ADDR: u32 = 34;
/// Parameters there are.
pub const HVM_NR_PARAMS: usize = 39;

/// `struct xen_hvm_param`, 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenHvmParam {
    /// In: whose.
    pub domid: DomId,
    /// Padding.
    pub pad: u16,
    /// In: `HVM_PARAM_*`.
    pub index: u32,
    /// In or out.
    pub value: u64,
}

/// `struct xen_hvm_evtchn_upcall_vector`, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenHvmEvtchnUpcallVector {
    /// In: the vCPU.
    pub vcpu: u32,
    /// In: the vector, 0x10 and above.
    pub vector: u8,
    /// Padding.
    pub pad: [u8; 3],
}

/// `struct xen_hvm_get_time`, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenHvmGetTime {
    /// Out: system time in nanoseconds.
    pub now: u64,
}
