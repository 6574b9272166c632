//! vCPU operations (`vcpu.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Set a vCPU's registers.
pub const VCPUOP_initialise: u32 = 0;
/// Start a vCPU.
pub const VCPUOP_up: u32 = 1;
/// Stop a vCPU.
pub const VCPUOP_down: u32 = 2;
/// Whether a vCPU runs.
pub const VCPUOP_is_up: u32 = 3;
/// Read the run state.
pub const VCPUOP_get_runstate_info: u32 = 4;
/// Have the run state kept in guest memory.
pub const VCPUOP_register_runstate_memory_area: u32 = 5;
/// Start a periodic timer.
pub const VCPUOP_set_periodic_timer: u32 = 6;
/// Stop it.
pub const VCPUOP_stop_periodic_timer: u32 = 7;
/// Set the one-shot timer.
pub const VCPUOP_set_singleshot_timer: u32 = 8;
/// Stop it.
pub const VCPUOP_stop_singleshot_timer: u32 = 9;
/// Place the vCPU's `vcpu_info`.
pub const VCPUOP_register_vcpu_info: u32 = 10;
/// Send an NMI.
pub const VCPUOP_send_nmi: u32 = 11;
/// The physical CPU's number.
pub const VCPUOP_get_physid: u32 = 12;
/// Have the time kept in guest memory besides.
pub const VCPUOP_register_vcpu_time_memory_area: u32 = 13;

/// [`VcpuSetSingleshotTimer::flags`]: a time in the past is an error rather than an event at once.
pub const VCPU_SSHOTTMR_future: u32 = 1;

/// On a physical CPU.
pub const RUNSTATE_running: i32 = 0;
/// Waiting for a physical CPU.
pub const RUNSTATE_runnable: i32 = 1;
/// Waiting for an event.
pub const RUNSTATE_blocked: i32 = 2;
/// Stopped.
pub const RUNSTATE_offline: i32 = 3;

/// `struct vcpu_runstate_info`, 48 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuRunstateInfo {
    /// `RUNSTATE_*`.
    pub state: i32,
    /// Padding.
    pub pad: u32,
    /// When that began, in nanoseconds of system time.
    pub state_entry_time: u64,
    /// Nanoseconds spent in each state.
    pub time: [u64; 4],
}

/// `struct vcpu_register_vcpu_info`, 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuRegisterVcpuInfo {
    /// In: the frame.
    pub mfn: u64,
    /// In: where in it, in bytes.
    pub offset: u32,
    /// Padding.
    pub rsvd: u32,
}

/// `struct vcpu_set_singleshot_timer`, 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuSetSingleshotTimer {
    /// In: system time in nanoseconds.
    pub timeout_abs_ns: u64,
    /// In: `VCPU_SSHOTTMR_*`.
    pub flags: u32,
    /// Padding.
    pub pad: u32,
}

/// `struct vcpu_set_periodic_timer`, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuSetPeriodicTimer {
    /// In: nanoseconds.
    pub period_ns: u64,
}

/// `struct vcpu_register_runstate_memory_area` and `vcpu_register_time_memory_area`, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuRegisterMemoryArea {
    /// In: guest-virtual address.
    pub addr: u64,
}
