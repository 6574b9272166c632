//! What runs before anything leaves.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cantle_abi::DomId;
use cantle_abi::io::xs_wire::{XS_READ, XS_WATCH};
use cantle_xenstore::prelude::*;
use cantle_xenstore::{Service, Shared, TxId};

use crate::raw::Client;

fn served(store: &Shared) -> (Service, Client) {
    let mut service = Service::new(store.clone()).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    service.connect(ours).unwrap();
    (service, Client::new(theirs))
}

fn bytes_there(client: &Client) -> usize {
    client.stream.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    let found = (&client.stream).read(&mut buffer);
    client.stream.set_nonblocking(false).unwrap();
    found.unwrap_or(0)
}

#[test]
fn nothing_leaves_before_the_hook_ran() {
    let store = Shared::default();
    let (mut service, mut client) = served(&store);
    let runs = Arc::new(AtomicUsize::new(0));
    let (count, other_end) = (Arc::clone(&runs), client.stream.try_clone().unwrap());
    service.set_before_output(Box::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        other_end.set_nonblocking(true)?;
        let found = (&other_end).read(&mut [0; 1]);
        other_end.set_nonblocking(false)?;
        assert!(found.is_err(), "nothing was sent before the hook");
        Ok(())
    }));
    for _ in 0..3 {
        client.send(XS_READ, b"/\0");
        client.send(XS_READ, b"/none\0");
    }
    service.run_once(Some(Duration::ZERO)).unwrap();
    assert!(runs.load(Ordering::Relaxed) > 0);
    for _ in 0..6 {
        client.receive().unwrap();
    }
}

#[test]
fn what_others_did_leaves_only_after_the_hook() {
    let store = Shared::default();
    let (mut service, mut client) = served(&store);
    client.send(XS_WATCH, b"/a\0t\0");
    service.run_once(Some(Duration::ZERO)).unwrap();
    client.receive().unwrap();
    client.receive().unwrap();
    service.set_before_output(Box::new(|_| Err(io::Error::other("the disk is full"))));
    let local = store.client(DomId::DOM0).unwrap();
    local.write(TxId::NONE, "/a", b"1").unwrap();
    let stopped = service.run_once(Some(Duration::ZERO)).unwrap_err();
    assert_eq!(stopped.to_string(), "the disk is full");
    assert_eq!(bytes_there(&client), 0);
}

#[test]
fn an_error_of_the_hook_stops_the_service() {
    let store = Shared::default();
    let (mut service, mut client) = served(&store);
    service.set_before_output(Box::new(|_| Err(io::Error::other("the disk is full"))));
    client.send(XS_READ, b"/\0");
    assert!(service.run_once(Some(Duration::ZERO)).is_err());
    service.set_before_output(Box::new(|_| Ok(())));
    assert!(service.run_once(Some(Duration::ZERO)).is_err(), "for good");
    assert_eq!(bytes_there(&client), 0);
}
