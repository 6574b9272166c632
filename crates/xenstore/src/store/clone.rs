//! Subtrees for clones of domains: shared with the original's, seen with other domains' permissions.
//!
//! A fork of a guest needs what its toolstack and its drivers keep in the store for it. Copied node by node, that is the
//! larger part of what a fork costs, and each copy takes its memory. Here a clone's subtree is the original's in memory, with
//! a [`Renaming`](super::mentions::Renaming) at its top; what one of them changes, and the way there, becomes its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use cantle_abi::io::xs_wire::XENSTORE_ABS_PATH_MAX;
use cantle_abi::{DomId, Errno};

use super::mentions::{Renaming, mentioned};
use super::{Accounts, Change, Found, Kept, NodeRef, Store, Usage};
use crate::quota::Allowance;

/// A subtree as it was when it was captured, to be put elsewhere as often as wanted: see
/// [`Server::graft`](crate::Server::graft).
///
/// It keeps what it shows in memory, whatever becomes of the store; a clone of it is the same one.
#[derive(Clone, Debug)]
pub struct Subtree(Arc<Captured>);

#[derive(Debug)]
struct Captured {
    /// Of which store it is.
    store: Arc<()>,
    top: Kept,
    mentioned: Box<[Mentioned]>,
    /// What the nodes below the top cost.
    below: Accounts,
    nodes: usize,
    /// The length of the longest path, from the top.
    longest: usize,
}

#[derive(Debug)]
struct Mentioned {
    domain: DomId,
    /// It has died since. Another of its number may be there.
    died: AtomicBool,
}

impl Subtree {
    /// How many nodes it has, the top with them.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.0.nodes
    }

    /// The domains that its permissions name, in order.
    pub fn mentioned(&self) -> impl Iterator<Item = DomId> {
        self.0.mentioned.iter().map(|each| each.domain)
    }

    fn new(store: &Arc<()>, top: &NodeRef<'_>) -> Self {
        let mut domains = Vec::new();
        let mut below = Accounts::default();
        let (mut nodes, mut longest) = (0, 0);
        let mut stack = vec![("", 0, top.clone())];
        while let Some((name, len, node)) = stack.pop() {
            if nodes > 0 {
                let (owner, cost) = node.cost(name);
                below.add(owner, cost);
            }
            nodes += 1;
            longest = longest.max(len);
            domains.extend(mentioned(node.perms()));
            // Many nodes, few domains.
            if domains.len() > 4096 {
                domains.sort_unstable();
                domains.dedup();
            }
            let children = node.children();
            stack.extend(children.map(|(name, child)| (name, len + 1 + name.len(), child)));
        }
        domains.sort_unstable();
        domains.dedup();
        let mentioned = domains.into_iter().map(|domain| Mentioned {
            domain,
            died: AtomicBool::new(false),
        });
        Self(Arc::new(Captured {
            store: Arc::clone(store),
            top: top.keep(),
            mentioned: mentioned.collect(),
            below,
            nodes,
            longest,
        }))
    }

    /// The renaming that is wanted; `ENOENT` where it leaves a domain in its place that is not the same any more.
    fn renaming(&self, to: impl Fn(DomId) -> DomId) -> Result<Option<Arc<Renaming>>, Errno> {
        let stale = self.0.mentioned.iter().any(|each| {
            // Ordering: the store's owner sets it and reads it, one at a time.
            to(each.domain) == each.domain && each.died.load(Ordering::Relaxed)
        });
        if stale {
            return Err(Errno::ENOENT);
        }
        Ok(Renaming::new(self.mentioned(), to))
    }
}

/// The subtrees that have been captured, as long as somebody has them.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    store: Arc<()>,
    known: Vec<Weak<Captured>>,
}

impl Captures {
    fn note(&mut self, subtree: &Subtree) {
        self.known.retain(|known| known.strong_count() > 0);
        self.known.push(Arc::downgrade(&subtree.0));
    }

    /// A domain is no more: what was captured before must not give anything to the next of its number.
    pub(super) fn forget(&mut self, dead: DomId) {
        for captured in self.known.iter().filter_map(Weak::upgrade) {
            for each in captured.mentioned.iter().filter(|each| each.domain == dead) {
                each.died.store(true, Ordering::Relaxed);
            }
        }
    }
}

impl Store {
    /// Captures a subtree. Visits each of its nodes once.
    pub(crate) fn capture(&mut self, path: &str) -> Option<Subtree> {
        let subtree = Subtree::new(&self.captures.store, &self.tree.get(path)?);
        self.captures.note(&subtree);
        Some(subtree)
    }

    /// Puts a subtree at a path where nothing is, with `to(domain)` in the place of each domain that it mentions. Costs what the
    /// path has names and the subtree's top has children, however much is below.
    ///
    /// `EEXIST` where something is, `E2BIG` where a path would become too long, `EINVAL` for another store's subtree,
    /// `ENOENT` where it mentions a domain that has died since and is not replaced; and what the owners' quotas say.
    pub(crate) fn graft(
        &mut self,
        path: &str,
        subtree: &Subtree,
        to: impl Fn(DomId) -> DomId,
        allowance: &Allowance<'_>,
    ) -> Result<Change, Errno> {
        if !Arc::ptr_eq(&subtree.0.store, &self.captures.store) {
            return Err(Errno::EINVAL);
        }
        let Found::Missing { nearest, missing } = self.tree.find(path) else {
            return Err(Errno::EEXIST);
        };
        if path.len() + subtree.0.longest > XENSTORE_ABS_PATH_MAX {
            return Err(Errno::E2BIG);
        }
        let inherited = Arc::clone(nearest.perms());
        let mut top = subtree.0.top.seen().detached();
        if let Some(renaming) = subtree.renaming(&to)? {
            top = top.under(&renaming);
        }
        let perms = Arc::clone(&top.perms);

        let mut delta = Accounts::default();
        for (owner, usage) in subtree.0.below.iter() {
            delta.add(to(owner), usage);
        }
        let mut names = path.rsplit('/');
        let name = names.next().unwrap_or_default();
        delta.add(perms.owner, Usage::of_node(name, top.value.len(), &perms));
        for name in names.take(missing - 1) {
            delta.add(inherited.owner, Usage::of_node(name, 0, &inherited));
        }
        self.afford(&delta, allowance)?;

        self.book.generation += 1;
        let generation = self.book.generation;
        top.generation = generation;
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.tree.create(parent, &inherited, generation);
        self.tree.insert(path, top).ok_or(Errno::EIO)?;
        self.book.accounts.add_all(&delta);
        Ok(Change {
            path: path.into(),
            before: None,
            after: Some(perms),
            parent: Some(inherited),
            removed: None,
            made: missing,
            steps: 0,
        })
    }

    /// Whether all owners' quotas allow for what they are to get.
    fn afford(&self, delta: &Accounts, allowance: &Allowance<'_>) -> Result<(), Errno> {
        delta.iter().try_for_each(|(owner, more)| {
            let after = self.book.accounts.of(owner).plus(more);
            allowance.afford(owner, Some(after.nodes), Some(after.bytes))
        })
    }
}

#[cfg(test)]
mod tests;
