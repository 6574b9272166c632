//! What a client watches, and the events that wait for it.

use std::collections::VecDeque;

use super::super::WatchEvent;

/// How many bytes of events may wait before they are condensed to one a watch.
const EVENT_BYTES_MAX: usize = 256 << 10;

/// What an event costs beside its strings.
const EVENT_COST: usize = size_of::<Waiting>();

/// A watch's number, within one client.
pub(super) type WatchId = u64;

#[derive(Debug)]
struct Watched {
    id: WatchId,
    path: String,
    token: String,
    /// The request's payload, to set it anew.
    payload: Vec<u8>,
    /// Events of it were condensed to one, which waits.
    condensed: bool,
}

#[derive(Debug)]
struct Waiting {
    event: WatchEvent,
    /// The watch whose events this one stands for.
    stands_for: Option<WatchId>,
}

/// The watches and their events.
///
/// What waits is bounded although the server is not trusted: an event whose token is nobody's is dropped, and above
/// [`EVENT_BYTES_MAX`] each watch has one more event at most, with the watched path itself.
#[derive(Debug, Default)]
pub(super) struct Watches {
    watched: Vec<Watched>,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    next_id: WatchId,
}

impl Watches {
    /// Notes a watch that is being asked for. Its first event may come before the server's answer.
    pub(super) fn add(&mut self, path: String, token: String, payload: Vec<u8>) -> WatchId {
        let id = self.next_id;
        self.next_id += 1;
        self.watched.push(Watched {
            id,
            path,
            token,
            payload,
            condensed: false,
        });
        id
    }

    /// The next watch's number: all that are there now have smaller ones.
    pub(super) fn mark(&self) -> WatchId {
        self.next_id
    }

    /// Forgets one that the server refused, or does not know any more; the path and token it had.
    pub(super) fn remove(&mut self, id: WatchId) -> Option<(String, String)> {
        let at = self.watched.iter().position(|watched| watched.id == id)?;
        let watched = self.watched.swap_remove(at);
        Some((watched.path, watched.token))
    }

    /// Forgets one that was taken back, with the events of it that wait.
    pub(super) fn remove_named(&mut self, path: &str, token: &str) {
        let Some(at) = self
            .watched
            .iter()
            .position(|w| w.path == path && w.token == token)
        else {
            return;
        };
        let gone = self.watched.swap_remove(at).id;
        let (watched, bytes) = (&self.watched, &mut self.bytes);
        self.waiting.retain(|waiting| {
            let keep = waiting.stands_for != Some(gone)
                && watched.iter().any(|other| other.may_say(&waiting.event));
            if !keep {
                *bytes = bytes.saturating_sub(cost(&waiting.event));
            }
            keep
        });
    }

    /// Forgets all before `mark`, with their events.
    pub(super) fn remove_before(&mut self, mark: WatchId) {
        let names: Vec<(String, String)> = self
            .watched
            .iter()
            .filter(|watched| watched.id < mark)
            .map(|watched| (watched.path.clone(), watched.token.clone()))
            .collect();
        for (path, token) in names {
            self.remove_named(&path, &token);
        }
    }

    /// The payloads that set all watches anew, with their numbers.
    pub(super) fn payloads(&self) -> Vec<(WatchId, Vec<u8>)> {
        let mut all: Vec<_> = self
            .watched
            .iter()
            .map(|w| (w.id, w.payload.clone()))
            .collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// Queues an event.
    pub(super) fn queue(&mut self, event: WatchEvent) {
        if !self.watched.iter().any(|w| w.token == event.token) {
            // One that was on its way when its watch was taken back, or an invention of the server's.
            tracing::debug!(path = event.path, token = event.token, "event of no watch");
            return;
        }
        if self.bytes <= EVENT_BYTES_MAX {
            self.push(event, None);
            return;
        }
        let exact = self.watched.iter().any(|w| w.may_say(&event));
        let mut condensed = Vec::new();
        for watched in &mut self.watched {
            let meant = if exact {
                watched.may_say(&event)
            } else {
                watched.token == event.token
            };
            if meant && !core::mem::replace(&mut watched.condensed, true) {
                condensed.push((watched.id, watched.path.clone()));
            }
        }
        for (id, path) in condensed {
            let token = event.token.clone();
            self.push(WatchEvent { path, token }, Some(id));
        }
    }

    fn push(&mut self, event: WatchEvent, stands_for: Option<WatchId>) {
        self.bytes += cost(&event);
        self.waiting.push_back(Waiting { event, stands_for });
    }

    /// The oldest event.
    pub(super) fn take(&mut self) -> Option<WatchEvent> {
        let waiting = self.waiting.pop_front()?;
        self.bytes = self.bytes.saturating_sub(cost(&waiting.event));
        if let Some(id) = waiting.stands_for
            && let Some(watched) = self.watched.iter_mut().find(|w| w.id == id)
        {
            watched.condensed = false;
        }
        Some(waiting.event)
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl Watched {
    /// Whether an event can be this watch's: its token, and a path at or below the watched one.
    fn may_say(&self, event: &WatchEvent) -> bool {
        self.token == event.token
            && event
                .path
                .strip_prefix(&self.path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || self.path == "/")
    }
}

fn cost(event: &WatchEvent) -> usize {
    EVENT_COST + event.path.len() + event.token.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(path: &str, token: &str) -> WatchEvent {
        WatchEvent {
            path: path.to_owned(),
            token: token.to_owned(),
        }
    }

    fn watching(names: &[(&str, &str)]) -> Watches {
        let mut watches = Watches::default();
        for (path, token) in names {
            watches.add((*path).to_owned(), (*token).to_owned(), Vec::new());
        }
        watches
    }

    fn taken(watches: &mut Watches) -> Vec<String> {
        std::iter::from_fn(|| watches.take())
            .map(|event| event.path)
            .collect()
    }

    #[test]
    fn a_flood_ends_in_one_event_for_each_watch() {
        let mut watches = watching(&[("/a", "1"), ("/b", "2"), ("/b/c", "2")]);
        for number in 0..100_000 {
            watches.queue(event(&format!("/a/{number}"), "1"));
        }
        let full = watches.waiting.len();
        assert!(watches.bytes < 2 * EVENT_BYTES_MAX, "{}", watches.bytes);
        for _ in 0..1000 {
            watches.queue(event("/b/c/d", "2"));
            watches.queue(event("/somewhere/else", "2"));
            watches.queue(event("/a/x", "nobody's"));
        }
        assert_eq!(watches.waiting.len(), full + 2, "either watch can be meant");
        let all = taken(&mut watches);
        assert_eq!(all[full - 1..], ["/a", "/b", "/b/c"]);
        assert_eq!(watches.bytes, 0);
        watches.queue(event("/a/again", "1"));
        assert_eq!(taken(&mut watches), ["/a/again"]);
    }

    #[test]
    fn what_is_taken_back_says_nothing_more() {
        let mut watches = watching(&[("/", "t"), ("/a", "t"), ("/a", "u")]);
        watches.queue(event("/a/b", "t"));
        watches.queue(event("/b", "t"));
        watches.queue(event("/a/b", "u"));
        watches.remove_named("/", "t");
        assert_eq!(taken(&mut watches), ["/a/b", "/a/b"], "/b is nobody's now");
        watches.queue(event("/a/b", "u"));
        watches.remove_before(watches.mark());
        assert!(!watches.is_waiting());
        assert_eq!(watches.bytes, 0);
    }
}
