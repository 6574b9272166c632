//! A xenstore client whose server lies: replies that nobody asked for, events without end, messages that are none.

use std::io::Write;
use std::os::unix::net::UnixStream;

use arbitrary::Arbitrary;
use cantle_abi::io::xs_wire::{XS_ERROR, XS_WATCH_EVENT, XsType};
use cantle_xenstore::TxId;
use cantle_xenstore::client::{NonBlocking, Request, Ticket};
use cantle_xenstore::wire;

use crate::input::{self, Odd};

#[derive(Arbitrary, Debug)]
enum Action<'a> {
    Read(u8, Odd),
    Watch(u8, u8),
    Unwatch(u8, u8),
    Reset,
    Start,
    End(Odd),
    /// The server answers a request of a number, by a kind that may be that of the request.
    Answer(u8, u8, &'a [u8]),
    Refuse(u8, bool),
    /// Events, many at once.
    Events(u8, u8, u8),
    Raw(&'a [u8]),
    Process,
    TakeEvent,
}

const PATHS: [&str; 4] = ["/", "/a", "/a/b", "@releaseDomain"];
const TOKENS: [&str; 3] = ["t", "u", ""];

fn one<'a>(of: &[&'a str], which: u8) -> &'a str {
    of.get(usize::from(which) % of.len())
        .copied()
        .unwrap_or_default()
}

/// Runs one input.
///
/// # Panics
///
/// Where a request is answered twice or never, or what waits for the user grows without bound.
pub fn run(data: &[u8]) {
    let Ok((ours, mut server)) = UnixStream::pair() else {
        // No descriptor is free: nothing is learnt.
        return;
    };
    let Ok(mut client) = NonBlocking::from_stream(ours) else {
        return;
    };
    // A server that says more than the socket takes is not waited for.
    let _ = server.set_nonblocking(true);
    let mut asked: Vec<Ticket> = Vec::new();
    for action in input::actions::<Action<'_>>(data) {
        match action {
            Action::Process => {
                let _ = client.process();
            }
            Action::TakeEvent => drop(client.take_event()),
            action => match request(&action) {
                Some((tx, request)) => asked.extend(client.send(tx, &request)),
                None => say(&mut server, &action),
            },
        }
        settle(&mut client, &mut asked);
    }
    drop(server);
    // It reads a bounded amount at a time; the end is behind all that was sent.
    let rounds = (0..1000).take_while(|_| client.process().is_ok()).count();
    assert!(rounds < 1000, "the end is not seen");
    settle(&mut client, &mut asked);
    assert!(asked.is_empty(), "{asked:?} were not answered");
    let events = std::iter::from_fn(|| client.take_event());
    let bytes: usize = events
        .map(|event| event.path.len() + event.token.len())
        .sum();
    assert!(bytes < 1 << 20, "{bytes} bytes of events");
}

/// What the client's user asks.
fn request(action: &Action<'_>) -> Option<(TxId, Request<'static>)> {
    let tx = |odd: &Odd| TxId(odd.word());
    Some(match action {
        Action::Read(path, odd) => (tx(odd), Request::read(one(&PATHS, *path))),
        Action::Watch(path, token) => {
            let request = Request::watch(one(&PATHS, *path), one(&TOKENS, *token));
            (TxId::NONE, request)
        }
        Action::Unwatch(path, token) => {
            let request = Request::unwatch(one(&PATHS, *path), one(&TOKENS, *token));
            (TxId::NONE, request)
        }
        Action::Reset => (TxId::NONE, Request::reset_watches()),
        Action::Start => (TxId::NONE, Request::transaction_start()),
        Action::End(odd) => (tx(odd), Request::transaction_end(true)),
        _ => return None,
    })
}

/// What the server says. Where the socket is full, the rest is not said, which leaves a message without its end.
fn say(server: &mut UnixStream, action: &Action<'_>) {
    let mut bytes = Vec::new();
    let mut message = |kind: XsType, req_id: u32, payload: &[u8]| {
        // What is too long is not said.
        let _ = wire::emit(&mut bytes, kind, req_id, 0, &[payload]);
    };
    match action {
        Action::Answer(req_id, kind, payload) => {
            message(XsType((*kind).into()), (*req_id).into(), payload);
        }
        Action::Refuse(req_id, again) => {
            let name: &[u8] = if *again { b"EAGAIN\0" } else { b"EINVAL\0" };
            message(XS_ERROR, (*req_id).into(), name);
        }
        Action::Events(path, token, count) => {
            let path = one(&PATHS, *path);
            let below = "/x".repeat(usize::from(*count) * 4);
            let event = format!("{path}{below}\0{}\0", one(&TOKENS, *token));
            (0..*count).for_each(|_| message(XS_WATCH_EVENT, 0, event.as_bytes()));
        }
        Action::Raw(raw) => bytes.extend_from_slice(raw),
        _ => {}
    }
    let _ = server.write(&bytes);
}

/// Takes the replies: each is of a request that waits for one.
fn settle(client: &mut NonBlocking, asked: &mut Vec<Ticket>) {
    while let Some((ticket, _)) = client.take_reply() {
        let at = asked.iter().position(|other| *other == ticket);
        assert!(at.is_some(), "{ticket:?} was not asked, or answered before");
        at.map(|at| asked.swap_remove(at));
    }
}
