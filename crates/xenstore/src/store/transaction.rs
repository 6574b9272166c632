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
//! A transaction can only fail where another change was committed meanwhile, so somebody always makes progress; that it is not
//! always the same one is seen to by the server (`server/patience.rs`). A commit that was interfered with costs what its log
//! costs, however large the store is and however much has changed in it.

use cantle_abi::{DomId, Errno};

use super::account::{of_perms, signed};
use super::{Accounts, Actor, Book, Change, Edit, Kept, NodeRef, Tree, View};
use crate::limits::Quota;
use crate::quota::Allowance;

/// Which part of a node a request read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Query {
    Value,
    Children,
    Perms,
}

impl Query {
    fn same(self, before: &NodeRef<'_>, now: &NodeRef<'_>) -> bool {
        before.is(now)
            || match self {
                Self::Value => before.value() == now.value(),
                Self::Children => before.same_names(now),
                Self::Perms => before.perms() == now.perms(),
            }
    }
}

/// What an open transaction costs beside its log, about.
pub(crate) const TRANSACTION_BYTES: i64 = 512;
/// What a query in the log costs beside its path, about.
const QUERY_BYTES: i64 = 96;
/// What an edit in the log costs beside its path and what it sets, about.
const EDIT_BYTES: i64 = 224;

#[derive(Debug)]
pub(super) enum Request {
    Query(Query, Result<Kept, Errno>),
    Edit(Edit, Result<(), Errno>),
}

impl Request {
    pub(super) fn bytes(&self, path: &str) -> i64 {
        match self {
            Self::Query(..) => query_bytes(path),
            Self::Edit(edit, _) => edit_bytes(path, edit),
        }
    }
}

fn query_bytes(path: &str) -> i64 {
    QUERY_BYTES + signed(path.len())
}

fn edit_bytes(path: &str, edit: &Edit) -> i64 {
    let kept = match edit {
        Edit::Write(value) => signed(value.len()),
        Edit::SetPerms(perms) => of_perms(perms),
        Edit::Mkdir | Edit::Rm => 0,
    };
    // The path is kept in the log, and in the change that watchers will be told of.
    EDIT_BYTES + 2 * signed(path.len()) + kept
}

/// An open transaction.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// The store as it was at the beginning.
    pub(super) base: Tree,
    pub(super) tree: Tree,
    pub(super) delta: Accounts,
    pub(super) changes: Vec<Change>,
    pub(super) log: Vec<(Box<str>, Request)>,
    /// What the log takes.
    pub(super) bytes: i64,
    /// It can never commit.
    pub(super) doomed: bool,
}

impl Transaction {
    pub(super) fn new(tree: Tree) -> Self {
        Self {
            base: tree.clone(),
            tree,
            delta: Accounts::default(),
            changes: Vec::new(),
            log: Vec::new(),
            bytes: TRANSACTION_BYTES,
            doomed: false,
        }
    }

    pub(super) fn query(
        &mut self,
        accounts: &Accounts,
        actor: Actor,
        path: &str,
        query: Query,
        allowance: &Allowance<'_>,
    ) -> Result<Kept, Errno> {
        self.make_room(accounts, actor, query_bytes(path), allowance)?;
        let result = actor.lookup(&self.tree, path).map(|node| node.keep());
        self.log
            .push((path.into(), Request::Query(query, result.clone())));
        result
    }

    pub(super) fn edit(
        &mut self,
        book: &mut Book,
        actor: Actor,
        path: &str,
        edit: Edit,
        allowance: &Allowance<'_>,
    ) -> Result<(), Errno> {
        let bytes = edit_bytes(path, &edit);
        self.make_room(&book.accounts, actor, bytes, allowance)?;
        // What earlier edits made grow is in the view's accounts: not twice.
        allowance.pend(bytes - self.growth(actor.domid));
        let result = View {
            tree: &mut self.tree,
            book,
            delta: &mut self.delta,
            allowance,
        }
        .edit(actor, path, &edit)
        .map(|change| self.changes.extend(change));
        self.log.push((path.into(), Request::Edit(edit, result)));
        result
    }

    /// A request that does not fit in the log is not run at all.
    fn make_room(
        &mut self,
        accounts: &Accounts,
        actor: Actor,
        bytes: i64,
        allowance: &Allowance<'_>,
    ) -> Result<(), Errno> {
        allowance.allow(Quota::TransactionNodes, self.log.len() + 1)?;
        let owned = accounts.of(actor.domid).bytes;
        allowance.afford(actor.domid, None, Some(owned.saturating_add(bytes)))?;
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }

    /// What the transaction costs its domain: its log, and the nodes that only it has.
    pub(crate) fn bytes(&self, domain: DomId) -> i64 {
        self.bytes.saturating_add(self.growth(domain))
    }

    /// Whether what is counted is what is there.
    pub(crate) fn is_sound(&self) -> bool {
        let log = self
            .log
            .iter()
            .map(|(path, request)| request.bytes(path))
            .sum::<i64>();
        self.bytes == TRANSACTION_BYTES + log
    }

    /// By how much a domain's nodes have grown in it.
    fn growth(&self, domain: DomId) -> i64 {
        self.delta.of(domain).bytes.max(0)
    }

    /// What a commit results in where nobody has changed anything since the beginning: running the log again would come to
    /// the same. Else the transaction itself.
    #[expect(clippy::result_large_err, reason = "it is no error, and moved once")]
    pub(super) fn unopposed(
        self,
        now: &Tree,
        actor: Actor,
    ) -> Result<(Tree, Accounts, Vec<Change>), Self> {
        // Whether others can still afford what was written into their nodes is to be asked again.
        let costs_others = !actor.privileged
            && self
                .delta
                .iter()
                .any(|(domain, usage)| domain != actor.domid && usage.bytes > 0);
        if self.doomed || costs_others || !self.base.is(now) {
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
                    (Ok(before), Ok(now)) => query.same(&before.seen(), &now),
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
                view.book.conflict = Some(path.clone());
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
