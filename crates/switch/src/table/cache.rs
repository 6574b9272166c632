//! The entries that one queue used last.

use std::sync::Arc;

use super::{Entry, Key, Table};

const SLOTS: usize = 16;

/// A queue's own few entries. They need no check against the table: an entry that left it says so itself.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    slots: [Option<(Key, Arc<Entry>)>; SLOTS],
}

impl Cache {
    /// The entry of an address, from here or from the table.
    pub(crate) fn get(&mut self, key: Key, table: &Table) -> Option<&Entry> {
        let at = key.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        let slot = self.slots.get_mut(usize::try_from(at).unwrap_or(0))?;
        let kept = matches!(slot, Some((of, entry)) if *of == key && entry.place().is_some());
        if !kept {
            *slot = table.find(key).map(|entry| (key, entry));
        }
        slot.as_ref().map(|(_, entry)| &**entry)
    }
}
