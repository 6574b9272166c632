//! Open transactions, taken apart and put together again: a transaction is the tree that it began with, and its log.

use cantle_abi::Errno;

use super::transaction::Request;
use super::{Accounts, Actor, Book, Edit, Found, Query, Store, Transaction, Tree, View};
use crate::quota::Allowance;

/// What a request of a transaction asked.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    Query(Query),
    Edit(Edit),
}

/// A request of a transaction, and how it was answered.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) path: Box<str>,
    pub(crate) asked: Asked,
    pub(crate) answer: Result<(), Errno>,
}

/// A log that cannot have been made on the tree that it is said to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unlike;

impl Transaction {
    /// The store as it was when the transaction began.
    pub(crate) fn base(&self) -> &Tree {
        &self.base
    }

    /// Whether it can never commit.
    pub(crate) fn is_doomed(&self) -> bool {
        self.doomed
    }

    /// What it has asked so far, in order.
    pub(crate) fn told(&self) -> impl Iterator<Item = Told> {
        self.log.iter().map(|(path, request)| {
            let (asked, answer) = match request {
                Request::Query(query, answer) => (
                    Asked::Query(*query),
                    answer.as_ref().map(drop).map_err(|errno| *errno),
                ),
                Request::Edit(edit, answer) => (Asked::Edit(edit.clone()), *answer),
            };
            Told {
                path: path.clone(),
                asked,
                answer,
            }
        })
    }
}

impl Store {
    /// A transaction of `actor` that began with `base` and has done what its log says since. Quotas were asked when it was
    /// done: the allowance should be without bounds.
    pub(crate) fn reopen(
        &mut self,
        base: Tree,
        doomed: bool,
        actor: Actor,
        log: Vec<Told>,
        allowance: &Allowance<'_>,
    ) -> Result<Transaction, Unlike> {
        let mut tx = Transaction::new(base);
        tx.doomed = doomed;
        for Told {
            path,
            asked,
            answer,
        } in log
        {
            let request = match (asked, answer) {
                (Asked::Query(query), Ok(())) => {
                    let node = tx.tree.get(&path).ok_or(Unlike)?;
                    Request::Query(query, Ok(node.keep()))
                }
                (Asked::Query(query), Err(errno)) => Request::Query(query, Err(errno)),
                (Asked::Edit(edit), answer) => {
                    if answer.is_ok() {
                        self.redo(&mut tx, actor, &path, &edit, allowance)?;
                    }
                    Request::Edit(edit, answer)
                }
            };
            tx.bytes = tx.bytes.saturating_add(request.bytes(&path));
            tx.log.push((path, request));
        }
        Ok(tx)
    }

    /// Does an edit again that was allowed when it was done, whatever the actor may do by now. It matters who he is only where
    /// he makes a node, which is his: so he does that in the name of the one who owns what is above.
    fn redo(
        &mut self,
        tx: &mut Transaction,
        actor: Actor,
        path: &str,
        edit: &Edit,
        allowance: &Allowance<'_>,
    ) -> Result<(), Unlike> {
        let actor = match tx.tree.find(path) {
            Found::Missing { nearest, .. } if !actor.privileged => Actor {
                target: Some(nearest.perms().owner),
                ..actor
            },
            _ => Actor {
                privileged: true,
                ..actor
            },
        };
        let change = View {
            tree: &mut tx.tree,
            book: &mut self.book,
            delta: &mut tx.delta,
            allowance,
        }
        .edit(actor, path, edit)
        .map_err(|_| Unlike)?;
        tx.changes.extend(change);
        Ok(())
    }

    /// The tree as it would be if a transaction were committed now; `None` where it could not be. Nothing is changed.
    pub(crate) fn as_if_committed(
        &self,
        tx: &Transaction,
        actor: Actor,
        allowance: &Allowance<'_>,
    ) -> Option<Tree> {
        // What the transaction keeps would be given back.
        allowance.pend(-tx.bytes(actor.domid));
        let mut tree = self.tree.clone();
        let mut book = Book {
            accounts: self.book.accounts.clone(),
            generation: self.book.generation,
            ..Book::default()
        };
        let mut view = View {
            tree: &mut tree,
            book: &mut book,
            delta: &mut Accounts::default(),
            allowance,
        };
        tx.replay(&mut view, actor).ok()?;
        Some(tree)
    }
}
