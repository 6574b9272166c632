//! Records of our own, for what the document has no room for.
//!
//! The document reserves their types (`0x43410001` and up, "CA" in ASCII) and xenstored skips what it does not know, so a stream with
//! them is one for everybody. Without them a stream is complete by the document: what is lost is said at each. Two of
//! them, [`Own::Unwatch`] and what follows it, are for the [`journal`](crate::journal) alone, where things go away as well.
//!
//! Numbers have the stream's byte order. Each body ends with zeroes up to a multiple of 8.

use cantle_abi::{DomId, Gfn, Port};

use super::cursor::{Cursor, ParseError};
use super::emit::{EmitError, node, perms, put_len, put_string, put16, put32};
use super::parse;
use super::record::{NodeData, NodePerm};

/// In [`ConnectionState::events`]: the event stands for all that there was no room for.
pub const CONDENSED: u32 = 0x8000_0000;

const SERVER: u32 = 0x4341_0001;
const GENERATIONS: u32 = 0x4341_0002;
const DOMAIN: u32 = 0x4341_0003;
const CONNECTION: u32 = 0x4341_0004;
const TRANSACTION: u32 = 0x4341_0005;
const UNWATCH: u32 = 0x4341_0010;
const NO_WATCHES: u32 = 0x4341_0011;
const DOMAIN_GONE: u32 = 0x4341_0012;

/// A record of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Own<'a> {
    /// What belongs to the server as a whole.
    Server(ServerState),
    /// The generations of the committed nodes (as `DIRECTORY_PART` shows them), in the order in which the stream has the nodes. Without
    /// it, all are new, and who is in the middle of a long directory begins again.
    Generations(Vec<u64>),
    /// What a server knows of a domain beside its quotas.
    Domain(DomainState),
    /// What a server knows of a connection beside what is on its way.
    Connection(ConnectionState<'a>),
    /// An open transaction, exactly.
    Transaction(TransactionState<'a>),
    /// In a journal: a watch is no more.
    Unwatch {
        /// Whose it was.
        conn_id: u32,
        /// The path as it was given.
        path: &'a [u8],
        /// The token.
        token: &'a [u8],
    },
    /// In a journal: a connection's watches are no more.
    NoWatches {
        /// The connection.
        conn_id: u32,
    },
    /// In a journal: nothing is known of a domain any more. What that means for nodes is told by themselves.
    DomainGone {
        /// The domain.
        domid: DomId,
    },
}

/// What belongs to the server as a whole.
///
/// Body: generation, next connection (`u64` each), number of domains (`u32`), the domains (`u16` each).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// The generation of the newest change.
    pub generation: u64,
    /// The number that the next connection gets.
    pub next_conn: u64,
    /// The domains that are privileged beside domain 0.
    pub privileged: Vec<DomId>,
}

/// What a server knows of a domain beside its quotas. Without it, the domains that have a ring are introduced, and no others.
///
/// Body: domain, target (`0x7ff4` for none), flags (`u16` each; bit 0: introduced, bit 1: the ring is
/// known, bit 2: it has shut down, bit 3: its quotas were set), padding; the
/// ring's frame (`u64`) and port (`u32`), 0 where they are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainState {
    /// The domain.
    pub domid: DomId,
    /// It has been introduced.
    pub introduced: bool,
    /// It is known to have shut down.
    pub shutdown: bool,
    /// Its quotas are its own, and stay until it is gone.
    pub quotas: bool,
    /// The domain whose rights it has beside its own.
    pub target: Option<DomId>,
    /// Where its ring is, if it was introduced with one.
    pub ring: Option<(Gfn, Port)>,
}

/// What a server knows of a connection beside what is on its way.
///
/// Without it, domain 0 and sockets are privileged, transactions are numbered from 1 on, and events that wait are sent even
/// where their watch is removed before.
///
/// Body: number in this stream (`u32`), number of the next transaction (`u32`), number in the server (`u64`), flags (`u16`; bit 0:
/// privileged), padding (`u16`), number of messages in the output (`u32`, without the rest of one that has begun), a `u32` for each;
/// length of more input (`u32`), the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionState<'a> {
    /// Its number in this stream.
    pub conn_id: u32,
    /// Its number in the server, which keeps it.
    pub id: u64,
    /// The number that its next transaction gets.
    pub next_tx: u32,
    /// Permissions and quotas do not bind it.
    pub privileged: bool,
    /// For each message that waits: 0, or for an event that goes when its watch goes, that watch's place among the connection's
    /// watches in the stream, from 1 on, and [`CONDENSED`] where it stands for several.
    pub events: Vec<u32>,
    /// Input beyond what `CONNECTION_DATA` has room for.
    pub input: &'a [u8],
}

/// An open transaction, exactly: the tree that it began with, as far as that is not the committed one, and what it has asked
/// since. The nodes that the document wants are in the stream as well; with this record, they are not looked at.
///
/// Body: connection, transaction, flags (bit 0: it can never commit), how many nodes and how many steps (`u32` each); the nodes as bodies of
/// `NODE_DATA`; the steps: what (`u8`), padding (`u8`), error (`u16`), lengths of path with NUL and value, number of permissions, padding
/// (`u16` each), permissions, path, value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionState<'a> {
    /// Whose it is.
    pub conn_id: u32,
    /// Its number.
    pub tx_id: u32,
    /// It can never commit.
    pub doomed: bool,
    /// Nodes that were not as the committed ones are when it began; those without permissions were not there, nor was
    /// anything below them.
    pub base: Vec<NodeData<'a>>,
    /// What it has asked, in order.
    pub log: Vec<Step<'a>>,
}

/// One request in a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// What was asked.
    pub op: Op,
    /// The number of the error that it was answered with; 0 for none.
    pub errno: u16,
    /// The permissions that were to be set.
    pub perms: Vec<NodePerm>,
    /// The absolute path.
    pub path: &'a [u8],
    /// The value that was to be written.
    pub value: &'a [u8],
}

/// What a [`Step`] asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// The value.
    Value = 1,
    /// The names of the children.
    Children = 2,
    /// The permissions.
    Perms = 3,
    /// To write a value.
    Write = 4,
    /// To make a node.
    Mkdir = 5,
    /// To remove a node.
    Rm = 6,
    /// To set permissions.
    SetPerms = 7,
}

impl Op {
    const ALL: [Self; 7] = [
        Self::Value,
        Self::Children,
        Self::Perms,
        Self::Write,
        Self::Mkdir,
        Self::Rm,
        Self::SetPerms,
    ];
}

/// Whether a record's type is one of ours.
pub(super) fn is_ours(kind: u32) -> bool {
    matches!(kind, SERVER..=TRANSACTION | UNWATCH..=DOMAIN_GONE)
}

impl<'a> Own<'a> {
    pub(super) fn kind(&self) -> u32 {
        match self {
            Self::Server(_) => SERVER,
            Self::Generations(_) => GENERATIONS,
            Self::Domain(_) => DOMAIN,
            Self::Connection(_) => CONNECTION,
            Self::Transaction(_) => TRANSACTION,
            Self::Unwatch { .. } => UNWATCH,
            Self::NoWatches { .. } => NO_WATCHES,
            Self::DomainGone { .. } => DOMAIN_GONE,
        }
    }

    pub(super) fn parse(kind: u32, body: &mut Cursor<'a>) -> Result<Self, ParseError> {
        Ok(match kind {
            SERVER => Self::Server(ServerState {
                generation: body.u64("generation")?,
                next_conn: body.u64("next-conn")?,
                privileged: list(body, 2, |body| body.u16("domid").map(DomId))?,
            }),
            GENERATIONS => {
                let mut generations = Vec::with_capacity(body.rest().len() / 8);
                while !body.rest().is_empty() {
                    generations.push(body.u64("generation")?);
                }
                Self::Generations(generations)
            }
            DOMAIN => Self::Domain(domain(body)?),
            CONNECTION => Self::Connection(connection(body)?),
            TRANSACTION => Self::Transaction(transaction(body)?),
            UNWATCH => {
                let conn_id = parse::conn_id(body)?;
                let path = usize::from(body.u16("wpath-len")?);
                let token = usize::from(body.u16("token-len")?);
                Self::Unwatch {
                    conn_id,
                    path: body.string(path, "wpath")?,
                    token: body.string(token, "token")?,
                }
            }
            NO_WATCHES => Self::NoWatches {
                conn_id: parse::conn_id(body)?,
            },
            DOMAIN_GONE => Self::DomainGone {
                domid: DomId(body.u16("domid")?),
            },
            _ => return Err(body.bad("type", kind)),
        })
    }

    pub(super) fn emit(&self, out: &mut Vec<u8>) -> Result<(), EmitError> {
        match self {
            Self::Server(state) => {
                put64(out, state.generation);
                put64(out, state.next_conn);
                put_count(out, state.privileged.len())?;
                state
                    .privileged
                    .iter()
                    .for_each(|domid| put16(out, domid.0));
            }
            Self::Generations(generations) => generations.iter().for_each(|one| put64(out, *one)),
            Self::Domain(state) => emit_domain(out, state),
            Self::Connection(state) => emit_connection(out, state)?,
            Self::Transaction(state) => emit_transaction(out, state)?,
            Self::Unwatch {
                conn_id,
                path,
                token,
            } => {
                put32(out, *conn_id);
                put_len(out, path.len() + 1, "wpath-len")?;
                put_len(out, token.len() + 1, "token-len")?;
                put_string(out, path, "wpath")?;
                put_string(out, token, "token")?;
            }
            Self::NoWatches { conn_id } => put32(out, *conn_id),
            Self::DomainGone { domid } => put16(out, domid.0),
        }
        Ok(())
    }
}

fn put64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) -> Result<(), EmitError> {
    put32(
        out,
        u32::try_from(count).map_err(|_| EmitError::TooLong("count"))?,
    );
    Ok(())
}

/// A count and so many items of at least `size` bytes: no more is allocated than there are bytes for.
fn list<'a, T>(
    body: &mut Cursor<'a>,
    size: usize,
    item: impl FnMut(&mut Cursor<'a>) -> Result<T, ParseError>,
) -> Result<Vec<T>, ParseError> {
    let count = body.len("count")?;
    items(body, count, size, item)
}

fn items<'a, T>(
    body: &mut Cursor<'a>,
    count: usize,
    size: usize,
    mut item: impl FnMut(&mut Cursor<'a>) -> Result<T, ParseError>,
) -> Result<Vec<T>, ParseError> {
    let mut items = Vec::with_capacity(count.min(body.rest().len() / size));
    for _ in 0..count {
        items.push(item(body)?);
    }
    Ok(items)
}

fn domain(body: &mut Cursor<'_>) -> Result<DomainState, ParseError> {
    let domid = DomId(body.u16("domid")?);
    let target = DomId(body.u16("target")?);
    let flags = body.u16("flags")?;
    if flags > 15 {
        return Err(body.bad("flags", flags));
    }
    body.u16("pad")?;
    let ring = (Gfn(body.u64("gfn")?), Port(body.u32("port")?));
    Ok(DomainState {
        domid,
        introduced: flags & 1 != 0,
        shutdown: flags & 4 != 0,
        quotas: flags & 8 != 0,
        target: (target != DomId::INVALID).then_some(target),
        ring: (flags & 2 != 0).then_some(ring),
    })
}

fn emit_domain(out: &mut Vec<u8>, state: &DomainState) {
    put16(out, state.domid.0);
    put16(out, state.target.unwrap_or(DomId::INVALID).0);
    put16(
        out,
        u16::from(state.introduced)
            | u16::from(state.ring.is_some()) << 1
            | u16::from(state.shutdown) << 2
            | u16::from(state.quotas) << 3,
    );
    put16(out, 0);
    let (gfn, port) = state.ring.unwrap_or((Gfn(0), Port(0)));
    put64(out, gfn.0);
    put32(out, port.0);
}

fn connection<'a>(body: &mut Cursor<'a>) -> Result<ConnectionState<'a>, ParseError> {
    let conn_id = parse::conn_id(body)?;
    let next_tx = body.u32("next-tx")?;
    let id = body.u64("id")?;
    let flags = body.u16("flags")?;
    if flags > 1 {
        return Err(body.bad("flags", flags));
    }
    body.u16("pad")?;
    Ok(ConnectionState {
        conn_id,
        id,
        next_tx,
        privileged: flags == 1,
        events: list(body, 4, |body| body.u32("event"))?,
        input: {
            let len = body.len("more-input-len")?;
            body.take(len, "more-input")?
        },
    })
}

fn emit_connection(out: &mut Vec<u8>, state: &ConnectionState<'_>) -> Result<(), EmitError> {
    put32(out, state.conn_id);
    put32(out, state.next_tx);
    put64(out, state.id);
    put16(out, u16::from(state.privileged));
    put16(out, 0);
    put_count(out, state.events.len())?;
    state.events.iter().for_each(|event| put32(out, *event));
    put_count(out, state.input.len())?;
    out.extend_from_slice(state.input);
    Ok(())
}

fn transaction<'a>(body: &mut Cursor<'a>) -> Result<TransactionState<'a>, ParseError> {
    let conn_id = parse::conn_id(body)?;
    let tx_id = body.u32("tx-id")?;
    let flags = body.u32("flags")?;
    if flags > 1 {
        return Err(body.bad("flags", flags));
    }
    let nodes = body.len("count")?;
    let steps = body.len("count")?;
    Ok(TransactionState {
        conn_id,
        tx_id,
        doomed: flags == 1,
        base: items(body, nodes, 16, parse::node)?,
        log: items(body, steps, 12, step)?,
    })
}

fn step<'a>(body: &mut Cursor<'a>) -> Result<Step<'a>, ParseError> {
    let op = body.u8("op")?;
    let op = Op::ALL
        .into_iter()
        .find(|known| *known as u8 == op)
        .ok_or_else(|| body.bad("op", op))?;
    body.u8("pad")?;
    let errno = body.u16("errno")?;
    let path = usize::from(body.u16("path-len")?);
    let value = usize::from(body.u16("value-len")?);
    let count = usize::from(body.u16("perm-count")?);
    body.u16("pad")?;
    Ok(Step {
        op,
        errno,
        perms: items(body, count, 4, parse::perm)?,
        path: body.string(path, "path")?,
        value: body.take(value, "value")?,
    })
}

fn emit_transaction(out: &mut Vec<u8>, state: &TransactionState<'_>) -> Result<(), EmitError> {
    put32(out, state.conn_id);
    put32(out, state.tx_id);
    put32(out, u32::from(state.doomed));
    put_count(out, state.base.len())?;
    put_count(out, state.log.len())?;
    for data in &state.base {
        node(out, data)?;
    }
    for step in &state.log {
        out.extend_from_slice(&[step.op as u8, 0]);
        put16(out, step.errno);
        put_len(out, step.path.len() + 1, "path-len")?;
        put_len(out, step.value.len(), "value-len")?;
        put_len(out, step.perms.len(), "perm-count")?;
        put16(out, 0);
        perms(out, &step.perms);
        put_string(out, step.path, "path")?;
        out.extend_from_slice(step.value);
    }
    Ok(())
}
