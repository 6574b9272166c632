//! What an unprivileged domain may use.

/// Quotas of one domain, and bounds of one connection. Privileged domains are bound only by the last two.
///
/// A domain at its quota gets the protocol's error; nobody else notices. What it used is given back when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nodes that it owns (`ENOSPC`).
    pub nodes: u32,
    /// Bytes of memory that its nodes take: names, values, permissions and what a node costs beside (`ENOSPC`).
    pub memory: usize,
    /// Bytes of a node: its value, and four for each permission (`ENOSPC`).
    pub node_bytes: usize,
    /// Permissions of a node (`ENOSPC`).
    pub perms_per_node: usize,
    /// Names on the way to a node or a watched path (`ENOSPC`).
    pub path_depth: usize,
    /// Watches (`E2BIG`).
    pub watches: u32,
    /// Open transactions (`ENOSPC`).
    pub transactions: u32,
    /// Requests in one transaction (`ENOSPC`).
    pub transaction_requests: usize,
    /// Bytes of paths and values in one transaction (`ENOSPC`).
    pub transaction_bytes: usize,
    /// Bytes of replies that a connection leaves unread before no further request of it is taken.
    pub reply_bytes: usize,
    /// Bytes of watch events that a connection leaves unread before they are condensed: from then on, each watch has at
    /// most one more event waiting, with the watched path itself.
    pub event_bytes: usize,
}

impl Limits {
    /// Xen's defaults, where Xen has such a quota.
    pub const DEFAULT: Self = Self {
        nodes: 1000,
        memory: 2560 * 1024,
        node_bytes: 2048,
        perms_per_node: 5,
        path_depth: 64,
        watches: 128,
        transactions: 10,
        transaction_requests: 1024,
        transaction_bytes: 256 * 1024,
        reply_bytes: 16 * 1024,
        event_bytes: 64 * 1024,
    };
}
