//! Several threads at one store.

use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use cantle_abi::DomId;
use cantle_xenstore::client::Watcher;
use cantle_xenstore::prelude::*;
use cantle_xenstore::{Shared, TxId};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

const NONE: TxId = TxId::NONE;

#[test]
fn transactions_of_many_threads_count_correctly() {
    let store = Shared::default();
    let dom0 = store.client(DomId::DOM0).unwrap();
    dom0.write(NONE, "/count", b"0").unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let client = store.client(DomId::DOM0).unwrap();
                for _ in 0..500 {
                    client
                        .transact(|tx| {
                            let count: u32 = client.read_parsed(tx, "/count")?;
                            client.write(tx, "/count", (count + 1).to_string().as_bytes())
                        })
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(dom0.read(NONE, "/count").unwrap(), b"2000");
}

#[test]
fn no_wake_up_is_lost() {
    const LAST: u32 = 20_000;
    let store = Shared::default();
    let watcher = store.client(DomId::DOM0).unwrap();
    watcher.watch("/number", "t").unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let writer = store.client(DomId::DOM0).unwrap();
            for number in 1..=LAST {
                writer
                    .write(NONE, "/number", number.to_string().as_bytes())
                    .unwrap();
            }
        });
        let epoll = Epoll::new().unwrap();
        let interest = EpollEvent::new(EventSet::IN, 0);
        let fd = watcher.event_fd().as_raw_fd();
        epoll.ctl(ControlOperation::Add, fd, interest).unwrap();
        let mut seen = 0;
        while seen < LAST {
            let ready = epoll.wait(20_000, &mut [EpollEvent::default()]).unwrap();
            assert_eq!(ready, 1, "the last event of {seen} was not announced");
            while watcher.take_event().is_some() {
                seen = watcher.read_parsed(NONE, "/number").unwrap_or(0);
            }
        }
    });
}

#[test]
fn who_waits_for_events_of_a_released_domain_waits_no_longer() {
    let store = Shared::default();
    store.introduce(DomId(5)).unwrap();
    let watcher = Watcher::new(store.client(DomId(5)).unwrap());
    let watch = watcher.watch("control").unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(move || watch.count());
        thread::sleep(Duration::from_millis(20));
        store.release(DomId(5)).unwrap();
        assert_eq!(waiting.join().unwrap(), 1);
    });
    assert!(!watcher.client().is_connected());
}
