//! The daemon goes, and comes again.

use std::thread;
use std::time::{Duration, Instant};

use cantle_abi::Errno;
use cantle_xenstore::TxId;
use cantle_xenstore::client::{Lost, NonBlocking, Request, SocketClient, Watcher};
use cantle_xenstore::prelude::*;

use crate::daemon::{Daemon, Kind, PATIENCE};
use crate::nonblocking::turn;
use crate::watching::{is_readable, next};

const NONE: TxId = TxId::NONE;

#[test]
fn a_client_of_a_daemon_that_restarts_says_so_and_begins_anew() {
    let mut daemon = Daemon::ours();
    let client = daemon.client();
    client.watch("/a", "1").unwrap();
    client.watch("/b", "2").unwrap();
    client.unwatch("/b", "2").unwrap();
    assert_eq!(next(&client).unwrap().path, "/a");
    let tx = client.transaction_start().unwrap();
    assert!(client.reconnect().unwrap().is_empty(), "nothing is lost");
    client.read(tx, "/").unwrap();

    daemon.stop();
    assert_eq!(next(&client), None);
    assert_eq!(client.lost(), Some(Lost::Closed));
    assert!(!is_readable(&client), "it was told");
    let error = client.read(NONE, "/").unwrap_err();
    assert_eq!(error.errno, Errno::EIO);
    client.reconnect().unwrap_err();
    assert_eq!(client.lost(), Some(Lost::Closed));

    daemon.restart();
    assert!(client.reconnect().unwrap().is_empty());
    assert!(client.is_connected());
    let event = next(&client).unwrap();
    assert_eq!((&*event.path, &*event.token), ("/a", "1"));
    let gone = client.read(tx, "/").unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
    client.write(NONE, "/b", b"").unwrap();
    client.write(NONE, "/a/c", b"").unwrap();
    let mut event = next(&client).unwrap();
    if event.path == "/a" {
        event = next(&client).unwrap();
    }
    assert_eq!(event.path, "/a/c");
}

#[test]
fn threads_that_wait_are_told() {
    let mut daemon = Daemon::ours();
    let client = &daemon.client();
    let watcher = Watcher::new(daemon.client());
    let mut first = watcher.watch("/a").unwrap();
    let mut second = watcher.watch("/b").unwrap();
    thread::scope(|scope| {
        let asking: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| while client.read(NONE, "/").is_ok() {}))
            .collect();
        let watching = [
            scope.spawn(move || first.by_ref().count()),
            scope.spawn(move || second.by_ref().count()),
        ];
        thread::sleep(Duration::from_millis(50));
        daemon.stop();
        for thread in asking {
            thread.join().unwrap();
        }
        for thread in watching {
            assert_eq!(thread.join().unwrap(), 1);
        }
    });
    assert_eq!(client.lost(), Some(Lost::Closed));
    daemon.restart();
    client.reconnect().unwrap();
    client.read(NONE, "/").unwrap();
}

#[test]
fn threads_go_on_after_one_of_them_has_reconnected() {
    let mut daemon = Daemon::ours();
    let client = &daemon.client();
    client.watch("/", "all").unwrap();
    let until = Instant::now() + Duration::from_millis(500);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|number| {
                scope.spawn(move || {
                    let path = format!("/{number}");
                    let mut done = 0;
                    while Instant::now() < until {
                        match client.write(NONE, &path, b"v") {
                            Ok(()) => done += 1,
                            Err(error) => {
                                assert_eq!(error.errno, Errno::EIO);
                                let _ = client.reconnect();
                            }
                        }
                    }
                    done
                })
            })
            .collect();
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(60));
            daemon.restart();
        }
        for thread in threads {
            assert!(thread.join().unwrap() > 0);
        }
    });
    client.reconnect().unwrap();
    while client.take_event().is_some() {}
    client.write(NONE, "/last", b"").unwrap();
    while next(client).unwrap().path != "/last" {}
}

#[test]
fn an_event_loop_sees_the_loss_and_reconnects() {
    let mut daemon = Daemon::ours();
    let mut client = NonBlocking::connect(daemon.path()).unwrap();
    client.send(NONE, &Request::watch("/a", "t")).unwrap();
    client.process().unwrap();
    while client.take_event().is_none() {
        turn(&mut client);
    }
    client.take_reply().unwrap().1.unwrap();
    daemon.stop();
    let ticket = client.send(NONE, &Request::read("/")).unwrap();
    let begin = Instant::now();
    while client.process().is_ok() {
        assert!(begin.elapsed() < PATIENCE);
    }
    assert_eq!(client.lost(), Some(Lost::Closed));
    assert_eq!(client.take_reply(), Some((ticket, Err(Errno::EIO))));
    assert_eq!(client.send(NONE, &Request::read("/")), Err(Errno::EIO));
    client.reconnect().unwrap_err();
    daemon.restart();
    client.reconnect().unwrap();
    while client.take_event().is_none() {
        turn(&mut client);
    }
    assert_eq!(client.take_reply(), None);
    assert!(client.take_refused().is_empty());
}

#[test]
fn a_daemon_that_is_killed_is_a_loss_too() {
    for kind in [Kind::Xenstored, Kind::Oxenstored] {
        let Some(mut daemon) = Daemon::start(kind) else {
            continue;
        };
        let client = daemon.client();
        client.watch("/a", "t").unwrap();
        daemon.stop();
        while next(&client).is_some() {}
        assert_eq!(client.lost(), Some(Lost::Closed));
    }
}

#[test]
fn where_nobody_listens_the_error_names_the_path() {
    let error = SocketClient::connect("/nonexistent/socket".as_ref()).unwrap_err();
    assert_eq!(error.to_string(), "no xenstore at /nonexistent/socket");
    assert_eq!(error.source.kind(), std::io::ErrorKind::NotFound);
}
