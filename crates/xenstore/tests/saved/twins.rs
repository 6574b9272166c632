//! Two servers that are asked the same.

use cantle_abi::io::xs_wire::*;
use cantle_abi::{DomId, Port};
use cantle_xenstore::server::{Action, ConnId, ConnKind, Host, HostConn};
use cantle_xenstore::state::Conn;
use cantle_xenstore::wire::{self, Message};
use cantle_xenstore::{Limits, Server, TxId};
use proptest::prelude::*;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// A connection sends a request, of which a part may come later.
    Ask {
        conn: usize,
        op: XsType,
        /// Which of its transactions, 0 for none.
        tx: usize,
        payload: Vec<u8>,
        /// So many bytes are kept back until its next request.
        late: usize,
    },
    /// A connection reads so much of what it was sent.
    Read {
        conn: usize,
        bytes: usize,
    },
    /// The toolstack's work, without messages.
    Introduce(u16),
    Release(u16),
    Target(u16, u16),
    Shutdown(u16),
}

const PATHS: [&str; 12] = [
    "/",
    "/a",
    "/a/b",
    "/a/b/c",
    "/local/domain/1",
    "/local/domain/1/x",
    "/local/domain/2/x/y",
    "x",
    "x/y",
    "/tool",
    "/local/domain/3",
    "/a/d",
];

fn path() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&PATHS[..])
}

fn payload() -> impl Strategy<Value = (XsType, Vec<u8>)> {
    let text = |op: XsType| move |path: &str| (op, [path.as_bytes(), b"\0"].concat());
    let watch = (
        prop_oneof![
            path(),
            Just("@releaseDomain"),
            Just("@introduceDomain"),
            Just("@releaseDomain/2")
        ],
        "[st]",
        prop::option::of(0..3_u16),
    );
    let perms = prop::sample::select(vec!["n0", "b1", "r1\0b2", "n2\0r1", "b2\0n1\0r3", "b3"]);
    prop_oneof![
        3 => path().prop_map(text(XS_READ)),
        2 => path().prop_map(text(XS_DIRECTORY)),
        1 => path().prop_map(text(XS_GET_PERMS)),
        6 => (path(), prop::collection::vec(any::<u8>(), 0..30)).prop_map(|(path, value)| {
            (XS_WRITE, [path.as_bytes(), b"\0", &value].concat())
        }),
        2 => path().prop_map(text(XS_MKDIR)),
        2 => path().prop_map(text(XS_RM)),
        1 => path().prop_map(|path| (XS_DIRECTORY_PART, [path.as_bytes(), b"\x000\0"].concat())),
        2 => (prop_oneof![path(), Just("@releaseDomain")], perms).prop_map(|(path, perms)| {
            (XS_SET_PERMS, [path.as_bytes(), b"\0", perms.as_bytes(), b"\0"].concat())
        }),
        4 => watch.prop_map(|(path, token, depth)| {
            let depth = depth.map_or(String::new(), |depth| format!("{depth}\0"));
            (XS_WATCH, [path, "\0", &token, "\0", &depth].concat().into_bytes())
        }),
        2 => (path(), "[st]").prop_map(|(path, token)| (XS_UNWATCH, [path, "\0", &token, "\0"].concat().into_bytes())),
        3 => Just((XS_TRANSACTION_START, b"\0".to_vec())),
        3 => any::<bool>().prop_map(|commit| (XS_TRANSACTION_END, if commit { b"T\0" } else { b"F\0" }.to_vec())),
        1 => Just((XS_RESET_WATCHES, b"\0".to_vec())),
        1 => (1..4_u16).prop_map(|domid| (XS_IS_DOMAIN_INTRODUCED, format!("{domid}\0").into_bytes())),
        1 => Just((XS_GET_FEATURE, Vec::new())),
        1 => (1..5_u16, 4..8_u16).prop_map(|(domid, features)| (XS_SET_FEATURE, format!("{domid}\0{features}\0").into_bytes())),
        1 => (1..5_u16, 1..9_u16, any::<bool>()).prop_map(|(domid, value, all)| {
            let domid = if all { String::new() } else { format!("{domid}\0") };
            (XS_SET_QUOTA, format!("{domid}watches\0{value}\0").into_bytes())
        }),
        1 => (1..5_u16).prop_map(|domid| (XS_GET_QUOTA, format!("{domid}\0watches\0").into_bytes())),
        1 => (1..4_u16, 1..9_u16).prop_map(|(domid, port)| (XS_INTRODUCE, format!("{domid}\x005\0{port}\0").into_bytes())),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (0..4_usize, 0..3_usize, payload(), prop_oneof![4 => Just(0), 1 => 1..20_usize]).prop_map(
            |(conn, tx, (op, payload), late)| Step::Ask { conn, op, tx, payload, late }
        ),
        8 => (0..4_usize, prop_oneof![1..30_usize, Just(10_000)]).prop_map(|(conn, bytes)| Step::Read { conn, bytes }),
        1 => (1..5_u16).prop_map(Step::Introduce),
        1 => (3..5_u16).prop_map(Step::Release),
        1 => (1..4_u16, 1..4_u16).prop_map(|(stub, target)| Step::Target(stub, target)),
        1 => (1..4_u16).prop_map(Step::Shutdown),
    ]
}

/// A server and what its four clients have seen: two guests with rings, the third domain's, and domain 0 at a socket.
struct Twin {
    server: Server,
    conns: [ConnId; 4],
    /// Fed to nobody yet.
    unfed: [Vec<u8>; 4],
    late: [Vec<u8>; 4],
    seen: [Vec<u8>; 4],
}

fn by(index: usize) -> Conn {
    if index == 3 {
        Conn::Socket { fd: 7 }
    } else {
        Conn::Ring {
            domid: DomId(u16::try_from(index + 1).unwrap()),
            target: None,
            port: Port(index.try_into().unwrap()),
        }
    }
}

impl Twin {
    fn new() -> Self {
        let mut server = Server::with_limits(Limits {
            nodes: 12,
            watches: 5,
            transactions: 3,
            event_bytes: 600,
            reply_bytes: 400,
            ..Limits::DEFAULT
        });
        let conns = [0, 1, 2, 3].map(|index| {
            if index == 3 {
                return server.connect_socket();
            }
            let domid = DomId(index + 1);
            server.introduce(domid).unwrap();
            server.connect_as(ConnKind::Ring, domid, false)
        });
        for domid in 1..4_u16 {
            // A home of its own, which the next domain may read.
            let home = format!("/local/domain/{domid}");
            let perms = [
                &home,
                "\0n",
                &domid.to_string(),
                "\0r",
                &(domid + 1).to_string(),
                "\0",
            ]
            .concat();
            for (op, payload) in [(XS_MKDIR, [&home, "\0"].concat()), (XS_SET_PERMS, perms)] {
                let answer = server.request(conns[3], op, TxId::NONE, payload.as_bytes());
                assert_eq!(answer.as_deref(), Ok(&b"OK\0"[..]));
            }
        }
        Self {
            server,
            conns,
            unfed: Default::default(),
            late: Default::default(),
            seen: Default::default(),
        }
    }

    fn feed(&mut self, conn: usize) {
        let id = self.conns[conn];
        let taken = self
            .server
            .feed(id, &self.unfed[conn])
            .unwrap_or(usize::MAX);
        let taken = taken.min(self.unfed[conn].len());
        self.unfed[conn].drain(..taken);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Ask {
                conn,
                op,
                tx,
                payload,
                late,
            } => {
                let mut message = core::mem::take(&mut self.late[*conn]);
                let tx = u32::try_from(*tx).unwrap();
                wire::emit(&mut message, *op, 9, tx, &[payload]).unwrap();
                let now = message.len().saturating_sub(*late);
                self.late[*conn] = message.split_off(now);
                self.unfed[*conn].extend(message);
                self.feed(*conn);
            }
            Step::Read { conn, bytes } => {
                let id = self.conns[*conn];
                let output = self.server.output(id, *bytes);
                let output = output[..output.len().min(*bytes)].to_vec();
                self.server.consume_output(id, output.len());
                self.seen[*conn].extend(output);
                self.feed(*conn);
            }
            Step::Introduce(domid) => drop(self.server.introduce(DomId(*domid))),
            Step::Release(domid) => drop(self.server.release(DomId(*domid))),
            Step::Target(stub, target) => drop(self.server.target(DomId(*stub), DomId(*target))),
            Step::Shutdown(domid) => drop(self.server.domain_shutdown(DomId(*domid))),
        }
        while let Some(action) = self.server.take_action() {
            // A guest that was introduced again begins at its ring's beginning, whatever was on its way.
            if let Action::Introduced { domid, .. } = action
                && let 1..=3 = domid.0
            {
                let conn = usize::from(domid.0 - 1);
                self.unfed[conn].clear();
                self.late[conn].clear();
            }
        }
    }

    /// The same after a hand-over.
    fn handed_over(&self) -> Self {
        let alive = (0..4).filter(|index| self.server.is_connected(self.conns[*index]));
        let connections = alive.map(|index| HostConn {
            conn: self.conns[index],
            by: by(index),
            unfed: &self.unfed[index],
            unique_id: None,
        });
        let host = Host {
            global: None,
            connections: connections.collect(),
        };
        let mut stream = Vec::new();
        self.server.save(&mut stream, &host).unwrap();
        let restored = Server::restore(&stream).unwrap();
        assert_eq!(restored.len, stream.len());
        let mut unfed: [Vec<u8>; 4] = Default::default();
        for conn in restored.connections {
            let index = self.conns.iter().position(|id| *id == conn.conn).unwrap();
            unfed[index] = conn.unfed;
        }
        Self {
            server: restored.server,
            conns: self.conns,
            unfed,
            late: self.late.clone(),
            seen: self.seen.clone(),
        }
    }

    fn check(&mut self) {
        let dom0 = self.server.connect(DomId::DOM0, true);
        let answer = self
            .server
            .request(dom0, XS_CONTROL, TxId::NONE, b"check\0");
        assert_eq!(answer.as_deref(), Ok(&b"OK\0"[..]));
        self.server.disconnect(dom0);
    }
}

/// Messages, without the generations of nodes: those of nodes that an open transaction has changed are others afterwards.
fn messages(bytes: &[u8]) -> Vec<(XsType, Vec<u8>)> {
    let mut list = Vec::new();
    let mut rest = bytes;
    while let Ok(Some((message, after))) = Message::parse(rest) {
        let mut payload = message.payload.to_vec();
        if message.header.kind == XS_DIRECTORY_PART {
            let end = payload.iter().position(|byte| *byte == 0).unwrap_or(0);
            payload.drain(..end);
        }
        list.push((message.header.kind, payload));
        rest = after;
    }
    list.push((XS_ERROR, rest.to_vec()));
    list
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_restored_server_goes_on_as_the_old_one(
        before in prop::collection::vec(step(), 0..80), after in prop::collection::vec(step(), 0..80),
    ) {
        let mut old = Twin::new();
        for step in &before {
            old.step(step);
        }
        let mut new = old.handed_over();
        new.check();
        for (number, step) in after.iter().enumerate() {
            old.step(step);
            new.step(step);
            if number == 20 {
                // Again, and from the one that was handed over before.
                new = new.handed_over();
            }
        }
        for conn in 0..4 {
            for twin in [&mut old, &mut new] {
                twin.step(&Step::Read { conn, bytes: 1 << 20 });
                twin.step(&Step::Read { conn, bytes: 1 << 20 });
            }
            prop_assert_eq!(messages(&old.seen[conn]), messages(&new.seen[conn]), "connection {}", conn);
        }
        old.check();
        new.check();
    }
}

/// Who is in the middle of a long directory goes on in it.
#[test]
fn generations_are_kept() {
    let mut twin = Twin::new();
    let ask = |twin: &mut Twin, op, payload: &[u8]| {
        let conn = twin.conns[3];
        twin.server.request(conn, op, TxId::NONE, payload).unwrap()
    };
    for path in ["/a/b\0", "/a/c\0"] {
        ask(&mut twin, XS_MKDIR, path.as_bytes());
    }
    let mut new = twin.handed_over();
    for path in ["/\x000\0", "/a\x000\0", "/local\x000\0"] {
        let parts = [&mut twin, &mut new].map(|twin| ask(twin, XS_DIRECTORY_PART, path.as_bytes()));
        assert_eq!(parts[0], parts[1]);
    }
    // And the next one is another.
    let parts = [&mut twin, &mut new].map(|twin| {
        ask(twin, XS_MKDIR, b"/a/d\0");
        ask(twin, XS_DIRECTORY_PART, b"/a\x000\0")
    });
    assert_eq!(parts[0], parts[1]);
}
