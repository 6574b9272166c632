//! The client for event loops.

use std::collections::HashMap;

use cantle_abi::Errno;
use cantle_xenstore::TxId;
use cantle_xenstore::client::{NonBlocking, Request, reply};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::daemon::{Daemon, PATIENCE};

const NONE: TxId = TxId::NONE;

/// Waits until there is something to do, and does it.
pub(crate) fn turn(client: &mut NonBlocking) {
    let patience = Timespec::try_from(PATIENCE).unwrap();
    let mut fds = [PollFd::from_borrowed_fd(client.fd(), PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&patience)), Ok(1), "nothing came");
    client.process().unwrap();
}

pub(crate) fn many_requests_are_on_their_way(daemon: &Daemon) {
    const COUNT: usize = 2000;
    let mut client = NonBlocking::connect(daemon.path()).unwrap();
    let mut expected = HashMap::new();
    // More than a socket takes at once: the rest goes when there is room.
    for number in 0..COUNT {
        let path = format!("/pipelined/{}", number % 50);
        let value = format!("{number:0>500}");
        client
            .send(NONE, &Request::write(&path, value.as_bytes()))
            .unwrap();
        let read = client.send(NONE, &Request::read(&path)).unwrap();
        expected.insert(read, value.into_bytes());
    }
    client.process().unwrap();
    let mut replies = 0;
    while replies < 2 * COUNT {
        while let Some((ticket, result)) = client.take_reply() {
            replies += 1;
            match expected.remove(&ticket) {
                Some(value) => assert_eq!(result.unwrap(), value),
                None => assert_eq!(result.unwrap(), b"OK\0"),
            }
        }
        if replies < 2 * COUNT {
            turn(&mut client);
        }
    }
    assert!(expected.is_empty());

    client
        .send(NONE, &Request::watch("/pipelined", "w"))
        .unwrap();
    let start = client.send(NONE, &Request::transaction_start()).unwrap();
    client.process().unwrap();
    let mut events = Vec::new();
    let mut tx = None;
    loop {
        while let Some((ticket, result)) = client.take_reply() {
            if ticket == start {
                tx = Some(TxId(reply::number(&result.unwrap()).unwrap()));
            }
        }
        events.extend(std::iter::from_fn(|| client.take_event()));
        if tx.is_some() && !events.is_empty() {
            break;
        }
        turn(&mut client);
    }
    assert_eq!(events[0].path, "/pipelined");
    let tx = tx.unwrap();
    client
        .send(tx, &Request::write("/pipelined/tx", b"1"))
        .unwrap();
    client.send(tx, &Request::transaction_end(true)).unwrap();
    client.process().unwrap();
    for _ in 0..2 {
        let reply = loop {
            match client.take_reply() {
                Some((_, result)) => break result,
                None => turn(&mut client),
            }
        };
        assert_eq!(reply, Ok(b"OK\0".to_vec()));
    }
    let over = client.send(tx, &Request::read("/pipelined/tx"));
    assert_eq!(over, Err(Errno::ENOENT));
    let broken = client.send(NONE, &Request::read("/a\0b"));
    assert_eq!(broken, Err(Errno::EINVAL));
}
