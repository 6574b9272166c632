//! What is left of a domain when it is gone: nothing.
//!
//! The rule is the protocol's: **what it owned is removed, with all that is below, whoever owns that; from the permissions of all
//! other nodes its number is struck.** (It could have removed its nodes with all below them itself.) Only the root stays in any
//! case: if it was the domain's, it becomes domain 0's, empty and private. So the next domain of its number inherits nothing.
//!
//! What there is to be done is found first, by a walk that goes only where the domain may be mentioned (see
//! [`Mentions`](super::mentions::Mentions)), and done after. So it costs about what the domain had: the directories on the
//! way to its nodes are looked through, and where one of 64 other domains happens to have the same bit, its nodes are too.

use std::sync::Arc;

use cantle_abi::DomId;

use super::dir::{Part, Pieces};
use super::edit::private_to_dom0;
use super::mentions::{Mentions, mentioned};
use super::{Accounts, Change, NodeRef, Tree, nodes};
use crate::Perms;

/// What has to be done, children before their parents.
#[derive(Debug, Default)]
struct Work {
    /// The domain's nodes that are not below another of its own.
    gone: Vec<String>,
    /// Nodes that stay, and mention the domain.
    struck: Vec<String>,
    /// Nodes below which the domain will not be mentioned any more, nor another that has its bit.
    stale: Vec<String>,
}

/// A node on the way down.
struct Frame<'t> {
    node: NodeRef<'t>,
    path: String,
    pieces: Pieces<'t>,
    part: Option<Part<'t>>,
    /// The domain's bit is another's, too, somewhere below.
    shared_bit: bool,
}

impl<'t> Frame<'t> {
    fn new(node: NodeRef<'t>, path: String) -> Self {
        Self {
            pieces: node.pieces(),
            node,
            path,
            part: None,
            shared_bit: false,
        }
    }

    /// The next child that may have to do with the domain.
    fn next(&mut self, dead: DomId) -> Option<(&'t str, NodeRef<'t>)> {
        loop {
            for (name, child) in self.part.as_mut().into_iter().flatten() {
                if mentions(child.perms(), dead) || child.mentions_below().may_contain(dead) {
                    return Some((name, child));
                }
                self.shared_bit |= Mentions::of(child.perms()).may_contain(dead);
            }
            let part = self.pieces.next()?;
            if part.mentions().may_contain(dead) {
                self.part = Some(part);
            }
        }
    }

    /// It has been looked through and stays: what is to be done with it. Whether it has the domain's bit for others' sake.
    fn decide(self, dead: DomId, work: &mut Work) -> bool {
        let others = Mentions::of(&without(self.node.perms(), dead)).may_contain(dead);
        if mentions(self.node.perms(), dead) {
            work.struck.push(self.path.clone());
        }
        if !self.shared_bit && self.node.mentions_below().may_contain(dead) {
            work.stale.push(self.path);
        }
        self.shared_bit || others
    }
}

fn mentions(perms: &Perms, dead: DomId) -> bool {
    mentioned(perms).any(|domain| domain == dead)
}

/// The permissions when the domain is struck from them.
fn without(perms: &Arc<Perms>, dead: DomId) -> Arc<Perms> {
    if perms.owner == dead {
        private_to_dom0()
    } else if mentions(perms, dead) {
        let mut perms = Perms::clone(perms);
        perms.listed.retain(|(listed, _)| *listed != dead);
        Arc::new(perms)
    } else {
        Arc::clone(perms)
    }
}

fn find(tree: &Tree, dead: DomId) -> Work {
    let mut work = Work::default();
    let mut stack = vec![Frame::new(tree.root(), String::new())];
    while let Some(top) = stack.last_mut() {
        if let Some((name, child)) = top.next(dead) {
            let path = format!("{}/{name}", top.path);
            if child.perms().owner == dead {
                work.gone.push(path);
            } else {
                stack.push(Frame::new(child, path));
            }
            continue;
        }
        let Some(frame) = stack.pop() else { break };
        let shared_bit = frame.decide(dead, &mut work);
        if let Some(parent) = stack.last_mut() {
            parent.shared_bit |= shared_bit;
        }
    }
    work
}

/// Removes every trace of a domain. Returns what watchers may be told, removed subtrees by their tops. Without recursion.
pub(super) fn scrub(
    tree: &mut Tree,
    dead: DomId,
    generation: u64,
    delta: &mut Accounts,
) -> Vec<Change> {
    let work = find(tree, dead);
    let mut changes = Vec::new();
    for path in work.gone {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let parent = tree.get(parent).map(|parent| Arc::clone(parent.perms()));
        let Some(removed) = tree.remove(&path, generation) else {
            continue;
        };
        let name = path.rsplit('/').next().unwrap_or_default();
        for (name, node) in nodes(name, removed.seen()) {
            let (owner, cost) = node.cost(name);
            delta.add(owner, cost.negated());
        }
        let before = Some(Arc::clone(removed.seen().perms()));
        changes.push(Change {
            path: path.into(),
            before,
            after: None,
            parent,
            removed: Some(removed),
            made: 0,
            // It is the host's request, and nobody's turn.
            steps: 0,
        });
    }
    for path in &work.struck {
        strike(tree, path, dead, generation, delta);
    }
    for path in &work.stale {
        tree.recount_mentions(path);
    }
    changes
}

/// Strikes the domain from a node that stays.
fn strike(tree: &mut Tree, path: &str, dead: DomId, generation: u64, delta: &mut Accounts) {
    let name = path.rsplit('/').next().unwrap_or_default();
    let mut account = |tree: &Tree, gone: bool| {
        if let Some(node) = tree.get(path) {
            let (owner, cost) = node.cost(name);
            delta.add(owner, if gone { cost.negated() } else { cost });
        }
    };
    account(tree, true);
    let perms = tree.get(path).map(|node| without(node.perms(), dead));
    let Some(perms) = perms else { return };
    let mentions = Mentions::of(&perms);
    if let Some(node) = tree.get_mut(path, mentions) {
        if node.perms.owner == dead {
            node.value = Box::default();
        }
        node.perms = perms;
        node.generation = generation;
    }
    account(tree, false);
}
