//! The store: a tree of nodes, who may do what in it, and whose quota pays.
//!
//! The tree is immutable where it is shared, so a transaction's snapshot is one pointer. All changes go through
//! [`View::edit`], which checks everything before it touches anything: an edit that fails has changed nothing.

mod children;
mod death;
mod edit;
mod node;
mod transaction;

use std::collections::HashMap;
use std::sync::Arc;

use cantle_abi::{DomId, Errno};

pub(crate) use children::{Children, Cursor};
pub(crate) use edit::{Change, Edit, View};
pub(crate) use node::{Found, Node, Tree, nodes, walk};
pub(crate) use transaction::{Query, Transaction};

use crate::limits::Limits;
use crate::{Access, Perms};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Actor {
    pub(crate) domid: DomId,
    /// Permissions and quotas do not bind it.
    pub(crate) privileged: bool,
}

impl Actor {
    pub(crate) fn may_read(self, perms: &Perms) -> bool {
        self.privileged || perms.access_of(self.domid).may_read()
    }

    pub(crate) fn may_write(self, perms: &Perms) -> bool {
        self.privileged || perms.access_of(self.domid).may_write()
    }

    pub(crate) fn owns(self, perms: &Perms) -> bool {
        self.privileged || perms.owner == self.domid
    }

    /// The node, which the actor may read.
    ///
    /// Whether a missing node is missing is told only to those who may read its nearest ancestor.
    pub(crate) fn lookup<'t>(self, tree: &'t Tree, path: &str) -> Result<&'t Arc<Node>, Errno> {
        match tree.find(path) {
            Found::Node(node) if self.may_read(&node.perms) => Ok(node),
            Found::Missing { nearest, .. } if self.may_read(&nearest.perms) => Err(Errno::ENOENT),
            _ => Err(Errno::EACCES),
        }
    }
}

/// How many nodes each domain gained or lost.
pub(crate) type Delta = HashMap<DomId, i64>;

/// The tree as it is now, and how many nodes each domain owns in it.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) tree: Tree,
    owned: HashMap<DomId, i64>,
    generation: u64,
}

impl Store {
    /// A store with the directories that every store has.
    pub(crate) fn new() -> Self {
        let perms = Arc::new(Perms::new(DomId::DOM0, Access::None));
        let mut store = Self {
            tree: Tree::new(Arc::new(Node::new("", Arc::clone(&perms), 0))),
            owned: HashMap::new(),
            generation: 0,
        };
        for path in ["/tool/xenstored", "/local/domain"] {
            store.tree.create(path, &perms, 0);
        }
        let made = nodes(store.tree.root()).count();
        store
            .owned
            .insert(DomId::DOM0, i64::try_from(made).unwrap_or(i64::MAX));
        store
    }

    /// Applies one edit, alone.
    pub(crate) fn edit(
        &mut self,
        actor: Actor,
        path: &str,
        edit: &Edit,
        limits: &Limits,
    ) -> Result<Option<Change>, Errno> {
        let mut delta = Delta::new();
        let change = View {
            tree: &mut self.tree,
            owned: &self.owned,
            delta: &mut delta,
            generation: &mut self.generation,
            limits,
        }
        .edit(actor, path, edit)?;
        self.settle(&delta);
        Ok(change)
    }

    /// Begins a transaction: a snapshot, in constant time.
    pub(crate) fn begin(&self) -> Transaction {
        Transaction::new(self.tree.clone())
    }

    /// Applies an edit within a transaction.
    pub(crate) fn edit_in(
        &mut self,
        tx: &mut Transaction,
        actor: Actor,
        path: &str,
        edit: Edit,
        limits: &Limits,
    ) -> Result<(), Errno> {
        tx.edit(&self.owned, &mut self.generation, actor, path, edit, limits)
    }

    /// Commits a transaction; the changes it made, in order.
    pub(crate) fn commit(
        &mut self,
        tx: Transaction,
        actor: Actor,
        limits: &Limits,
    ) -> Result<Vec<Change>, Errno> {
        let tx = match tx.unopposed(&self.tree) {
            Ok((tree, delta, changes)) => {
                self.tree = tree;
                self.settle(&delta);
                return Ok(changes);
            }
            Err(tx) => tx,
        };
        let mut tree = self.tree.clone();
        let mut delta = Delta::new();
        let mut view = View {
            tree: &mut tree,
            owned: &self.owned,
            delta: &mut delta,
            generation: &mut self.generation,
            limits,
        };
        let changes = tx.replay(&mut view, actor)?;
        self.tree = tree;
        self.settle(&delta);
        Ok(changes)
    }

    /// A domain is no more: nothing in the store speaks of it any longer, so that the next domain of its number
    /// inherits nothing. See [`death::scrub`].
    pub(crate) fn forget(&mut self, dead: DomId) -> Vec<Change> {
        self.generation += 1;
        let mut delta = Delta::new();
        let changes = death::scrub(&mut self.tree, dead, self.generation, &mut delta);
        self.settle(&delta);
        self.owned.remove(&dead);
        changes
    }

    /// How many nodes a domain owns.
    pub(crate) fn owned_by(&self, domain: DomId) -> i64 {
        self.owned.get(&domain).copied().unwrap_or(0)
    }

    /// How many nodes each owner has and what names, values and permissions are kept in them, in bytes; by a walk.
    pub(crate) fn held(&self) -> Vec<(DomId, u64, u64)> {
        let mut held: HashMap<DomId, (u64, u64)> = HashMap::new();
        for node in nodes(self.tree.root()) {
            let bytes = node.name.len() + node.value.len() + 4 * (1 + node.perms.listed.len());
            let (nodes, sum) = held.entry(node.perms.owner).or_default();
            *nodes += 1;
            *sum += bytes as u64;
        }
        held.into_iter()
            .map(|(domid, (nodes, bytes))| (domid, nodes, bytes))
            .collect()
    }

    /// Compares the accounts with the tree; the domains for which they differ.
    pub(crate) fn audit(&self) -> Vec<DomId> {
        let mut counted = Delta::new();
        for node in nodes(self.tree.root()) {
            *counted.entry(node.perms.owner).or_default() += 1;
        }
        let mut wrong: Vec<DomId> = counted
            .keys()
            .chain(self.owned.keys())
            .copied()
            .filter(|domain| counted.get(domain).copied().unwrap_or(0) != self.owned_by(*domain))
            .collect();
        wrong.sort_unstable();
        wrong.dedup();
        wrong
    }

    fn settle(&mut self, delta: &Delta) {
        for (domain, change) in delta {
            let owned = self.owned.entry(*domain).or_default();
            *owned += change;
            if *owned == 0 {
                self.owned.remove(domain);
            }
        }
    }
}
