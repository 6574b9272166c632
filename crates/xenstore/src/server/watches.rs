//! Who watches what.

use std::collections::HashMap;
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
    /// Unique for ever.
    pub(super) id: u64,
    pub(super) conn: ConnId,
    /// The watched path, absolute, or a special name.
    pub(super) path: Arc<str>,
    pub(super) token: Box<[u8]>,
    /// How many bytes of an event's path the watcher does not want to see: its home and a slash, where it watches a
    /// relative path.
    pub(super) hidden: usize,
}

impl Watch {
    pub(super) fn new(id: u64, conn: ConnId, path: Arc<str>, token: &[u8], hidden: usize) -> Self {
        Self {
            id,
            conn,
            path,
            token: token.into(),
            hidden,
        }
    }

    /// What it takes, about, with the last event that may wait of it when the others have been condensed.
    pub(super) fn bytes(&self) -> i64 {
        let bytes = WATCH_OVERHEAD + 3 * self.path.len() + 2 * self.token.len();
        i64::try_from(bytes).unwrap_or(i64::MAX)
    }

    /// An event's path as the watcher is told it.
    pub(super) fn shown<'p>(&self, path: &'p str) -> &'p str {
        path.get(self.hidden..).unwrap_or(path)
    }
}

/// All watches by path: those of a change are found by its path's prefixes, without looking at any other.
#[derive(Debug, Default)]
pub(super) struct WatchIndex {
    by_path: HashMap<Arc<str>, Vec<Arc<Watch>>>,
}

impl WatchIndex {
    pub(super) fn insert(&mut self, watch: Arc<Watch>) {
        self.by_path
            .entry(Arc::clone(&watch.path))
            .or_default()
            .push(watch);
    }

    pub(super) fn remove(&mut self, watch: &Watch) {
        if let Some(list) = self.by_path.get_mut(&watch.path) {
            list.retain(|other| other.id != watch.id);
            if list.is_empty() {
                self.by_path.remove(&watch.path);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_path.is_empty()
    }

    /// The watches on exactly this path or special name.
    pub(super) fn at(&self, path: &str) -> &[Arc<Watch>] {
        self.by_path.get(path).map_or(&[], Vec::as_slice)
    }

    /// The watches on a path and on its ancestors, from the root down.
    pub(super) fn covering(&self, path: &str) -> impl Iterator<Item = &Arc<Watch>> {
        prefixes(path).flat_map(|prefix| self.at(prefix))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_path.values().map(Vec::len).sum()
    }
}
