//! What is left of a domain when it is gone: nothing.

use std::sync::Arc;

use cantle_abi::DomId;

use super::edit::private_to_dom0;
use super::{Change, Children, Delta, Node, Tree};
use crate::Perms;

/// A node on the way down, with what is kept of its children so far.
struct Frame {
    node: Arc<Node>,
    path: String,
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
            kept: Vec::with_capacity(node.children.len()),
            changed: false,
            changes,
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
    delta: &mut Delta,
) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    let mut visited = 0_usize;
    let mut stack = vec![Frame::new(tree.root(), String::new(), 0)];
    let mut next_child = vec![0_usize];
    while let (Some(top), Some(next)) = (stack.last_mut(), next_child.last_mut()) {
        if let Some(child) = top.node.children.at(*next) {
            *next += 1;
            let path = format!("{}/{}", top.path, child.name);
            let frame = Frame::new(child, path, changes.len());
            stack.push(frame);
            next_child.push(0);
            visited += 1;
            continue;
        }
        next_child.pop();
        let Some(frame) = stack.pop() else { break };
        let fate = decide(frame, dead, generation, delta, &mut changes);
        match (stack.last_mut(), fate) {
            (Some(parent), Fate::Same(node)) => parent.kept.push(node),
            (Some(parent), Fate::New(node)) => {
                parent.kept.push(node);
                parent.changed = true;
            }
            (Some(parent), Fate::Gone(mut change)) => {
                parent.changed = true;
                change.parent = Some(Arc::clone(&parent.node.perms));
                changes.push(change);
            }
            (None, Fate::New(root)) => *tree = Tree::new(root),
            (None, _) => {}
        }
    }
    tracing::debug!(%dead, visited, changes = changes.len(), "scrubbed");
    changes
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
    delta: &mut Delta,
    changes: &mut Vec<Change>,
) -> Fate {
    let Frame {
        node,
        path,
        kept,
        changed,
        changes: before,
    } = frame;
    let own = node.perms.owner == dead;
    if own {
        *delta.entry(dead).or_default() -= 1;
    }
    // The root stays in any case.
    if own && kept.is_empty() && !path.is_empty() {
        // Those below are gone with it.
        changes.truncate(before);
        return Fate::Gone(Change {
            path: path.into(),
            before: Some(Arc::clone(&node.perms)),
            after: None,
            parent: None,
            removed: Some(node),
        });
    }
    let named = node.perms.listed.iter().any(|(listed, _)| *listed == dead);
    if !own && !named && !changed {
        return Fate::Same(node);
    }
    let perms = if own {
        *delta.entry(DomId::DOM0).or_default() += 1;
        private_to_dom0()
    } else if named {
        let mut perms = Perms::clone(&node.perms);
        perms.listed.retain(|(listed, _)| *listed != dead);
        Arc::new(perms)
    } else {
        Arc::clone(&node.perms)
    };
    Fate::New(Arc::new(Node {
        name: Arc::clone(&node.name),
        value: if own {
            Arc::default()
        } else {
            Arc::clone(&node.value)
        },
        perms,
        generation,
        children: Children::from_sorted(kept),
    }))
}
