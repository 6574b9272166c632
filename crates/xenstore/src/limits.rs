//! What an unprivileged domain may use: the quotas by name, and a domain's values for them.

use cantle_abi::Errno;

/// Something of which a domain may only have so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quota {
    /// Nodes that it owns.
    Nodes,
    /// Bytes of a node: its value, and four for each permission.
    NodeSize,
    /// Permissions of a node.
    Permissions,
    /// Names on the way to a node or a watched path.
    PathDepth,
    /// Watches.
    Watches,
    /// Open transactions.
    Transactions,
    /// Requests in one transaction.
    TransactionNodes,
    /// Replies and events that a connection has not read.
    Outstanding,
    /// Bytes of everything that the server keeps for the domain.
    Memory,
}

impl Quota {
    /// How many there are.
    pub const COUNT: usize = 9;

    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Nodes,
        Self::NodeSize,
        Self::Permissions,
        Self::PathDepth,
        Self::Watches,
        Self::Transactions,
        Self::TransactionNodes,
        Self::Outstanding,
        Self::Memory,
    ];

    /// The name by which `XS_GET_QUOTA` knows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::NodeSize => "node-size",
            Self::Permissions => "permissions",
            Self::PathDepth => "path-depth",
            Self::Watches => "watches",
            Self::Transactions => "transactions",
            Self::TransactionNodes => "transaction-nodes",
            Self::Outstanding => "outstanding",
            Self::Memory => "memory",
        }
    }

    /// The quota of a name. Xen's daemon says `node-permissions` for what its document calls `permissions`; both are known.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "node-permissions" => Some(Self::Permissions),
            _ => Self::ALL.into_iter().find(|quota| quota.name() == name),
        }
    }

    /// What it limits, in words for an operator.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::Nodes => "nodes owned",
            Self::NodeSize => "bytes of a node's value and permissions",
            Self::Permissions => "permissions of a node",
            Self::PathDepth => "names in a path",
            Self::Watches => "watches",
            Self::Transactions => "open transactions",
            Self::TransactionNodes => "requests in a transaction",
            Self::Outstanding => "unread replies and events of a connection",
            Self::Memory => "bytes kept in all",
        }
    }

    /// What a request is answered that it refuses. (It refuses none for [`Outstanding`](Self::Outstanding): those wait.)
    #[must_use]
    pub const fn errno(self) -> Errno {
        match self {
            Self::Watches => Errno::E2BIG,
            Self::Memory => Errno::ENOMEM,
            _ => Errno::ENOSPC,
        }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// The name of the one soft quota there is: beyond it there is a warning, and nothing else.
pub(crate) const SOFT_MEMORY: &str = "soft-memory";

/// A domain's quotas, and two bounds of every connection, privileged or not.
///
/// 0 is no limit, but for the last two. A domain at its quota gets the protocol's error (see [`Quota::errno`]); nobody
/// else notices. What it used is given back when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// [`Quota::Nodes`].
    pub nodes: u32,
    /// [`Quota::NodeSize`].
    pub node_bytes: u32,
    /// [`Quota::Permissions`].
    pub perms_per_node: u32,
    /// [`Quota::PathDepth`].
    pub path_depth: u32,
    /// [`Quota::Watches`].
    pub watches: u32,
    /// [`Quota::Transactions`].
    pub transactions: u32,
    /// [`Quota::TransactionNodes`].
    pub transaction_requests: u32,
    /// [`Quota::Outstanding`].
    pub outstanding: u32,
    /// [`Quota::Memory`].
    pub memory: u32,
    /// Where the use of [`Quota::Memory`] is worth a warning.
    pub soft_memory: u32,
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
        node_bytes: 2048,
        perms_per_node: 5,
        path_depth: 64,
        watches: 128,
        transactions: 10,
        transaction_requests: 1024,
        outstanding: 20,
        memory: 5 << 19,
        soft_memory: 2 << 20,
        reply_bytes: 16 * 1024,
        event_bytes: 64 * 1024,
    };

    /// A quota's value.
    #[must_use]
    pub const fn of(&self, quota: Quota) -> u32 {
        match quota {
            Quota::Nodes => self.nodes,
            Quota::NodeSize => self.node_bytes,
            Quota::Permissions => self.perms_per_node,
            Quota::PathDepth => self.path_depth,
            Quota::Watches => self.watches,
            Quota::Transactions => self.transactions,
            Quota::TransactionNodes => self.transaction_requests,
            Quota::Outstanding => self.outstanding,
            Quota::Memory => self.memory,
        }
    }

    /// A value by its name in `XS_SET_QUOTA`: a quota's, or `soft-memory`.
    pub fn named_mut(&mut self, name: &str) -> Option<&mut u32> {
        if name == SOFT_MEMORY {
            return Some(&mut self.soft_memory);
        }
        Some(match Quota::from_name(name)? {
            Quota::Nodes => &mut self.nodes,
            Quota::NodeSize => &mut self.node_bytes,
            Quota::Permissions => &mut self.perms_per_node,
            Quota::PathDepth => &mut self.path_depth,
            Quota::Watches => &mut self.watches,
            Quota::Transactions => &mut self.transactions,
            Quota::TransactionNodes => &mut self.transaction_requests,
            Quota::Outstanding => &mut self.outstanding,
            Quota::Memory => &mut self.memory,
        })
    }

    /// A value by its name.
    #[must_use]
    pub fn named_value(&self, name: &str) -> Option<u32> {
        if name == SOFT_MEMORY {
            return Some(self.soft_memory);
        }
        Quota::from_name(name).map(|quota| self.of(quota))
    }

    /// All values that have names.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u32)> {
        Quota::ALL
            .into_iter()
            .map(|quota| (quota.name(), self.of(quota)))
            .chain(core::iter::once((SOFT_MEMORY, self.soft_memory)))
    }

    /// Whether so much is within a quota.
    pub(crate) fn allows(&self, quota: Quota, value: u64) -> bool {
        let limit = self.of(quota);
        limit == 0 || value <= u64::from(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_name_and_its_place() {
        for (index, quota) in Quota::ALL.into_iter().enumerate() {
            assert_eq!(quota.index(), index);
            assert_eq!(Quota::from_name(quota.name()), Some(quota));
        }
        let mut limits = Limits::DEFAULT;
        let names: Vec<_> = limits.named().map(|(name, _)| name).collect();
        for (name, value) in names.iter().zip(1..) {
            *limits.named_mut(name).unwrap() = value;
            assert_eq!(limits.named_value(name), Some(value));
        }
        let values: Vec<_> = limits.named().map(|(_, value)| value).collect();
        assert_eq!(values, (1..=10).collect::<Vec<u32>>());
        assert_eq!(limits.named_mut("nonsense"), None);
        assert!(limits.named_mut("node-permissions").is_some());
    }

    #[test]
    fn nought_is_no_limit() {
        let limits = Limits {
            nodes: 0,
            watches: 1,
            ..Limits::DEFAULT
        };
        assert!(limits.allows(Quota::Nodes, u64::MAX));
        assert!(limits.allows(Quota::Watches, 1));
        assert!(!limits.allows(Quota::Watches, 2));
    }
}
