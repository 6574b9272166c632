//! What a broker knows of its back end's mappings.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// A page as the back end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct WindowPage {
    /// Which window.
    pub(super) window: u16,
    /// In the part for reading only.
    pub(super) read_only: bool,
    /// Which page of it.
    pub(super) page: u64,
}

/// Mappings by handle, and how many there are of each page. `P` is what keeps a grant in use.
#[derive(Debug)]
pub(super) struct Books<P> {
    slots: Vec<Option<(P, WindowPage)>>,
    free: Vec<u32>,
    uses: HashMap<WindowPage, u32>,
    limit: usize,
}

impl<P> Books<P> {
    /// For at most `limit` mappings at a time.
    pub(super) fn new(limit: u32) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            uses: HashMap::new(),
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
        }
    }

    /// How many mappings there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Enters a mapping: its handle, and whether it is the page's first. Without room, what was to be entered.
    pub(super) fn enter(&mut self, pin: P, page: WindowPage) -> Result<(u32, bool), P> {
        let handle = match self.free.pop() {
            Some(handle) => handle,
            None if self.slots.len() < self.limit => {
                let Ok(handle) = u32::try_from(self.slots.len()) else {
                    return Err(pin);
                };
                self.slots.push(None);
                handle
            }
            None => return Err(pin),
        };
        if let Some(slot) = self.slot(handle) {
            *slot = Some((pin, page));
        }
        let uses = self.uses.entry(page).or_insert(0);
        *uses += 1;
        Ok((handle, *uses == 1))
    }

    /// Takes a mapping out; the last of its page where that is true. The page is not [`is_lent`](Self::is_lent) then.
    pub(super) fn leave(&mut self, handle: u32) -> Option<(P, WindowPage, bool)> {
        let (pin, page) = self.slot(handle)?.take()?;
        self.free.push(handle);
        let last = match self.uses.entry(page) {
            Entry::Occupied(mut uses) if *uses.get() > 1 => {
                *uses.get_mut() -= 1;
                false
            }
            Entry::Occupied(uses) => {
                uses.remove();
                true
            }
            Entry::Vacant(_) => true,
        };
        Some((pin, page, last))
    }

    /// Whether the back end may reach a page.
    pub(super) fn is_lent(&self, page: WindowPage) -> bool {
        self.uses.contains_key(&page)
    }

    /// One of a page's mappings. Takes time by how many mappings there are.
    pub(super) fn pin_of(&self, page: WindowPage) -> Option<&P> {
        let mut slots = self.slots.iter().flatten();
        slots.find(|(_, other)| *other == page).map(|(pin, _)| pin)
    }

    fn slot(&mut self, handle: u32) -> Option<&mut Option<(P, WindowPage)>> {
        self.slots.get_mut(usize::try_from(handle).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Op {
        Enter(u64, bool),
        Leave(u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0..4_u64, any::<bool>()).prop_map(|(page, read_only)| Op::Enter(page, read_only)),
            (0..8_u32).prop_map(Op::Leave),
        ]
    }

    proptest! {
        #[test]
        fn books_are_kept_as_a_plain_list_is(ops in prop::collection::vec(op(), 0..100)) {
            let mut books = Books::new(6);
            let mut model: BTreeMap<u32, (usize, WindowPage)> = BTreeMap::new();
            for (n, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Enter(page, read_only) => {
                        let page = WindowPage { window: 0, read_only, page };
                        let lent = model.values().any(|(_, other)| *other == page);
                        match books.enter(n, page) {
                            Ok((handle, first)) => {
                                prop_assert_eq!(first, !lent);
                                prop_assert!(model.insert(handle, (n, page)).is_none());
                            }
                            Err(pin) => prop_assert_eq!((pin, model.len()), (n, 6)),
                        }
                    }
                    Op::Leave(handle) => {
                        let expected = model.remove(&handle).map(|(pin, page)| {
                            (pin, page, !model.values().any(|(_, other)| *other == page))
                        });
                        prop_assert_eq!(books.leave(handle), expected);
                    }
                }
                prop_assert_eq!(books.len(), model.len());
                for page in 0..4 {
                    for read_only in [false, true] {
                        let page = WindowPage { window: 0, read_only, page };
                        let lent = model.values().any(|(_, other)| *other == page);
                        prop_assert_eq!(books.is_lent(page), lent);
                    }
                }
            }
        }
    }
}
