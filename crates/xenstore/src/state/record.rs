//! The records, as plain data.
//!
//! All fields are public and have been checked for form alone: that a number of a connection is one that exists, or a path
//! well-formed, is for the reader of the records to find out.

use cantle_abi::{DomId, Port};

use super::own::Own;
use crate::Access;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// `END`: there are no more.
    End,
    /// `GLOBAL_DATA`.
    Global(GlobalData),
    /// `CONNECTION_DATA`.
    Connection(ConnectionData<'a>),
    /// `WATCH_DATA`, or `WATCH_DATA_EXTENDED` where there is a depth.
    Watch(WatchData<'a>),
    /// `TRANSACTION_DATA`.
    Transaction(TransactionData),
    /// `NODE_DATA`.
    Node(NodeData<'a>),
    /// `GLOBAL_QUOTA_DATA`.
    GlobalQuota(GlobalQuotaData<'a>),
    /// `DOMAIN_DATA`.
    Domain(DomainData<'a>),
    /// One of our own.
    Own(Own<'a>),
    /// A type that neither the document nor we have; to be skipped by those who do not know it.
    Other {
        /// The type.
        kind: u32,
        /// The body; up to 7 bytes at its end may be padding.
        body: &'a [u8],
    },
}

/// What a live update hands over that belongs to no connection: descriptors, which survive `exec`.
///
/// Body: two `i32`, the socket's descriptor and the event channel device's; -1 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GlobalData {
    /// The socket on which connections are accepted.
    pub socket_fd: Option<i32>,
    /// The event channel device.
    pub evtchn_fd: Option<i32>,
}

/// How a connection's bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conn {
    /// A domain's shared page.
    Ring {
        /// The domain.
        domid: DomId,
        /// The domain on whose behalf it may act (`SET_TARGET`).
        target: Option<DomId>,
        /// The port that the daemon was introduced with.
        port: Port,
    },
    /// A socket, by its descriptor, which survives `exec`.
    Socket {
        /// The descriptor.
        fd: i32,
    },
}

/// A connection, and the bytes that are on their way.
///
/// Body: number (`u32`), type (`u16`), flags (`u16`); for a ring domain, target and port (`u16`, `u16`, `u32`), for a socket its
/// descriptor and padding (`i32`, `u32`); lengths of the input (`u16`), of the rest of a response that has begun to be sent
/// (`u16`) and of the output (`u32`); input, output; where the flags' bit 0 is set, padding to 8 and a `u64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionData<'a> {
    /// By which other records name the connection; not 0.
    pub conn_id: u32,
    /// How its bytes travel.
    pub conn: Conn,
    /// Received and not handled; at most 65,535 bytes.
    pub input: &'a [u8],
    /// To be sent.
    pub output: &'a [u8],
    /// So many bytes of the output are the rest of a message whose beginning has been sent.
    pub begun: u16,
    /// Which domain of that number it was.
    pub unique_id: Option<u64>,
}

/// A watch.
///
/// Body: the connection's number (`u32`), lengths of path and token with their NULs (`u16` each), in an extended record the depth and
/// padding (`u16` each), path, token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchData<'a> {
    /// Whose it is.
    pub conn_id: u32,
    /// The path as it was given: relative, absolute or special; without its NUL.
    pub path: &'a [u8],
    /// The token, without its NUL.
    pub token: &'a [u8],
    /// How many levels below the path it sees; `None` for all. `0xffff` is no depth: it is written as none.
    pub depth: Option<u16>,
}

/// An open transaction.
///
/// Body: the connection's number and the transaction's (`u32` each).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionData {
    /// Whose it is.
    pub conn_id: u32,
    /// Its number, not 0.
    pub tx_id: u32,
}

/// A node: as everybody sees it, or as a transaction does.
///
/// Body: the connection's number, or 0 where the node is committed, and the transaction's (`u32` each); lengths of the path with its NUL
/// and of the value, access, number of permissions (`u16` each); the permissions (a letter, flags, and the domain as `u16`);
/// path, value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeData<'a> {
    /// The transaction that has read or written it; `None` where the node is as everybody sees it.
    pub pending: Option<Pending>,
    /// The first is the owner's, with what all others may do. None where a transaction has removed the node or found none.
    pub perms: Vec<NodePerm>,
    /// The absolute path or special name, without its NUL.
    pub path: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

/// What a transaction has to do with a node. Where it has neither read nor written it, it has removed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The connection, not 0.
    pub conn_id: u32,
    /// The transaction.
    pub tx_id: u32,
    /// It has read the node.
    pub read: bool,
    /// It has written the node, or made it.
    pub written: bool,
}

/// One entry of a node's permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodePerm {
    /// What may be done.
    pub access: Access,
    /// The domain is gone, and its successor shall not inherit this.
    pub stale: bool,
    /// Who may do it.
    pub domid: DomId,
}

/// A quota by its name. 0 means none.
pub type Quota<'a> = (&'a [u8], u32);

/// The quotas of the whole store.
///
/// Body: how many there are of either kind (`u16` each), the values (`u32`), the names with their NULs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalQuotaData<'a> {
    /// What a domain gets that has none of its own.
    pub domain: Vec<Quota<'a>>,
    /// What holds for all together.
    pub global: Vec<Quota<'a>>,
}

/// A domain that the store knows.
///
/// Body: domain and number of quotas (`u16` each), features (`u32`), values (`u32`), names with their NULs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainData<'a> {
    /// The domain.
    pub domid: DomId,
    /// The features that its ring's page announces; 0 in a stream of version 1.
    pub features: u32,
    /// Its own quotas.
    pub quotas: Vec<Quota<'a>>,
}
