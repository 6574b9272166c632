//! What a check found.

/// What [`Vmdk::check`](crate::Vmdk::check) and [`Vmdk::repair`](crate::Vmdk::repair) found, in grains of all sparse extents together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Grains that are in the file.
    pub allocated: u64,
    /// Grains that are marked as zeroes.
    pub zeroed: u64,
    /// Grains of the file that no table names: space lost, no harm.
    pub leaked: u64,
    /// Entries that name a place beyond the file's end. Repair makes them the copy's, or nothing.
    pub beyond_end: u64,
    /// Entries that name a place where metadata is. Repaired likewise.
    pub in_metadata: u64,
    /// Entries that name a grain that another one names, too. Not repaired: nobody knows whose it is.
    pub shared: u64,
    /// Grains at a place that is not a multiple of their size. VMware and QEMU make none; they work.
    pub misaligned: u64,
    /// Grain tables that differ from their copies. The copy is made equal.
    pub unequal_tables: u64,
}

impl Report {
    /// How many entries are wrong. Reading what they are about fails, or, for those that share, shows another part's bytes.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.beyond_end + self.in_metadata + self.shared
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.allocated += other.allocated;
        self.zeroed += other.zeroed;
        self.leaked += other.leaked;
        self.beyond_end += other.beyond_end;
        self.in_metadata += other.in_metadata;
        self.shared += other.shared;
        self.misaligned += other.misaligned;
        self.unequal_tables += other.unequal_tables;
    }
}
