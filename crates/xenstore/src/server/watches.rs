//! Who watches what.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::ConnId;
use crate::path::prefixes;

/// What a watch is known by within its connection: its absolute path and its token.
pub(super) type WatchKey = (Arc<str>, Box<[u8]>);

/// What a watch takes beside its path and its token, about: itself, two places in maps, and one in the outbox.
const WATCH_OVERHEAD: usize = 384;

/// A watch, shared by its connection, the index and the events that wait.
#[derive(Debug)]
pub(super) struct Watch {
    /// Unique for ever; the later a watch was set, the greater.
    pub(super) id: u64,
    pub(super) conn: ConnId,
    /// The watched path, absolute, or a special name.
    pub(super) path: Arc<str>,
    pub(super) token: Box<[u8]>,
    /// How many bytes of an event's path the watcher does not want to see: its home and a slash, where it watches a
    /// relative path.
    pub(super) hidden: usize,
    /// How many levels below the path it is about; `None` for all. For a special name, anything but 0 asks for the
    /// domain's number in the event's path, and 0 for nothing.
    pub(super) depth: Option<u16>,
}

impl Watch {
    /// What it takes, about, with the last event that may wait of it when the others have been condensed.
    pub(super) fn bytes(&self) -> i64 {
        let bytes = WATCH_OVERHEAD + 3 * self.path.len() + 2 * self.token.len();
        i64::try_from(bytes).unwrap_or(i64::MAX)
    }

    /// The path as it was given when the watch was set.
    pub(super) fn given(&self) -> &str {
        self.shown(&self.path)
    }

    /// The depth as a migration stream has it, where the greatest number stands for none.
    pub(super) fn stream_depth(&self) -> Option<u16> {
        self.depth.map(|depth| depth.min(u16::MAX - 1))
    }

    /// An event's path as the watcher is told it.
    pub(super) fn shown<'p>(&self, path: &'p str) -> &'p str {
        path.get(self.hidden..).unwrap_or(path)
    }

    /// How many of the `levels` that a changed node is below the watched path are to be taken off again, so that the watch is
    /// about what is left; 0 where it is about the node itself.
    pub(super) fn beyond(&self, levels: usize) -> usize {
        self.depth
            .map_or(0, |depth| levels.saturating_sub(usize::from(depth)))
    }
}

/// All watches by path: those of a change are found by its path's prefixes, and those that a removal takes the nodes from are
/// neighbours in the order of paths; no other is looked at.
#[derive(Debug, Default)]
pub(super) struct WatchIndex {
    /// By path, each list in the order of the watches' numbers.
    by_path: HashMap<Arc<str>, Vec<Arc<Watch>>>,
    /// The keys of `by_path`, in order.
    paths: BTreeSet<Arc<str>>,
}

impl WatchIndex {
    /// Adds a watch, the newest that there is.
    pub(super) fn insert(&mut self, watch: Arc<Watch>) {
        let list = self.by_path.entry(Arc::clone(&watch.path)).or_default();
        if list.is_empty() {
            self.paths.insert(Arc::clone(&watch.path));
        }
        list.push(watch);
    }

    pub(super) fn remove(&mut self, watch: &Watch) {
        let Some(list) = self.by_path.get_mut(&watch.path) else {
            return;
        };
        if let Ok(at) = list.binary_search_by_key(&watch.id, |other| other.id) {
            list.remove(at);
        }
        if list.is_empty() {
            self.by_path.remove(&watch.path);
            self.paths.remove(&watch.path);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_path.is_empty()
    }

    /// The watches on exactly this path or special name.
    pub(super) fn at(&self, path: &str) -> &[Arc<Watch>] {
        self.by_path.get(path).map_or(&[], Vec::as_slice)
    }

    /// The watches on a path and on its ancestors, from the root down, each with how many levels its own path is below the root.
    pub(super) fn covering(&self, path: &str) -> impl Iterator<Item = (usize, &Arc<Watch>)> {
        prefixes(path)
            .enumerate()
            .flat_map(|(level, prefix)| self.at(prefix).iter().map(move |watch| (level, watch)))
    }

    /// Whether there is any watch on a path or above it, or, if that matters, below.
    pub(super) fn concern(&self, path: &str, below: bool) -> bool {
        self.covering(path).next().is_some() || (below && self.below(path).next().is_some())
    }

    /// The watched paths below a path that is not the root, in order, each with its watches.
    pub(super) fn below(&self, path: &str) -> impl Iterator<Item = (&Arc<str>, &[Arc<Watch>])> {
        let within = format!("{path}/");
        let from: (Bound<&str>, Bound<&str>) = (Bound::Excluded(&within), Bound::Unbounded);
        let paths = self.paths.range::<str, _>(from);
        paths
            .take_while(move |watched| watched.starts_with(&within))
            .map(|watched| (watched, self.at(watched)))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_path.values().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn watch(id: u64, path: &str) -> Arc<Watch> {
        Arc::new(Watch {
            id,
            conn: ConnId(1),
            path: path.into(),
            token: Box::from(&b"t"[..]),
            hidden: 0,
            depth: None,
        })
    }

    proptest! {
        /// What the index finds is what a look at every watch finds.
        #[test]
        fn it_finds_what_a_scan_finds(
            steps in prop::collection::vec((any::<bool>(), "(/[ab-]{1,2}){1,4}"), 1..60),
            asked in "(/[ab-]{1,2}){1,4}",
        ) {
            let mut index = WatchIndex::default();
            let mut all: Vec<Arc<Watch>> = Vec::new();
            for (id, (drop_one, path)) in (1_u64..).zip(&steps) {
                if *drop_one && !all.is_empty() {
                    let gone = all.remove(path.len() % all.len());
                    index.remove(&gone);
                } else {
                    all.push(watch(id, path));
                    index.insert(watch(id, path));
                }
            }
            let mut found: Vec<u64> = index.covering(&asked).map(|(_, watch)| watch.id).collect();
            found.sort_unstable();
            let scanned: Vec<u64> = all
                .iter()
                .filter(|watch| asked == *watch.path || asked.starts_with(&format!("{}/", watch.path)))
                .map(|watch| watch.id)
                .collect();
            prop_assert_eq!(found, scanned);
            let mut found: Vec<u64> = index.below(&asked).flat_map(|(_, list)| list).map(|watch| watch.id).collect();
            found.sort_unstable();
            let scanned: Vec<u64> = all
                .iter()
                .filter(|watch| watch.path.starts_with(&format!("{asked}/")))
                .map(|watch| watch.id)
                .collect();
            prop_assert_eq!(found, scanned);
            prop_assert_eq!(index.len(), all.len());
            prop_assert_eq!(index.paths.len(), index.by_path.len());
        }
    }

    #[test]
    fn levels_are_counted_from_the_root() {
        let mut index = WatchIndex::default();
        for (id, path) in [(1, "/"), (2, "/a"), (3, "/a/b")] {
            index.insert(watch(id, path));
        }
        let levels: Vec<_> = index
            .covering("/a/b/c")
            .map(|(level, watch)| (level, watch.id))
            .collect();
        assert_eq!(levels, [(0, 1), (1, 2), (2, 3)]);
    }
}
