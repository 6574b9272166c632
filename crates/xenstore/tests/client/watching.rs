//! Watches, by events and as iterators.

use std::thread;
use std::time::Duration;

use cantle_abi::Errno;
use cantle_xenstore::client::Watcher;
use cantle_xenstore::prelude::*;
use cantle_xenstore::{TxId, WatchEvent};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::daemon::{Daemon, Kind, PATIENCE};

const NONE: TxId = TxId::NONE;

/// The next event, once the descriptor has announced it.
pub(crate) fn next(client: &impl Client) -> Option<WatchEvent> {
    let patience = Timespec::try_from(PATIENCE).unwrap();
    loop {
        let mut fds = [PollFd::from_borrowed_fd(client.event_fd(), PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&patience)), Ok(1), "nothing came");
        // It may have been a reply for somebody else.
        match client.take_event() {
            None if client.is_connected() => {}
            event => return event,
        }
    }
}

pub(crate) fn is_readable(client: &impl Client) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(client.event_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())) == Ok(1)
}

fn path(event: Option<WatchEvent>) -> String {
    event.unwrap().path
}

pub(crate) fn events_come_by_take_event(daemon: &Daemon) {
    let (client, other) = (daemon.client(), daemon.client());
    client.watch("/watched", "token").unwrap();
    let event = next(&client).unwrap();
    assert_eq!((&*event.path, &*event.token), ("/watched", "token"));
    assert_eq!(client.take_event(), None);
    assert!(!is_readable(&client));
    other.write(NONE, "/watched/a", b"1").unwrap();
    other.write(NONE, "/elsewhere", b"1").unwrap();
    other.write(NONE, "/watched/b", b"1").unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "/watched/b") {
        seen.push(path(next(&client)));
    }
    seen.retain(|path| path != "/watched");
    assert_eq!(seen, ["/watched/a", "/watched/b"], "in their order");
    client.watch("/watched", "token").unwrap_err();
    client.unwatch("/watched", "token").unwrap();
    client.unwatch("/watched", "token").unwrap_err();
    other.write(NONE, "/watched/a", b"2").unwrap();
    client.read(NONE, "/watched/a").unwrap();
    assert_eq!(client.take_event(), None);
    assert!(!is_readable(&client));
}

pub(crate) fn iterators_wait_each_for_its_own(daemon: &Daemon) {
    const LAST: u32 = 200;
    let watcher = Watcher::new(daemon.client());
    let other = &daemon.client();
    let mut quiet = watcher.watch("/quiet").unwrap();
    assert_eq!(path(quiet.next()), "/quiet");
    thread::scope(|scope| {
        let busy: Vec<_> = (0..3)
            .map(|number| {
                let watched = format!("/busy/{number}");
                let watch = watcher.watch(&watched).unwrap();
                let watcher = watcher.clone();
                scope.spawn(move || {
                    let mut seen = 0;
                    for event in watch {
                        assert_eq!(event.path, watched);
                        // The client serves requests of this thread while others wait for events.
                        seen = watcher.client().read_parsed(NONE, &watched).unwrap_or(0);
                        if seen == LAST {
                            break;
                        }
                    }
                    seen
                })
            })
            .collect();
        for value in 1..=LAST {
            for number in 0..3 {
                let path = format!("/busy/{number}");
                other
                    .write(NONE, &path, value.to_string().as_bytes())
                    .unwrap();
            }
        }
        for thread in busy {
            assert_eq!(thread.join().unwrap(), LAST);
        }
    });
    assert_eq!(quiet.try_next(), None);
    assert_eq!(quiet.next_timeout(Duration::from_millis(20)), None);
    other.write(NONE, "/quiet/not", b"").unwrap();
    let mut event = quiet.next_timeout(PATIENCE).unwrap();
    if event.path == "/quiet" {
        // Xen's daemons tell of the parents that were made.
        event = quiet.next_timeout(PATIENCE).unwrap();
    }
    assert_eq!(event.path, "/quiet/not");
    drop(quiet);
    let again = watcher.watch("/quiet").unwrap();
    assert_eq!(again.path(), "/quiet");
    if daemon.kind == Kind::Ours {
        // Xen 4.20 knows no depths.
        let mut flat = watcher.watch_depth("/flat", 1).unwrap();
        assert_eq!(path(flat.next()), "/flat");
        other.mkdir(NONE, "/flat").unwrap();
        while path(flat.next()) != "/flat" {}
        for path in ["/flat/a", "/flat/a/b", "/flat/c"] {
            other.write(NONE, path, b"").unwrap();
        }
        let mut seen: Vec<String> = (0..2).map(|_| path(flat.next())).collect();
        seen.sort();
        assert_eq!(seen, ["/flat/a", "/flat/c"]);
    } else {
        let refused = watcher.watch_depth("/flat", 1).unwrap_err();
        assert_eq!(refused.errno, Errno::EINVAL);
    }
}
