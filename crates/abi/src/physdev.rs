//! Physical device operations (`physdev.h`), as far as guests without devices of their own ask.

use core::mem::size_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// End of an interrupt.
pub const PHYSDEVOP_eoi: u32 = 12;
/// Ask about an interrupt.
pub const PHYSDEVOP_irq_status_query: u32 = 5;
/// PV: set the ring up to which ports may be used.
pub const PHYSDEVOP_set_iopl: u32 = 6;
/// PV: set the ports that programs may use.
pub const PHYSDEVOP_set_iobitmap: u32 = 7;
/// Bind an interrupt to a pirq.
pub const PHYSDEVOP_map_pirq: u32 = 13;
/// Undo it.
pub const PHYSDEVOP_unmap_pirq: u32 = 14;
/// Get an unused pirq.
pub const PHYSDEVOP_get_free_pirq: u32 = 23;

/// `struct physdev_set_iopl`, 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PhysdevSetIopl {
    /// In: 0 to 3.
    pub iopl: u32,
}

/// `struct physdev_set_iobitmap`, 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PhysdevSetIobitmap {
    /// In: guest-virtual address of a bit for each port; 0 for none.
    pub bitmap: u64,
    /// In: ports.
    pub nr_ports: u32,
    /// Padding.
    pub pad: u32,
}

const _: () = assert!(size_of::<PhysdevSetIopl>() == 4 && size_of::<PhysdevSetIobitmap>() == 16);
