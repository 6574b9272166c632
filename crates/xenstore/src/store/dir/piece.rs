//! A few children that stand together in memory.

use std::sync::Arc;

use crate::store::Node;
use crate::store::mentions::{Mentions, Renaming};

/// A piece that grows beyond this is divided.
pub(super) const PIECE_MAX: usize = 32;

#[derive(Clone, Debug, Default)]
pub(super) struct Piece {
    /// The names, each with a NUL, in order.
    pub(super) names: Box<str>,
    pub(super) entries: Box<[Entry]>,
    /// Covers the nodes and all below them.
    pub(super) mentions: Mentions,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) node: Arc<Node>,
    /// Where its name ends in `names`, behind the NUL.
    pub(super) end: u32,
}

pub(super) fn mentions_of(entries: &[Entry]) -> Mentions {
    entries.iter().fold(Mentions::default(), |sum, entry| {
        sum.and(entry.node.mentions())
    })
}

impl Piece {
    pub(super) fn of_one(name: &str, node: Arc<Node>, mentions: Mentions) -> Self {
        let mut piece = Self::default();
        piece.insert(name, node, mentions, true);
        piece
    }

    fn start(&self, at: usize) -> usize {
        at.checked_sub(1)
            .and_then(|before| self.entries.get(before))
            .map_or(0, |before| before.end as usize)
    }

    pub(super) fn name(&self, at: usize) -> &str {
        let end = self.entries.get(at).map_or(0, |entry| entry.end as usize);
        self.names
            .get(self.start(at)..end.saturating_sub(1))
            .unwrap_or_default()
    }

    pub(super) fn last_name(&self) -> &str {
        self.name(self.entries.len().saturating_sub(1))
    }

    /// Where the name is, or where it would be.
    pub(super) fn position(&self, name: &str) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.entries.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.name(middle).cmp(name) {
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Equal => return Ok(middle),
                core::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Adds a child; where there are too many then, returns the upper ones as another piece. Nothing is allocated in advance:
    /// most directories are written once.
    pub(super) fn insert(
        &mut self,
        name: &str,
        node: Arc<Node>,
        mentions: Mentions,
        last: bool,
    ) -> Option<Self> {
        let at = self.position(name).unwrap_or_else(|at| at);
        if self.entries.len() >= PIECE_MAX {
            // Names that come in order fill one piece after the other; else both halves have room.
            if last && at == self.entries.len() {
                return Some(Self::of_one(name, node, mentions));
            }
            let keep = self.entries.len() / 2;
            let mut upper = self.split_off(keep);
            let side = if at > keep { &mut upper } else { self };
            side.insert(name, node, mentions, false);
            return Some(upper);
        }
        let start = self.start(at);
        let more = name.len() + 1;
        let mut names = String::from(core::mem::take(&mut self.names));
        names.reserve_exact(more);
        names.insert(start, '\0');
        names.insert_str(start, name);
        self.names = names.into_boxed_str();
        let mut entries = Vec::from(core::mem::take(&mut self.entries));
        entries.reserve_exact(1);
        let end = offset(start);
        entries.insert(at, Entry { node, end });
        for entry in entries.iter_mut().skip(at) {
            entry.end = entry.end.saturating_add(offset(more));
        }
        self.entries = entries.into_boxed_slice();
        self.mentions = self.mentions.and(mentions);
        None
    }

    fn split_off(&mut self, keep: usize) -> Self {
        let start = self.start(keep);
        let mut names = String::from(core::mem::take(&mut self.names));
        let mut entries = Vec::from(core::mem::take(&mut self.entries));
        let upper_names = names.split_off(start);
        let mut upper = entries.split_off(keep);
        for entry in &mut upper {
            entry.end = entry.end.saturating_sub(offset(start));
        }
        *self = Self::from_parts(names, entries);
        Self::from_parts(upper_names, upper)
    }

    pub(super) fn from_parts(names: String, entries: Vec<Entry>) -> Self {
        Self {
            mentions: mentions_of(&entries),
            names: names.into_boxed_str(),
            entries: entries.into_boxed_slice(),
        }
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Arc<Node>> {
        let at = self.position(name).ok()?;
        let (start, less) = (self.start(at), name.len() + 1);
        let mut names = String::from(core::mem::take(&mut self.names));
        names.drain(start..start + less);
        self.names = names.into_boxed_str();
        let mut entries = Vec::from(core::mem::take(&mut self.entries));
        let removed = entries.remove(at);
        for entry in entries.iter_mut().skip(at) {
            entry.end = entry.end.saturating_sub(offset(less));
        }
        self.entries = entries.into_boxed_slice();
        Some(removed.node)
    }

    /// The piece with nodes of its own.
    pub(super) fn renamed(&self, renaming: &Arc<Renaming>) -> Self {
        let rename = |entry: &Entry| Entry {
            node: Arc::new(entry.node.under(renaming)),
            end: entry.end,
        };
        Self {
            names: self.names.clone(),
            entries: self.entries.iter().map(rename).collect(),
            mentions: renaming.mentions(self.mentions),
        }
    }
}

/// A place in a piece's names: 33 names of at most 3072 bytes.
pub(super) fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
