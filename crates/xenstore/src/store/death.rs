//! What is left of a domain when it is gone: nothing.

use std::sync::Arc;

use cantle_abi::DomId;

use super::edit::private_to_dom0;
use super::{Accounts, Change, Children, Cursor, Node, Tree};
use crate::Perms;

/// A node on the way down, with what is kept of its children so far.
struct Frame {
    node: Arc<Node>,
    path: String,
    next: Cursor,
    kept: Vec<Arc<Node>>,
    /// Some child is not as it was.
    changed: bool,
    /// How many changes there were when we came here.
    changes: usize,
}

impl Frame {
    fn new(node: &Arc<Node>, path: String, changes: usize) -> Self {
        Self {
            node: Arc::clone(node),
            path,
            next: Cursor::default(),
            kept: Vec::new(),
            changed: false,
            changes,
        }
    }

    fn take(&mut self, fate: Fate, changes: &mut Vec<Change>) {
        match fate {
            Fate::Same(node) => self.kept.push(node),
            Fate::New(node) => {
                self.kept.push(node);
                self.changed = true;
            }
            Fate::Gone(mut change) => {
                change.parent = Some(Arc::clone(&self.node.perms));
                changes.push(change);
                self.changed = true;
            }
        }
    }
}

/// Removes every trace of a domain: nodes of its own that have none of others below them go; those that have become
/// dom0's, empty and private; from all other nodes' permissions its name is struck. Returns what watchers may be told,
/// removed subtrees by their tops. Visits every node once, without recursion.
pub(super) fn scrub(
    tree: &mut Tree,
    dead: DomId,
    generation: u64,
    delta: &mut Accounts,
) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    let mut stack = vec![Frame::new(tree.root(), String::new(), 0)];
    while let Some(top) = stack.last_mut() {
        if let Some(child) = top.node.children.next(&mut top.next) {
            if child.children.is_empty() && !mentions(child, dead) {
                top.kept.push(Arc::clone(child));
            } else {
                let path = format!("{}/{}", top.path, child.name);
                let frame = Frame::new(child, path, changes.len());
                stack.push(frame);
            }
            continue;
        }
        let Some(frame) = stack.pop() else { break };
        let fate = decide(frame, dead, generation, delta, &mut changes);
        match (stack.last_mut(), fate) {
            (Some(parent), fate) => parent.take(fate, &mut changes),
            (None, Fate::New(root)) => *tree = Tree::new(root),
            (None, _) => {}
        }
    }
    changes
}

fn mentions(node: &Node, dead: DomId) -> bool {
    node.perms.owner == dead || node.perms.listed.iter().any(|(listed, _)| *listed == dead)
}

enum Fate {
    Same(Arc<Node>),
    New(Arc<Node>),
    Gone(Change),
}

fn decide(
    frame: Frame,
    dead: DomId,
    generation: u64,
    delta: &mut Accounts,
    changes: &mut Vec<Change>,
) -> Fate {
    let Frame {
        node,
        path,
        kept,
        changed,
        changes: before,
        ..
    } = frame;
    let own = node.perms.owner == dead;
    let (owner, cost) = node.cost();
    // The root stays in any case.
    if own && kept.is_empty() && !path.is_empty() {
        // Those below are gone with it.
        changes.truncate(before);
        delta.add(owner, cost.negated());
        return Fate::Gone(Change {
            path: path.into(),
            before: Some(Arc::clone(&node.perms)),
            after: None,
            parent: None,
            removed: Some(node),
        });
    }
    let named = !own && mentions(&node, dead);
    if !own && !named && !changed {
        return Fate::Same(node);
    }
    let perms = if own {
        private_to_dom0()
    } else if named {
        let mut perms = Perms::clone(&node.perms);
        perms.listed.retain(|(listed, _)| *listed != dead);
        Arc::new(perms)
    } else {
        Arc::clone(&node.perms)
    };
    let node = Node {
        name: Arc::clone(&node.name),
        value: if own {
            Arc::default()
        } else {
            Arc::clone(&node.value)
        },
        perms,
        generation,
        children: Children::from_sorted(&kept),
    };
    delta.add(owner, cost.negated());
    let (owner, cost) = node.cost();
    delta.add(owner, cost);
    Fate::New(Arc::new(node))
}
