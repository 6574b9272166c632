//! A bit for every granule.

use std::ops::Range;

/// Some number of bits. Ranges beyond it are cut to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bitmap {
    words: Vec<u64>,
    len: u64,
}

const BITS: u64 = u64::BITS as u64;

/// The word of a bit.
fn word(bit: u64) -> usize {
    usize::try_from(bit / BITS).unwrap_or(usize::MAX)
}

/// The bits of word `index` that are in the range.
fn mask(range: &Range<u64>, index: u64) -> u64 {
    let base = index * BITS;
    let from = range.start.saturating_sub(base).min(BITS);
    let to = range.end.saturating_sub(base).min(BITS);
    let below = |n: u64| if n == BITS { u64::MAX } else { (1 << n) - 1 };
    below(to) & !below(from)
}

impl Bitmap {
    /// So many bits, all the same.
    pub(crate) fn new(len: u64, set: bool) -> Self {
        let mut bitmap = Self::default();
        bitmap.grow(len, set);
        bitmap
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Makes it longer; the new bits are all the same. Never shorter.
    pub(crate) fn grow(&mut self, len: u64, set: bool) {
        let old = self.len;
        if len <= old {
            return;
        }
        self.words.resize(word(len.div_ceil(BITS) * BITS), 0);
        self.len = len;
        if set {
            self.set(old..len);
        }
    }

    pub(crate) fn get(&self, bit: u64) -> bool {
        let word = self.words.get(word(bit)).copied().unwrap_or(0);
        word >> (bit % BITS) & 1 == 1
    }

    /// Calls `edit` with each word that has a bit of the range, and these bits.
    fn edit(&mut self, range: Range<u64>, mut edit: impl FnMut(&mut u64, u64)) {
        let range = range.start..range.end.min(self.len);
        if range.is_empty() {
            return;
        }
        for index in range.start / BITS..range.end.div_ceil(BITS) {
            if let Some(word) = self.words.get_mut(word(index * BITS)) {
                edit(word, mask(&range, index));
            }
        }
    }

    pub(crate) fn set(&mut self, range: Range<u64>) {
        self.edit(range, |word, mask| *word |= mask);
    }

    pub(crate) fn clear(&mut self, range: Range<u64>) {
        self.edit(range, |word, mask| *word &= !mask);
    }

    /// Sets what the other has set.
    pub(crate) fn union(&mut self, other: &Self) {
        self.grow(other.len, false);
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word |= other;
        }
    }

    /// How many are set.
    pub(crate) fn count(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// The first bit from `from` on that is `set`; the end of the range where there is none.
    fn find(&self, range: &Range<u64>, set: bool) -> u64 {
        let end = range.end.min(self.len);
        let mut index = range.start / BITS;
        while index * BITS < end {
            let word = self.words.get(word(index * BITS)).copied().unwrap_or(0);
            let found = if set { word } else { !word } & mask(&(range.start..end), index);
            if found != 0 {
                return index * BITS + u64::from(found.trailing_zeros());
            }
            index += 1;
        }
        end.max(range.start)
    }

    /// Whether all of the range, as far as there are bits, are set.
    pub(crate) fn all(&self, range: Range<u64>) -> bool {
        let end = range.end.min(self.len);
        range.start >= end || self.find(&(range.start..end), false) == end
    }

    /// The first run of set bits in the range. It is empty where there is none.
    pub(crate) fn run(&self, range: Range<u64>) -> Range<u64> {
        let start = self.find(&range, true);
        let end = self.find(&(start..range.end), false);
        start..end
    }

    /// Whether the range's first bit is set, and where the first other one is.
    pub(crate) fn same(&self, range: Range<u64>) -> (bool, u64) {
        let set = self.get(range.start);
        (set, self.find(&range, !set))
    }

    /// All runs of set bits, in order.
    pub(crate) fn runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let run = self.run(at..self.len);
            at = run.end;
            (!run.is_empty()).then_some(run)
        })
    }

    /// How many bytes [`to_bytes`](Self::to_bytes) has for so many bits.
    pub(crate) fn byte_len(bits: u64) -> u64 {
        bits.div_ceil(BITS) * 8
    }

    /// Little-endian words.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    /// What [`to_bytes`](Self::to_bytes) gave for so many bits. Bytes that are missing are zeroes, bits beyond the end are dropped.
    pub(crate) fn from_bytes(len: u64, bytes: &[u8]) -> Self {
        let mut bitmap = Self::new(len, false);
        for (word, from) in bitmap.words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*from);
        }
        if let Some(last) = bitmap.words.last_mut()
            && !len.is_multiple_of(BITS)
        {
            *last &= (1 << (len % BITS)) - 1;
        }
        bitmap
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn does_what_a_list_of_bools_does(
            len in 1_u64..300,
            edits in prop::collection::vec((any::<bool>(), 0_u64..310, 0_u64..310), 0..20),
            (from, to) in (0_u64..310, 0_u64..310),
        ) {
            let mut bitmap = Bitmap::new(len, false);
            let mut model = vec![false; usize::try_from(len).unwrap()];
            for (set, from, to) in edits {
                if set { bitmap.set(from..to) } else { bitmap.clear(from..to) }
                for (at, bit) in model.iter_mut().enumerate() {
                    if (from..to).contains(&(at as u64)) { *bit = set }
                }
            }
            let get = |at: u64| model.get(usize::try_from(at).unwrap()).copied();
            prop_assert_eq!(bitmap.count(), model.iter().filter(|bit| **bit).count() as u64);
            for at in 0..310 {
                prop_assert_eq!(bitmap.get(at), get(at).unwrap_or(false));
            }
            prop_assert_eq!(bitmap.all(from..to), (from..to).all(|at| get(at).unwrap_or(true)));
            let run = bitmap.run(from..to);
            let start = (from..to).find(|at| get(*at) == Some(true));
            prop_assert_eq!(start.is_none(), run.is_empty());
            if let Some(start) = start {
                prop_assert_eq!(run.start, start);
                prop_assert_eq!(run.end, (start..to).find(|at| get(*at) != Some(true)).unwrap_or(to));
            }
            let listed: Vec<u64> = bitmap.runs().flatten().collect();
            prop_assert_eq!(listed, (0..len).filter(|at| get(*at) == Some(true)).collect::<Vec<_>>());
            prop_assert_eq!(Bitmap::from_bytes(len, &bitmap.to_bytes()), bitmap);
        }
    }
}
