//! What is counted for a domain is what is there, and never above its limits, whatever it and others do.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use cantle_abi::DomId;
use cantle_abi::io::xs_wire::{
    XS_CONTROL, XS_DIRECTORY, XS_MKDIR, XS_READ, XS_RESET_WATCHES, XS_RM, XS_SET_PERMS,
    XS_TRANSACTION_END, XS_TRANSACTION_START, XS_UNWATCH, XS_WATCH, XS_WRITE, XsType,
};
use cantle_xenstore::server::{ConnId, Server};
use cantle_xenstore::{Limits, TxId, wire};
use proptest::prelude::*;

const GUESTS: [DomId; 2] = [DomId(1), DomId(2)];

const LIMITS: Limits = Limits {
    nodes: 8,
    node_bytes: 600,
    perms_per_node: 3,
    path_depth: 8,
    watches: 4,
    transactions: 2,
    transaction_requests: 4,
    outstanding: 5,
    // Two connections' buffers, and little more.
    memory: 2 * 28_720 + 5_000,
    event_bytes: 600,
    ..Limits::DEFAULT
};

/// Paths of both guests and of dom0, some of which the guests may read or write.
const PATHS: [&str; 8] = [
    "a",
    "a/b",
    "a/b/c/d",
    "shared",
    "/local/domain/1/shared",
    "/local/domain/2/shared/x",
    "/x",
    "/x/a-name-that-is-a-little-longer",
];

#[derive(Clone, Debug)]
enum Step {
    /// A request, of which so many bytes are fed at first.
    Ask(usize, XsType, u32, Vec<u8>, usize),
    /// So many bytes are read.
    Read(usize, usize),
    Disconnect(usize),
    Release(usize),
    /// dom0 writes where everybody may watch.
    Tell(usize),
}

fn payload(op: u8, path: &str, len: usize, yes: bool) -> (XsType, Vec<u8>) {
    let path_z = format!("{path}\0").into_bytes();
    let with = |rest: &[u8]| [&path_z[..], rest].concat();
    match op {
        0..=3 => (XS_WRITE, with(&vec![b'v'; len])),
        4 => (XS_MKDIR, path_z),
        5 => (XS_RM, path_z),
        6 => (
            XS_SET_PERMS,
            with(if yes { b"n1\0b2\0" } else { b"n2\0b1\0r0\0" }),
        ),
        7 | 8 => (
            XS_WATCH,
            with(if yes { b"t\0" } else { b"another-token\0" }),
        ),
        9 => (
            XS_UNWATCH,
            with(if yes { b"t\0" } else { b"another-token\0" }),
        ),
        10 => (XS_RESET_WATCHES, b"\0".to_vec()),
        11 | 12 => (XS_TRANSACTION_START, b"\0".to_vec()),
        13 | 14 => (
            XS_TRANSACTION_END,
            if yes { b"T\0" } else { b"F\0" }.to_vec(),
        ),
        15 => (XS_DIRECTORY, path_z),
        _ => (XS_READ, path_z),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let ask = (
        0..4_usize,
        0..18_u8,
        0..3_u32,
        0..PATHS.len(),
        0..700_usize,
        any::<bool>(),
        1..40_usize,
    );
    prop_oneof![
        20 => ask.prop_map(|(conn, op, tx, path, len, yes, first)| {
            let (op, payload) = payload(op, PATHS[path], len, yes);
            // A new transaction is never part of another.
            let tx = if op == XS_TRANSACTION_START { 0 } else { tx };
            Step::Ask(conn, op, tx, payload, first)
        }),
        8 => (0..4_usize, 0..2000_usize).prop_map(|(conn, len)| Step::Read(conn, len)),
        1 => (0..4_usize).prop_map(Step::Disconnect),
        1 => (0..2_usize).prop_map(Step::Release),
        3 => (6..PATHS.len()).prop_map(Step::Tell),
    ]
}

struct World {
    server: Server,
    dom0: ConnId,
    /// Two of each guest, with the bytes that the server has not taken.
    conns: Vec<(ConnId, Vec<u8>)>,
}

impl World {
    fn new() -> Self {
        let mut server = Server::with_limits(LIMITS);
        let dom0 = server.connect(DomId::DOM0, true);
        let conns = [0, 0, 1, 1].map(|guest| (server.connect(GUESTS[guest], false), Vec::new()));
        let mut world = Self {
            server,
            dom0,
            conns: conns.into(),
        };
        world.ask_dom0(XS_MKDIR, "/x\0");
        world.ask_dom0(XS_SET_PERMS, "/x\0r0\0");
        for guest in 0..2 {
            world.welcome(guest);
        }
        world
    }

    fn ask_dom0(&mut self, op: XsType, payload: &str) -> Vec<u8> {
        self.server
            .request(self.dom0, op, TxId::NONE, payload.as_bytes())
            .unwrap()
    }

    fn welcome(&mut self, guest: usize) {
        let domid = GUESTS[guest];
        self.server.introduce(domid).unwrap();
        let home = format!("/local/domain/{domid}\0");
        self.ask_dom0(XS_MKDIR, &home);
        self.ask_dom0(XS_SET_PERMS, &format!("{home}n{domid}\0"));
    }

    fn connect(&mut self, conn: usize) {
        let id = self.server.connect(GUESTS[conn / 2], false);
        self.conns[conn] = (id, Vec::new());
    }

    fn feed(&mut self, conn: usize, at_most: usize) {
        let (id, bytes) = &mut self.conns[conn];
        let first = at_most.min(bytes.len());
        let taken = self.server.feed(*id, &bytes[..first]).unwrap();
        bytes.drain(..taken);
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Ask(conn, op, tx, payload, first) => {
                let bytes = &mut self.conns[*conn].1;
                let before = bytes.len();
                wire::emit(bytes, *op, 1, *tx, &[payload]).unwrap();
                self.feed(*conn, before + first);
            }
            Step::Read(conn, len) => {
                let id = self.conns[*conn].0;
                let ready = self.server.output(id, *len).len();
                self.server.consume_output(id, ready.min(*len));
                self.feed(*conn, usize::MAX);
            }
            Step::Disconnect(conn) => {
                self.server.disconnect(self.conns[*conn].0);
                self.connect(*conn);
            }
            Step::Release(guest) => {
                self.server.release(GUESTS[*guest]).unwrap();
                let stats = self.server.stats();
                assert!(
                    stats.iter().all(|each| each.domid != GUESTS[*guest]),
                    "nothing of it is left"
                );
                self.welcome(*guest);
                self.connect(2 * guest);
                self.connect(2 * guest + 1);
            }
            Step::Tell(path) => {
                self.ask_dom0(XS_WRITE, &format!("{}\0told", PATHS[*path]));
            }
        }
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let answer = self.ask_dom0(XS_CONTROL, "check\0");
        prop_assert_eq!(String::from_utf8(answer).unwrap(), "OK\0");
        for stats in self.server.stats() {
            if !GUESTS.contains(&stats.domid) {
                continue;
            }
            prop_assert!(stats.nodes <= u64::from(LIMITS.nodes), "{:?}", stats);
            prop_assert!(stats.watches <= u64::from(LIMITS.watches), "{:?}", stats);
            prop_assert!(
                stats.transactions <= u64::from(LIMITS.transactions),
                "{:?}",
                stats
            );
            prop_assert!(stats.bytes <= u64::from(LIMITS.memory), "{:?}", stats);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { ..ProptestConfig::with_cases(300) })]

    #[test]
    fn the_count_is_exact_and_within_the_limits(steps in prop::collection::vec(step(), 1..150)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
            world.check()?;
        }
        // What was used is given back.
        for guest in GUESTS {
            world.server.release(guest).unwrap();
        }
        world.check()?;
        prop_assert_eq!(world.server.stats().len(), 1);
    }
}

/// The limits above are met at all: otherwise the test says nothing.
#[test]
fn the_limits_are_met() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut hits = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let steps = prop::collection::vec(step(), 150)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        for guest in GUESTS {
            let told = world.ask_dom0(XS_CONTROL, &format!("quota\0{guest}\0"));
            let told = String::from_utf8(told).unwrap();
            let lines = told
                .lines()
                .filter(|line| line.contains("refused") && !line.ends_with(" 0"));
            hits.extend(lines.filter_map(|line| {
                line.split_whitespace()
                    .next()
                    .map(|word| word.trim_end_matches(':').to_owned())
            }));
        }
    }
    let wanted = [
        "memory",
        "node-size",
        "nodes",
        "outstanding",
        "transaction-nodes",
        "transactions",
        "watches",
    ];
    let met: Vec<&str> = hits.iter().map(String::as_str).collect();
    assert_eq!(met, wanted);
}
