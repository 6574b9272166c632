//! Transactions.
//!
//! # The rule
//!
//! A transaction works on a snapshot and records every request it made and what the answer was. When it commits, the
//! requests are run again, in order, on the store as it is by then. **If each of them is answered as it was, the
//! transaction is committed, as if all of it had happened at that moment; if one is not, it fails with `EAGAIN` and
//! nothing of it has happened.**
//!
//! So every committed transaction can be explained in the order of the commits, which is what serialisable means;
//! and two transactions that touch different paths, or read the same and write different ones, or write the same without
//! having read it, both commit. What counts is the answer: a value that was changed and changed back is no conflict, and a
//! node that was created beside the one read is none either, while a directory that was listed conflicts with any change
//! of its list.
//!
//! A transaction can only fail where another change was committed meanwhile, so somebody always makes progress.

use std::sync::Arc;

use cantle_abi::{DomId, Errno};

use super::{Accounts, Actor, Change, Edit, Node, Tree, View};
use crate::limits::Limits;

/// Which part of a node a request read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Query {
    Value,
    Children,
    Perms,
}

impl Query {
    fn same(self, a: &Arc<Node>, b: &Arc<Node>) -> bool {
        Arc::ptr_eq(a, b)
            || match self {
                Self::Value => a.value == b.value,
                Self::Children => a.children.same_names(&b.children),
                Self::Perms => a.perms == b.perms,
            }
    }
}

#[derive(Debug)]
enum Request {
    Query(Query, Result<Arc<Node>, Errno>),
    Edit(Edit, Result<(), Errno>),
}

/// An open transaction.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// The store as it was at the beginning.
    base: Tree,
    tree: Tree,
    delta: Accounts,
    changes: Vec<Change>,
    log: Vec<(Box<str>, Request)>,
    /// What the log keeps of the domain's own bytes.
    bytes: usize,
    /// It can never commit.
    doomed: bool,
}

impl Transaction {
    pub(super) fn new(tree: Tree) -> Self {
        Self {
            base: tree.clone(),
            tree,
            delta: Accounts::default(),
            changes: Vec::new(),
            log: Vec::new(),
            bytes: 0,
            doomed: false,
        }
    }

    pub(crate) fn query(
        &mut self,
        actor: Actor,
        path: &str,
        query: Query,
        limits: &Limits,
    ) -> Result<Arc<Node>, Errno> {
        self.make_room(actor, path, 0, limits)?;
        let result = actor.lookup(&self.tree, path).cloned();
        self.log
            .push((path.into(), Request::Query(query, result.clone())));
        result
    }

    pub(super) fn edit(
        &mut self,
        accounts: &Accounts,
        generation: &mut u64,
        actor: Actor,
        path: &str,
        edit: Edit,
        limits: &Limits,
    ) -> Result<(), Errno> {
        let value = match &edit {
            Edit::Write(value) => value.len(),
            _ => 0,
        };
        self.make_room(actor, path, value, limits)?;
        let result = View {
            tree: &mut self.tree,
            accounts,
            delta: &mut self.delta,
            generation,
            limits,
        }
        .edit(actor, path, &edit)
        .map(|change| self.changes.extend(change));
        self.log.push((path.into(), Request::Edit(edit, result)));
        result
    }

    /// A request that does not fit in the log is not run at all.
    fn make_room(
        &mut self,
        actor: Actor,
        path: &str,
        value: usize,
        limits: &Limits,
    ) -> Result<(), Errno> {
        let bytes = self.bytes + path.len() + value;
        let full =
            self.log.len() >= limits.transaction_requests || bytes > limits.transaction_bytes;
        if full && !actor.privileged {
            return Err(Errno::ENOSPC);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// What a commit results in where nobody has changed anything since the beginning: running the log again would come to
    /// the same. Else the transaction itself.
    #[expect(clippy::result_large_err, reason = "it is no error, and moved once")]
    pub(super) fn unopposed(self, now: &Tree) -> Result<(Tree, Accounts, Vec<Change>), Self> {
        if self.doomed || !Arc::ptr_eq(self.base.root(), now.root()) {
            return Err(self);
        }
        Ok((self.tree, self.delta, self.changes))
    }

    /// Runs the log on another tree; the changes, or `EAGAIN` where an answer differs.
    pub(super) fn replay(&self, view: &mut View<'_>, actor: Actor) -> Result<Vec<Change>, Errno> {
        if self.doomed {
            return Err(Errno::EAGAIN);
        }
        let mut changes = Vec::new();
        for (path, request) in &self.log {
            let same = match request {
                Request::Query(query, before) => match (before, actor.lookup(view.tree, path)) {
                    (Ok(before), Ok(now)) => query.same(before, now),
                    (Err(before), Err(now)) => *before == now,
                    _ => false,
                },
                Request::Edit(edit, before) => {
                    let now = view.edit(actor, path, edit);
                    let same = now.as_ref().map(drop).map_err(|errno| *errno) == *before;
                    changes.extend(now.ok().flatten());
                    same
                }
            };
            if !same {
                return Err(Errno::EAGAIN);
            }
        }
        Ok(changes)
    }

    /// A domain is no more: a transaction that gives it a permission must not give it to the next of its number.
    pub(crate) fn forget(&mut self, dead: DomId) {
        self.doomed |= self.log.iter().any(|(_, request)| match request {
            Request::Edit(Edit::SetPerms(perms), _) => {
                perms.owner == dead || perms.listed.iter().any(|(listed, _)| *listed == dead)
            }
            _ => false,
        });
    }
}
