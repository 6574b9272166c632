//! Physical device operations (`physdev.h`), as far as HVM guests ask.

/// End of an interrupt.
pub const PHYSDEVOP_eoi: u32 = 12;
/// Ask about an interrupt.
pub const PHYSDEVOP_irq_status_query: u32 = 5;
/// Bind an interrupt to a pirq.
pub const PHYSDEVOP_map_pirq: u32 = 13;
/// Undo it.
pub const PHYSDEVOP_unmap_pirq: u32 = 14;
/// Get an unused pirq.
pub const PHYSDEVOP_get_free_pirq: u32 = 23;
