//! What is known of where a disk's bytes lie.

use std::collections::BTreeMap;

use crate::{Extent, Mapped};

/// How many extents are remembered. When there are more, all are forgotten: what is used again comes again.
const MOST: usize = 1 << 16;

/// Extents that do not overlap, by where they begin. Neighbours that go on in the same file are one.
#[derive(Debug, Default)]
pub(super) struct Extents {
    by_start: BTreeMap<u64, Mapped>,
}

impl Extents {
    /// What is known at `offset`: the extent from there on.
    pub(super) fn at(&self, offset: u64) -> Option<Mapped> {
        let (start, known) = self.by_start.range(..=offset).next_back()?;
        tail(*known, offset - start)
    }

    /// Enters an extent, in place of what was known of its bytes.
    pub(super) fn insert(&mut self, offset: u64, mut new: Mapped) {
        if new.len == 0 || matches!(new.extent, Extent::Other) {
            return;
        }
        self.remove(offset, new.len);
        let mut start = offset;
        if let Some((before, known)) = self.by_start.range(..offset).next_back()
            && before + known.len == offset
            && follows(known, &new)
        {
            start = *before;
            new = Mapped {
                extent: known.extent,
                len: known.len + new.len,
            };
        }
        let end = start + new.len;
        if let Some(known) = self.by_start.get(&end)
            && follows(&new, known)
        {
            new.len += known.len;
            self.by_start.remove(&end);
        }
        if self.by_start.len() >= MOST {
            self.by_start.clear();
        }
        self.by_start.insert(start, new);
    }

    /// Forgets `len` bytes at `offset`.
    pub(super) fn remove(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        if let Some((&start, &known)) = self.by_start.range(..offset).next_back()
            && start + known.len > offset
        {
            if let Some(known) = self.by_start.get_mut(&start) {
                known.len = offset - start;
            }
            if let Some(after) = tail(known, end - start) {
                self.by_start.insert(end, after);
            }
        }
        while let Some((&start, &known)) = self.by_start.range(offset..end).next() {
            self.by_start.remove(&start);
            if let Some(after) = tail(known, end - start) {
                self.by_start.insert(end, after);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.by_start.clear();
    }
}

/// An extent without its first `skip` bytes.
fn tail(known: Mapped, skip: u64) -> Option<Mapped> {
    let len = known.len.checked_sub(skip).filter(|len| *len != 0)?;
    let extent = match known.extent {
        Extent::Data {
            file,
            offset,
            writable,
        } => Extent::Data {
            file,
            offset: offset + skip,
            writable,
        },
        other => other,
    };
    Some(Mapped { extent, len })
}

/// Whether `after` goes on where `before` ends.
fn follows(before: &Mapped, after: &Mapped) -> bool {
    match (before.extent, after.extent) {
        (
            Extent::Data {
                file,
                offset,
                writable,
            },
            Extent::Data {
                file: other,
                offset: next,
                writable: also,
            },
        ) => file == other && writable == also && offset.checked_add(before.len) == Some(next),
        (Extent::Zero, Extent::Zero) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A byte of a small disk, as the plain model has it.
    type Byte = Option<Extent>;

    fn shifted(extent: Extent, by: u64) -> Extent {
        tail(
            Mapped {
                extent,
                len: u64::MAX,
            },
            by,
        )
        .map_or(extent, |m| m.extent)
    }

    fn extents() -> impl Strategy<Value = Extent> {
        prop_oneof![
            (0_u16..2, 0_u64..64, any::<bool>()).prop_map(|(file, offset, writable)| {
                Extent::Data {
                    file,
                    offset,
                    writable,
                }
            }),
            Just(Extent::Zero),
        ]
    }

    proptest! {
        #[test]
        fn bytes_are_where_they_were_said_to_be_last(
            steps in prop::collection::vec((0_u64..60, 1_u64..20, prop::option::of(extents())), 1..60)
        ) {
            let mut model: Vec<Byte> = vec![None; 100];
            let mut known = Extents::default();
            for (offset, len, extent) in steps {
                match extent {
                    Some(extent) => known.insert(offset, Mapped { extent, len }),
                    None => known.remove(offset, len),
                }
                for n in 0..len {
                    model[usize::try_from(offset + n).unwrap()] = extent.map(|e| shifted(e, n));
                }
                let mut at = 0;
                while at < 100 {
                    let Some(mapped) = known.at(at) else {
                        prop_assert_eq!(model[usize::try_from(at).unwrap()], None);
                        at += 1;
                        continue;
                    };
                    for n in 0..mapped.len {
                        prop_assert_eq!(
                            model[usize::try_from(at + n).unwrap()],
                            Some(shifted(mapped.extent, n))
                        );
                    }
                    at += mapped.len;
                    // Neighbours that go on are one.
                    if let Some(next) = known.at(at) {
                        prop_assert!(!follows(&mapped, &next));
                    }
                }
            }
        }
    }
}
