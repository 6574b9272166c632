//! Version 1 or 2, and the change between them.

#![expect(
    non_upper_case_globals,
    reason = "kinds of entries are matched by the names of Xen's header"
)]

use cantle_abi::grant_table::{
    GNTTAB_NR_RESERVED_ENTRIES, GTF_invalid, GTF_permit_access, GTF_sub_page, GTF_transitive,
    GTF_type_mask,
};
use cantle_abi::{DomId, Errno, Gfn, GrantRef};
use std::sync::atomic::Ordering::SeqCst;

use super::GrantTable;
use super::config::status_frames;
use crate::active::AllLocked;
use crate::entries::{Part, Raw, Version};

/// What is left of an entry that cannot be kept.
const EMPTY: Raw = Raw {
    flags: GTF_invalid,
    grantee: DomId(0),
    part: Part::PAGE,
    gfn: Gfn(0),
    marks: 0,
};

impl GrantTable {
    /// The table's version (`GNTTABOP_get_version`): 1 until the guest chooses another.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version.load(SeqCst)
    }

    /// Frames that the entries' status takes: none with version 1 (`GNTTABOP_get_status_frames`).
    #[must_use]
    pub fn nr_status_frames(&self) -> u32 {
        match self.version() {
            2 => status_frames(self.nr_frames()),
            _ => 0,
        }
    }

    /// `GNTTABOP_set_version`: the first eight entries, the toolstack's, are kept, and may be in use; all others are emptied, and so
    /// is one of the eight that grants a part of a page where version 1 has no such thing.
    ///
    /// A guest that is refused stays with what it has. It takes a time that grows with the table's size (about 10 ns an entry),
    /// in which nobody else pins anything of it.
    ///
    /// # Errors
    ///
    /// As Xen: [`Errno::EINVAL`] for what is no version; [`Errno::ENOSYS`] for one above the
    /// [configured](crate::TableConfig::max_version); [`Errno::EBUSY`] while any but the first eight is in use;
    /// [`Errno::ERANGE`] from 2 to 1 where one of the eight is transitive, or its frame has more than 32 bits.
    pub fn set_version(&self, version: u32) -> Result<(), Errno> {
        let to = match version {
            1 => Version::One,
            2 if self.config.max_version < 2 => return Err(Errno::ENOSYS),
            2 => Version::Two,
            _ => return Err(Errno::EINVAL),
        };
        let _shape = crate::locked(&self.shape);
        if self.version() == to.number() {
            return Ok(());
        }
        // From here on nobody pins, unpins or looks at an entry, and nobody can have done half of it.
        let locked = AllLocked::new(self.active_frames());
        let reserved = usize::try_from(GNTTAB_NR_RESERVED_ENTRIES).unwrap_or(usize::MAX);
        if locked.pins().skip(reserved).any(|pins| pins.uses != 0) {
            return Err(Errno::EBUSY);
        }
        let kept = self.reserved(to)?;
        self.entries.clear(self.nr_frames());
        for (gref, raw) in (0..).zip(&kept) {
            if let Some(entry) = self.entries.get(to, GrantRef(gref)) {
                entry.put(raw);
            }
        }
        self.version.store(to.number(), SeqCst);
        drop(locked);
        Ok(())
    }

    /// What the first entries are in the other version. The guest may write them meanwhile; each is read once.
    fn reserved(&self, to: Version) -> Result<Vec<Raw>, Errno> {
        let from = self.version_in_use();
        let entries = (0..GNTTAB_NR_RESERVED_ENTRIES)
            .filter_map(|gref| self.entries.get(from, GrantRef(gref)));
        let convert = |raw: Raw| match (to, raw.flags & GTF_type_mask) {
            // Copied whole, whatever it is.
            (Version::Two, _) => Ok(raw),
            (_, GTF_permit_access) if u32::try_from(raw.gfn.0).is_err() => Err(Errno::ERANGE),
            // Version 1 would grant the whole page to those who copy. Xen lets it.
            (_, GTF_permit_access) if raw.flags & GTF_sub_page == 0 => Ok(raw),
            (_, GTF_transitive) => Err(Errno::ERANGE),
            // In use it may be all the same.
            _ => Ok(Raw {
                marks: raw.marks,
                ..EMPTY
            }),
        };
        entries.map(|entry| convert(entry.raw())).collect()
    }
}
