//! Records that have the right form, whatever they mean.

use arbitrary::Arbitrary;
use cantle_abi::io::xs_wire::{XS_READ, XS_WATCH_EVENT};
use cantle_abi::{DomId, Gfn, Port};
use cantle_xenstore::Access;
use cantle_xenstore::state::own::{
    CONDENSED, ConnectionState, DomainState, Op, Own, ServerState, Step, TransactionState,
};
use cantle_xenstore::state::{
    Conn, ConnectionData, DomainData, GlobalData, GlobalQuotaData, NodeData, NodePerm, Pending,
    Quota, Record, TransactionData, WatchData, emit,
};
use cantle_xenstore::wire;

use super::domain;
use crate::input::Odd;

const PATHS: [&str; 24] = [
    "/",
    "/a",
    "/a/b",
    "/a/b/c",
    "/b",
    "/local",
    "/local/domain",
    "/local/domain/0",
    "/local/domain/1",
    "/local/domain/1/x",
    "/local/domain/1/x/y",
    "/local/domain/2",
    "/local/domain/2/x",
    "/tool",
    "@releaseDomain",
    "@introduceDomain",
    "@nothing",
    "x",
    "x/y",
    "",
    "//",
    "/a/",
    "/whole",
    "/a/\u{e9}",
];

/// One record.
#[derive(Arbitrary, Debug)]
pub(in crate::targets) enum Made {
    Connection(Connection),
    Watch(u8, u8, u8, Option<u16>),
    Transaction(u8, u8),
    Node(Node),
    Pending(u8, u8, bool, bool, Node),
    GlobalQuota(Vec<(u8, Odd)>),
    Domain(Odd, u32, Vec<(u8, Odd)>),
    Server(Odd, Odd, Vec<Odd>),
    Generations(Vec<Odd>),
    DomainState(Odd, [bool; 4], Option<Odd>),
    ConnectionState(u8, Odd, Odd, bool, Vec<u8>, Vec<u8>),
    TransactionState(u8, u8, bool, Vec<Node>, Vec<(u8, u8, Node)>),
    Unwatch(u8, u8, u8),
    NoWatches(u8),
    DomainGone(Odd),
    Global(i32),
    Other(u32),
    /// A little tree, so that there is something to speak of.
    Tree(u8),
}

#[derive(Arbitrary, Debug)]
pub(in crate::targets) struct Connection {
    id: u8,
    domid: Odd,
    socket: bool,
    target: Option<Odd>,
    input: Vec<u8>,
    output: Vec<Output>,
    begun: u8,
    unique: Option<u64>,
}

#[derive(Arbitrary, Debug)]
enum Output {
    Event(u8, u8),
    Reply(u8),
    Byte(u8),
}

#[derive(Arbitrary, Debug)]
pub(in crate::targets) struct Node {
    path: u8,
    value: u8,
    perms: Vec<(u8, Odd)>,
}

fn path(n: u8) -> &'static [u8] {
    PATHS[usize::from(n) % PATHS.len()].as_bytes()
}

/// A few numbers, and none that the format has no room for.
fn number(n: u8) -> u32 {
    u32::from(n % 4) + 1
}

impl Node {
    fn data(&self, pending: Option<Pending>) -> NodeData<'static> {
        NodeData {
            pending,
            perms: perms(&self.perms),
            path: path(self.path),
            value: &b"some value"[..usize::from(self.value) % 10],
        }
    }
}

fn perms(list: &[(u8, Odd)]) -> Vec<NodePerm> {
    let perm = |(kind, of): &(u8, Odd)| NodePerm {
        access: [Access::None, Access::Read, Access::Write, Access::Both][usize::from(kind % 4)],
        stale: kind / 4 % 8 == 1,
        domid: domain(*of),
    };
    list.iter().take(8).map(perm).collect()
}

fn quotas(list: &[(u8, Odd)]) -> Vec<Quota<'static>> {
    const NAMES: [&str; 8] = [
        "nodes",
        "watches",
        "transactions",
        "outstanding",
        "memory",
        "reply-bytes",
        "event-bytes",
        "nobody-knows",
    ];
    let quota = |(name, value): &(u8, Odd)| {
        let name = NAMES[usize::from(*name) % NAMES.len()];
        (name.as_bytes(), value.word())
    };
    list.iter().map(quota).collect()
}

impl Made {
    /// Appends the record; nothing where the format has no room for it.
    pub(in crate::targets) fn emit(&self, out: &mut Vec<u8>) {
        let record = match self {
            Self::Connection(connection) => return connection.emit(out),
            Self::Tree(kind) => return tree(*kind, out),
            Self::ConnectionState(id, conn, next, privileged, events, input) => {
                let event = |event: &u8| {
                    let condensed = if *event >= 0x80 { CONDENSED } else { 0 };
                    u32::from(event % 8) | condensed
                };
                let state = ConnectionState {
                    conn_id: number(*id),
                    id: conn.0,
                    next_tx: next.word(),
                    privileged: *privileged,
                    events: events.iter().map(event).collect(),
                    input,
                };
                let _ = emit(out, &Record::Own(Own::Connection(state)));
                return;
            }
            other => other.record(),
        };
        let _ = emit(out, &record);
    }

    fn record(&self) -> Record<'static> {
        match self {
            Self::Watch(id, of, token, depth) => Record::Watch(WatchData {
                conn_id: number(*id),
                path: path(*of),
                token: &b"token"[..usize::from(*token) % 5],
                depth: *depth,
            }),
            Self::Transaction(id, tx) => Record::Transaction(TransactionData {
                conn_id: number(*id),
                tx_id: number(*tx),
            }),
            Self::Node(node) => Record::Node(node.data(None)),
            Self::Pending(id, tx, read, written, node) => Record::Node(node.data(Some(Pending {
                conn_id: number(*id),
                tx_id: number(*tx),
                read: *read,
                written: *written,
            }))),
            Self::GlobalQuota(list) => Record::GlobalQuota(GlobalQuotaData {
                domain: quotas(list),
                global: quotas(list),
            }),
            Self::Domain(of, features, list) => Record::Domain(DomainData {
                domid: domain(*of),
                features: *features,
                quotas: quotas(list),
            }),
            Self::Global(fd) => Record::Global(GlobalData {
                socket_fd: Some(*fd),
                evtchn_fd: None,
            }),
            Self::Other(kind) => Record::Other {
                kind: *kind,
                body: &[],
            },
            own => own.own().map_or(Record::End, Record::Own),
        }
    }

    fn own(&self) -> Option<Own<'static>> {
        Some(match self {
            Self::Server(generation, next_conn, privileged) => Own::Server(ServerState {
                generation: generation.0,
                next_conn: next_conn.0,
                privileged: privileged.iter().copied().map(domain).collect(),
            }),
            Self::Generations(list) => {
                Own::Generations(list.iter().map(|generation| generation.0).collect())
            }
            Self::DomainState(of, [introduced, shutdown, quotas, ring], target) => {
                Own::Domain(DomainState {
                    domid: domain(*of),
                    introduced: *introduced,
                    shutdown: *shutdown,
                    quotas: *quotas,
                    target: target.map(domain),
                    ring: ring.then_some((Gfn(of.0), Port(of.word()))),
                })
            }
            Self::TransactionState(id, tx, doomed, base, log) => {
                Own::Transaction(TransactionState {
                    conn_id: number(*id),
                    tx_id: number(*tx),
                    doomed: *doomed,
                    base: base.iter().map(|node| node.data(None)).collect(),
                    log: log.iter().map(step).collect(),
                })
            }
            Self::Unwatch(id, of, token) => Own::Unwatch {
                conn_id: number(*id),
                path: path(*of),
                token: &b"token"[..usize::from(*token) % 5],
            },
            Self::NoWatches(id) => Own::NoWatches {
                conn_id: number(*id),
            },
            Self::DomainGone(of) => Own::DomainGone { domid: domain(*of) },
            _ => return None,
        })
    }
}

fn step((op, errno, node): &(u8, u8, Node)) -> Step<'static> {
    const OPS: [Op; 7] = [
        Op::Value,
        Op::Children,
        Op::Perms,
        Op::Write,
        Op::Mkdir,
        Op::Rm,
        Op::SetPerms,
    ];
    let data = node.data(None);
    Step {
        op: OPS[usize::from(*op) % OPS.len()],
        // Mostly done.
        errno: u16::from(errno.saturating_sub(200)),
        perms: data.perms,
        path: data.path,
        value: data.value,
    }
}

impl Connection {
    fn emit(&self, out: &mut Vec<u8>) {
        let mut output = Vec::new();
        for piece in self.output.iter().take(16) {
            match piece {
                Output::Event(of, token) => {
                    let token = &b"token"[..usize::from(*token) % 5];
                    let parts = [path(*of), b"\0", token, b"\0"];
                    let _ = wire::emit(&mut output, XS_WATCH_EVENT, 0, 0, &parts);
                }
                Output::Reply(id) => {
                    let _ = wire::emit(&mut output, XS_READ, (*id).into(), 0, &[b"value"]);
                }
                Output::Byte(byte) => output.push(*byte),
            }
        }
        let conn = if self.socket {
            Conn::Socket { fd: 3 }
        } else {
            Conn::Ring {
                domid: domain(self.domid),
                target: self.target.map(domain),
                port: Port(1),
            }
        };
        let record = Record::Connection(ConnectionData {
            conn_id: number(self.id),
            conn,
            input: &self.input,
            output: &output,
            begun: self.begun.into(),
            unique_id: self.unique,
        });
        let _ = emit(out, &record);
    }
}

fn tree(kind: u8, out: &mut Vec<u8>) {
    let owner = |domid| NodePerm {
        access: Access::None,
        stale: false,
        domid: DomId(domid),
    };
    for path in &PATHS[..14] {
        let domid = match path.strip_prefix("/local/domain/").map(|rest| &rest[..1]) {
            Some("1") => 1,
            Some("2") => 2,
            _ => u16::from(kind % 3),
        };
        let node = NodeData {
            pending: None,
            perms: vec![owner(domid)],
            path: path.as_bytes(),
            value: b"tree",
        };
        let _ = emit(out, &Record::Node(node));
    }
}
