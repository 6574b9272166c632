//! The xenstore server, fed by several connections of several domains with what may be messages.

use arbitrary::Arbitrary;
use cantle_abi::DomId;
use cantle_abi::io::xs_wire::XsType;
use cantle_xenstore::Server;
use cantle_xenstore::server::ConnId;
use cantle_xenstore::wire::{self, Message};

use crate::input::{self, Odd};

#[derive(Arbitrary, Debug)]
enum Action<'a> {
    Connect(u8, bool),
    Disconnect(u8),
    Introduce(Odd),
    Release(Odd),
    /// A message.
    Ask(u8, Request),
    /// Any bytes.
    Raw(u8, &'a [u8]),
    /// The client reads so much.
    Read(u8, u16),
}

/// A message that gets past the parser.
#[derive(Arbitrary, Debug)]
pub(super) struct Request {
    op: Odd,
    tx: Odd,
    payload: Vec<Piece>,
    terminated: bool,
}

/// Part of a payload.
#[derive(Arbitrary, Debug)]
enum Piece {
    End,
    Slash,
    Name(u8),
    Home(u8),
    Known(u8),
    Permission(u8, u8),
    Number(Odd),
    Long(u16),
    Byte(u8),
}

/// What a client may say that means something.
const KNOWN: [&str; 12] = [
    "/",
    "/local/domain",
    "/local/domain/1/device/vbd/0",
    "/tool",
    "@releaseDomain",
    "@introduceDomain",
    "device",
    "..",
    "//",
    "T",
    "F",
    "token",
];

impl Request {
    /// The operation, the transaction and the payload.
    pub(super) fn parts(&self) -> (XsType, u32, Vec<u8>) {
        let mut payload = Vec::new();
        for piece in self.payload.iter().take(64) {
            match piece {
                Piece::End => payload.push(0),
                Piece::Slash => payload.push(b'/'),
                Piece::Name(n) => payload.extend([b'a' + n % 4]),
                Piece::Home(n) => payload.extend(format!("/local/domain/{}", n % 4).bytes()),
                Piece::Known(n) => payload.extend(KNOWN[usize::from(*n) % KNOWN.len()].bytes()),
                Piece::Permission(kind, n) => {
                    let letter = b"nrwbx"[usize::from(*kind) % 5];
                    payload.push(letter);
                    payload.extend((n % 5).to_string().bytes());
                }
                Piece::Number(number) => payload.extend(number.0.to_string().bytes()),
                Piece::Long(len) => payload.extend(std::iter::repeat_n(b'x', usize::from(*len))),
                Piece::Byte(byte) => payload.push(*byte),
            }
        }
        payload.truncate(4095);
        if self.terminated {
            payload.push(0);
        }
        (XsType(self.op.word()), self.tx.word(), payload)
    }
}

/// Unread output of an unprivileged connection, replies and events, cannot pass this: far more than its limits.
const OUTPUT_MAX: usize = 1 << 20;

/// Runs one input.
///
/// # Panics
///
/// Where what the server sends is no message, or it keeps too much for a client that does not read.
pub fn run(data: &[u8]) {
    let mut server = Server::new();
    let mut clients: Vec<Client> = Vec::new();
    for domid in 1..3 {
        let _ = server.introduce(DomId(domid));
        clients.push(Client::new(&mut server, DomId(domid), false));
    }
    clients.push(Client::new(&mut server, DomId(0), true));
    for action in input::actions::<Action<'_>>(data) {
        match action {
            Action::Connect(domid, privileged) if clients.len() < 16 => {
                clients.push(Client::new(
                    &mut server,
                    DomId(u16::from(domid % 5)),
                    privileged,
                ));
            }
            Action::Connect(..) => {}
            Action::Disconnect(n) => {
                let n = usize::from(n) % clients.len();
                server.disconnect(clients[n].conn);
                if clients.len() > 1 {
                    clients.swap_remove(n);
                }
            }
            Action::Introduce(domid) => {
                let _ = server.introduce(DomId(domid.half()));
            }
            Action::Release(domid) => {
                let _ = server.release(DomId(domid.half()));
            }
            Action::Ask(n, request) => {
                let (op, tx, payload) = request.parts();
                let mut bytes = Vec::new();
                let emitted = wire::emit(&mut bytes, op, u32::from(n), tx, &[&payload]);
                assert_eq!(emitted, Ok(()));
                pick(&mut clients, n).feed(&mut server, &bytes);
            }
            Action::Raw(n, bytes) => pick(&mut clients, n).feed(&mut server, bytes),
            Action::Read(n, len) => pick(&mut clients, n).read(&mut server, usize::from(len)),
        }
        while server.take_action().is_some() {}
        server.take_ready();
    }
    for client in &mut clients {
        client.read(&mut server, usize::MAX);
        client.read_as_messages();
    }
}

fn pick(clients: &mut [Client], n: u8) -> &mut Client {
    let n = usize::from(n) % clients.len();
    &mut clients[n]
}

struct Client {
    conn: ConnId,
    privileged: bool,
    heard: Vec<u8>,
}

impl Client {
    fn new(server: &mut Server, domid: DomId, privileged: bool) -> Self {
        Self {
            conn: server.connect(domid, privileged),
            privileged,
            heard: Vec::new(),
        }
    }

    fn feed(&mut self, server: &mut Server, bytes: &[u8]) {
        if let Ok(taken) = server.feed(self.conn, bytes) {
            assert!(taken <= bytes.len());
        }
        let waiting = server.output(self.conn, usize::MAX).len();
        assert!(
            self.privileged || waiting <= OUTPUT_MAX,
            "{waiting} bytes wait for a client"
        );
    }

    fn read(&mut self, server: &mut Server, len: usize) {
        let output = server.output(self.conn, len);
        let taken = output.len().min(len);
        self.heard.extend_from_slice(&output[..taken]);
        server.consume_output(self.conn, taken);
    }

    /// What came was messages, whole ones but perhaps for the last.
    fn read_as_messages(&self) {
        let mut rest = &self.heard[..];
        loop {
            match Message::parse(rest) {
                Ok(Some((_, after))) => rest = after,
                Ok(None) => return,
                Err(error) => panic!("the server sent {error}"),
            }
        }
    }
}
