//! PV: from a kernel file to guest memory that is ready for a start at `startup_xen`, with the monitor beside it.
//!
//! - [`PvKernel`] reads what the kernel's notes (or its old `__xen_guest` section) ask for;
//! - [`PvFrames`] says which frames of the VM the guest has, and [`MonitorLayout`] which the monitor has before them;
//! - [`Layout`] says what lies where in the guest's pseudo-physical memory (the start-of-day layout of `xen.h`);
//! - [`PvBoot::load`] writes all of the guest's, [`MonitorLayout::write`] all of the monitor's.
//!
//! As with PVH a kernel image is hostile: whatever it asks for is checked against the memory that there is, and against what belongs to
//! the monitor.

mod frames;
mod initrd;
mod kernel;
mod layout;
mod legacy;
mod load;
mod monitor;
mod tables;

#[cfg(test)]
mod tests;

pub use frames::{FIRST_SPECIAL, PvFrames};
pub use kernel::{PvError, PvKernel};
pub use layout::Layout;
pub use load::{PvBoot, PvEntry, PvRings};
pub use monitor::{MonitorError, MonitorLayout, MonitorStart};
