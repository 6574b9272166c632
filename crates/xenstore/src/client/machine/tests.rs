use cantle_abi::DomId;
use cantle_abi::io::xs_wire::{XS_READ, XS_WRITE};
use proptest::prelude::*;

use super::*;
use crate::Server;
use crate::client::Request;
use crate::server::ConnId;

/// A machine at a server.
struct Pair {
    server: Server,
    conn: ConnId,
    machine: Machine,
}

impl Pair {
    fn new() -> Self {
        let mut server = Server::new();
        let conn = server.connect(DomId::DOM0, true);
        Self {
            server,
            conn,
            machine: Machine::default(),
        }
    }

    fn ask(&mut self, tx: TxId, request: &Request<'_>) -> Ticket {
        self.machine
            .request(request.op(), tx, request.payload().unwrap())
            .unwrap()
    }

    /// Carries bytes both ways, `step` at a time.
    fn carry(&mut self, step: usize) {
        let sent = self.machine.outgoing().to_vec();
        self.machine.sent(sent.len());
        for piece in sent.chunks(step) {
            assert_eq!(self.server.feed(self.conn, piece), Ok(piece.len()));
        }
        loop {
            let bytes = self.server.output(self.conn, step);
            let bytes = bytes[..bytes.len().min(step)].to_vec();
            if bytes.is_empty() {
                return;
            }
            self.server.consume_output(self.conn, bytes.len());
            self.machine.feed(&bytes).unwrap();
        }
    }

    fn told(&mut self, tx: TxId, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        let ticket = self.ask(tx, request);
        self.carry(4096);
        let (told, result) = self.machine.take_reply().unwrap();
        assert_eq!(told, ticket);
        result
    }

    /// The server starts anew, with nothing.
    fn restart(&mut self) {
        self.machine.lose();
        self.server = Server::new();
        self.conn = self.server.connect(DomId::DOM0, true);
        self.machine.renew();
    }

    fn events(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.machine.take_event())
            .map(|event| format!("{} {}", event.path, event.token))
            .collect()
    }
}

#[test]
fn replies_find_their_requests_however_the_bytes_are_cut() {
    for step in [1, 7, 16, 4096] {
        let mut pair = Pair::new();
        let write = pair.ask(TxId::NONE, &Request::write("/a", b"v"));
        let read = pair.ask(TxId::NONE, &Request::read("/a"));
        let missing = pair.ask(TxId::NONE, &Request::read("/b"));
        pair.carry(step);
        let replies: Vec<_> = std::iter::from_fn(|| pair.machine.take_reply()).collect();
        assert_eq!(
            replies,
            [
                (write, Ok(b"OK\0".to_vec())),
                (read, Ok(b"v".to_vec())),
                (missing, Err(Errno::ENOENT))
            ]
        );
    }
}

#[test]
fn a_transaction_of_a_lost_connection_is_not_taken_for_another() {
    let mut pair = Pair::new();
    let start = Request::transaction_start();
    let old = TxId(reply::number(&pair.told(TxId::NONE, &start).unwrap()).unwrap());
    pair.told(old, &Request::write("/a", b"v")).unwrap();
    pair.restart();
    let new = TxId(reply::number(&pair.told(TxId::NONE, &start).unwrap()).unwrap());
    assert_ne!(old, new);
    let refused = pair.machine.request(XS_WRITE, old, b"/a\0w");
    assert_eq!(refused, Err(Errno::ENOENT));
    pair.told(new, &Request::write("/a", b"w")).unwrap();
    pair.told(new, &Request::transaction_end(true)).unwrap();
    let over = pair.machine.request(XS_READ, new, b"/a\0");
    assert_eq!(over, Err(Errno::ENOENT));
}

#[test]
fn watches_outlive_the_server_and_unwatched_ones_do_not() {
    let mut pair = Pair::new();
    for path in ["/a", "/b", "/c"] {
        pair.told(TxId::NONE, &Request::watch(path, "t")).unwrap();
    }
    pair.told(TxId::NONE, &Request::unwatch("/b", "t")).unwrap();
    let twice = pair.told(TxId::NONE, &Request::watch("/a", "t"));
    assert_eq!(twice, Err(Errno::EEXIST));
    assert_eq!(pair.events(), ["/a t", "/c t"]);
    let on_its_way = pair.ask(TxId::NONE, &Request::read("/"));
    pair.restart();
    let lost = pair.machine.take_reply();
    assert_eq!(lost, Some((on_its_way, Err(Errno::EIO))));
    assert!(pair.machine.is_renewing());
    pair.carry(4096);
    assert!(!pair.machine.is_renewing());
    assert_eq!(pair.events(), ["/a t", "/c t"]);
    assert_eq!(pair.machine.take_reply(), None, "nobody asked");
    assert_eq!(pair.machine.take_refused(), []);
    pair.told(TxId::NONE, &Request::write("/c/d", b"")).unwrap();
    assert_eq!(pair.events(), ["/c/d t"]);
    pair.told(TxId::NONE, &Request::reset_watches()).unwrap();
    pair.restart();
    assert!(!pair.machine.is_renewing());
}

#[test]
fn what_no_server_may_send_is_told_apart() {
    let send = |kind, req_id, payload: &[u8]| {
        let mut machine = Machine::default();
        machine.request(XS_READ, TxId::NONE, b"/a\0").unwrap();
        let mut bytes = Vec::new();
        wire::emit(&mut bytes, kind, req_id, 0, &[payload]).unwrap();
        machine.feed(&bytes)
    };
    assert_eq!(send(XS_READ, 1, b"v"), Ok(()));
    assert_eq!(send(XS_READ, 2, b"v"), Err(Broken::Unasked { req_id: 2 }));
    let wrong = Broken::WrongKind {
        asked: XS_READ,
        got: XS_WRITE,
    };
    assert_eq!(send(XS_WRITE, 1, b"OK\0"), Err(wrong));
    assert_eq!(send(XS_WATCH_EVENT, 0, b"/a\0t"), Err(Broken::BadEvent));
    assert_eq!(send(XS_WATCH_EVENT, 0, b"/a\0t\0"), Ok(()));
    let long = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 16, 0, 0];
    let refused = Machine::default().feed(&long);
    assert_eq!(refused, Err(Broken::TooLong(TooLong { len: 4097 })));
}

/// What a hostile server may do between two requests.
#[derive(Clone, Debug)]
enum Say {
    Ask(u32, u32),
    Message(u32, u32, Vec<u8>),
    Bytes(Vec<u8>),
    Lose,
    Take,
}

fn say() -> impl Strategy<Value = Say> {
    let payload = || {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            Just(b"/a\0t\0".to_vec()),
            Just(b"7\0".to_vec()),
        ]
    };
    prop_oneof![
        (0_u32..28, 0_u32..4).prop_map(|(op, tx)| Say::Ask(op, tx)),
        (0_u32..28, 0_u32..8, payload()).prop_map(|(kind, id, data)| Say::Message(kind, id, data)),
        payload().prop_map(Say::Bytes),
        Just(Say::Lose),
        Just(Say::Take),
    ]
}

proptest! {
    #[test]
    fn no_server_makes_it_panic_or_keep_more_than_is_due(all in prop::collection::vec(say(), 0..200)) {
        let mut machine = Machine::default();
        let mut open: Vec<Ticket> = Vec::new();
        for one in all {
            match one {
                Say::Ask(op, tx) => open.extend(machine.request(XsType(op), TxId(tx), b"/a\0t\0")),
                Say::Message(kind, req_id, payload) => {
                    let mut bytes = Vec::new();
                    wire::emit(&mut bytes, XsType(kind), req_id, 0, &[&payload]).unwrap();
                    if machine.feed(&bytes).is_err() {
                        machine.lose();
                    }
                }
                Say::Bytes(bytes) => {
                    if machine.feed(&bytes).is_err() {
                        machine.lose();
                    }
                }
                Say::Lose => {
                    machine.lose();
                    machine.renew();
                }
                Say::Take => {
                    machine.take_event();
                }
            }
            prop_assert!(machine.partial.len() < wire::MESSAGE_MAX);
            while let Some((ticket, _)) = machine.take_reply() {
                let at = open.iter().position(|asked| *asked == ticket);
                prop_assert!(at.is_some(), "{ticket:?} was answered twice, or never asked");
                open.swap_remove(at.unwrap());
            }
        }
        machine.lose();
        while let Some((ticket, _)) = machine.take_reply() {
            open.retain(|asked| *asked != ticket);
        }
        prop_assert!(open.is_empty(), "{open:?} were never answered");
    }
}
