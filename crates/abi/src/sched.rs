//! Scheduling operations (`sched.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Let others run.
pub const SCHEDOP_yield: u32 = 0;
/// Sleep until an event.
pub const SCHEDOP_block: u32 = 1;
/// End the domain's run.
pub const SCHEDOP_shutdown: u32 = 2;
/// Sleep until one of some ports is pending.
pub const SCHEDOP_poll: u32 = 3;
/// End another domain's run.
pub const SCHEDOP_remote_shutdown: u32 = 4;
/// Set the reason of a later shutdown.
pub const SCHEDOP_shutdown_code: u32 = 5;
/// Start, stop or feed a watchdog.
pub const SCHEDOP_watchdog: u32 = 6;
/// Pin a vCPU.
pub const SCHEDOP_pin_override: u32 = 7;

/// Ended by itself.
pub const SHUTDOWN_poweroff: u32 = 0;
/// Wants to be started again.
pub const SHUTDOWN_reboot: u32 = 1;
/// Has saved itself.
pub const SHUTDOWN_suspend: u32 = 2;
/// Crashed.
pub const SHUTDOWN_crash: u32 = 3;
/// Its watchdog expired.
pub const SHUTDOWN_watchdog: u32 = 4;
/// Wants its connections reset, memory kept.
pub const SHUTDOWN_soft_reset: u32 = 5;

/// `struct sched_shutdown`, 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SchedShutdown {
    /// In: `SHUTDOWN_*`.
    pub reason: u32,
}

/// `struct sched_poll`, 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SchedPoll {
    /// In: guest-virtual address of the ports (32 bits each).
    pub ports: u64,
    /// In: how many.
    pub nr_ports: u32,
    /// Padding.
    pub pad: u32,
    /// In: system time in nanoseconds to give up at; 0 for never.
    pub timeout: u64,
}

/// `struct sched_watchdog`, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SchedWatchdog {
    /// In: which one; 0 for a new one.
    pub id: u32,
    /// In: seconds until it expires; 0 stops it.
    pub timeout: u32,
}
