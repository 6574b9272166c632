//! The store: a tree of nodes, who may do what in it, and whose quota pays.
//!
//! The tree is immutable where it is shared, so a transaction's snapshot is one pointer. All changes go through
//! [`View::edit`], which checks everything before it touches anything: an edit that fails has changed nothing.

mod account;
mod build;
mod clone;
mod death;
mod diff;
mod dir;
mod edit;
mod mentions;
mod node;
mod perms_table;
mod reopen;
mod transaction;

use std::sync::Arc;

use cantle_abi::{DomId, Errno};

pub(crate) use account::{Accounts, Usage};
pub(crate) use build::{Builder, Misplaced};
pub(crate) use clone::Captures;
pub use clone::Subtree;
pub(crate) use diff::{Difference, differences};
pub(crate) use dir::Children;
pub(crate) use edit::{Change, Edit, View};
pub(crate) use node::{Found, Kept, Node, NodeRef, Tree, descend, nodes};
pub(crate) use reopen::{Asked, Told};
pub(crate) use transaction::{Query, Transaction};

use crate::quota::Allowance;
use crate::{Access, Perms};
use perms_table::PermsTable;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Actor {
    pub(crate) domid: DomId,
    /// Permissions and quotas do not bind it.
    pub(crate) privileged: bool,
    /// The domain that it works for, as a stub domain does: it has that one's rights beside its own.
    pub(crate) target: Option<DomId>,
}

impl Actor {
    pub(crate) fn may_read(self, perms: &Perms) -> bool {
        self.privileged || self.access(perms).may_read()
    }

    pub(crate) fn may_write(self, perms: &Perms) -> bool {
        self.privileged || self.access(perms).may_write()
    }

    pub(crate) fn owns(self, perms: &Perms) -> bool {
        self.privileged || self.is(perms.owner)
    }

    fn access(self, perms: &Perms) -> Access {
        perms.access_where(|domain| self.is(domain))
    }

    fn is(self, domain: DomId) -> bool {
        domain == self.domid || Some(domain) == self.target
    }

    /// The node, which the actor may read.
    ///
    /// Whether a missing node is missing is told only to those who may read its nearest ancestor.
    pub(crate) fn lookup<'t>(self, tree: &'t Tree, path: &str) -> Result<NodeRef<'t>, Errno> {
        match tree.find(path) {
            Found::Node(node) if self.may_read(node.perms()) => Ok(node),
            Found::Missing { nearest, .. } if self.may_read(nearest.perms()) => Err(Errno::ENOENT),
            _ => Err(Errno::EACCES),
        }
    }
}

/// The tree as it is now, and what each domain's nodes in it cost.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) tree: Tree,
    book: Book,
    captures: Captures,
}

/// What is kept beside the tree, and what is counted.
#[derive(Debug, Default)]
pub(crate) struct Book {
    accounts: Accounts,
    /// Of the newest change, also one in a transaction.
    generation: u64,
    perms: PermsTable,
    /// Where the last commit failed, until somebody asks.
    conflict: Option<Box<str>>,
}

impl Store {
    /// A store with the directories that every store has.
    pub(crate) fn new() -> Self {
        let perms = Arc::new(Perms::new(DomId::DOM0, Access::None));
        let mut store = Self {
            tree: Tree::new(Node::new(Arc::clone(&perms), 0)),
            book: Book::default(),
            captures: Captures::default(),
        };
        for path in ["/tool/xenstored", "/local/domain"] {
            store.tree.create(path, &perms, 0);
        }
        store.book.accounts = store.tree.accounts();
        store
    }

    /// Applies one edit, alone.
    pub(crate) fn edit(
        &mut self,
        actor: Actor,
        path: &str,
        edit: &Edit,
        allowance: &Allowance<'_>,
    ) -> Result<Option<Change>, Errno> {
        let mut delta = Accounts::default();
        let change = View {
            tree: &mut self.tree,
            book: &mut self.book,
            delta: &mut delta,
            allowance,
        }
        .edit(actor, path, edit)?;
        self.book.accounts.add_all(&delta);
        Ok(change)
    }

    /// Begins a transaction: a snapshot, in constant time.
    pub(crate) fn begin(&self) -> Transaction {
        Transaction::new(self.tree.clone())
    }

    /// Reads within a transaction.
    pub(crate) fn query_in(
        &self,
        tx: &mut Transaction,
        actor: Actor,
        path: &str,
        query: Query,
        allowance: &Allowance<'_>,
    ) -> Result<Kept, Errno> {
        tx.query(&self.book.accounts, actor, path, query, allowance)
    }

    /// Applies an edit within a transaction.
    pub(crate) fn edit_in(
        &mut self,
        tx: &mut Transaction,
        actor: Actor,
        path: &str,
        edit: Edit,
        allowance: &Allowance<'_>,
    ) -> Result<(), Errno> {
        tx.edit(&mut self.book, actor, path, edit, allowance)
    }

    /// Commits a transaction; the changes it made, in order.
    pub(crate) fn commit(
        &mut self,
        tx: Transaction,
        actor: Actor,
        allowance: &Allowance<'_>,
    ) -> Result<Vec<Change>, Errno> {
        let tx = match tx.unopposed(&self.tree, actor) {
            Ok((tree, delta, changes)) => {
                self.tree = tree;
                self.book.accounts.add_all(&delta);
                return Ok(changes);
            }
            Err(tx) => tx,
        };
        // What the transaction keeps is given back in any case.
        allowance.pend(-tx.bytes(actor.domid));
        let mut tree = self.tree.clone();
        let mut delta = Accounts::default();
        let mut view = View {
            tree: &mut tree,
            book: &mut self.book,
            delta: &mut delta,
            allowance,
        };
        let changes = tx.replay(&mut view, actor)?;
        self.tree = tree;
        self.book.accounts.add_all(&delta);
        Ok(changes)
    }

    /// The path at which the last commit found something else than the transaction had, if it failed for that.
    pub(crate) fn take_conflict(&mut self) -> Option<Box<str>> {
        self.book.conflict.take()
    }

    /// A domain is no more: nothing in the store speaks of it any longer, so that the next domain of its number
    /// inherits nothing. See [`death::scrub`].
    pub(crate) fn forget(&mut self, dead: DomId) -> Vec<Change> {
        self.captures.forget(dead);
        self.book.generation += 1;
        let mut delta = Accounts::default();
        let changes = death::scrub(&mut self.tree, dead, self.book.generation, &mut delta);
        self.book.accounts.add_all(&delta);
        changes
    }

    /// What a domain's nodes cost it: how many there are, and about how many bytes of memory they take. This is what its
    /// quotas are held against.
    pub(crate) fn usage_of(&self, domain: DomId) -> Usage {
        self.book.accounts.of(domain)
    }

    /// What every domain's nodes cost; only of those that own any, in no order.
    pub(crate) fn usages(&self) -> impl Iterator<Item = (DomId, Usage)> {
        self.book.accounts.iter()
    }

    /// Compares the accounts with the tree; the domains for which they differ.
    pub(crate) fn audit(&self) -> Vec<DomId> {
        self.book.accounts.differing(&self.tree.accounts())
    }
}
