//! Nodes, and the tree of them: immutable where it is shared, changed in place where it is not.

use std::sync::Arc;

use super::{Accounts, Children, Usage};
use cantle_abi::DomId;

use crate::Perms;
use crate::path::components;

/// A node. Its subtree is shared by every tree that has it unchanged.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: Arc<str>,
    pub(crate) value: Arc<[u8]>,
    pub(crate) perms: Arc<Perms>,
    /// Grows with each change of the node or of its list of children.
    pub(crate) generation: u64,
    pub(crate) children: Children,
}

impl Node {
    pub(crate) fn new(name: &str, perms: Arc<Perms>, generation: u64) -> Self {
        Self {
            name: name.into(),
            value: Arc::default(),
            perms,
            generation,
            children: Children::default(),
        }
    }
}

impl Node {
    /// Whom it costs what, without what is below it.
    pub(crate) fn cost(&self) -> (DomId, Usage) {
        let usage = Usage::of_node(&self.name, self.value.len(), &self.perms);
        (self.perms.owner, usage)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.children.drop_all();
    }
}

/// A whole tree. Cloning it is a snapshot, in constant time.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    root: Arc<Node>,
}

/// What is at a path.
pub(crate) enum Found<'a> {
    /// The node.
    Node(&'a Arc<Node>),
    /// Nothing; its nearest ancestor that exists, and how many nodes would have to be made.
    Missing {
        nearest: &'a Arc<Node>,
        missing: usize,
    },
}

impl Tree {
    pub(crate) fn new(root: Arc<Node>) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Arc<Node> {
        &self.root
    }

    /// What its nodes cost, by a walk through all of them.
    pub(crate) fn accounts(&self) -> Accounts {
        let mut counted = Accounts::default();
        for node in nodes(&self.root) {
            let (owner, usage) = node.cost();
            counted.add(owner, usage);
        }
        counted
    }

    pub(crate) fn find(&self, path: &str) -> Found<'_> {
        let mut nearest = &self.root;
        let mut names = components(path);
        while let Some(name) = names.next() {
            match nearest.children.get(name) {
                Some(child) => nearest = child,
                None => {
                    let missing = 1 + names.count();
                    return Found::Missing { nearest, missing };
                }
            }
        }
        Found::Node(nearest)
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Arc<Node>> {
        match self.find(path) {
            Found::Node(node) => Some(node),
            Found::Missing { .. } => None,
        }
    }

    /// The node, made this tree's own together with its ancestors.
    pub(crate) fn get_mut(&mut self, path: &str) -> Option<&mut Node> {
        self.get(path)?;
        let mut node = Arc::make_mut(&mut self.root);
        for name in components(path) {
            node = node.children.get_mut(name)?;
        }
        Some(node)
    }

    /// Makes the node and its missing ancestors, all with `perms` and `generation`; returns the node.
    pub(crate) fn create(
        &mut self,
        path: &str,
        perms: &Arc<Perms>,
        generation: u64,
    ) -> Option<&mut Node> {
        let mut node = Arc::make_mut(&mut self.root);
        for name in components(path) {
            if node.children.get(name).is_none() {
                node.generation = generation;
                node.children
                    .insert(Node::new(name, Arc::clone(perms), generation));
            }
            node = node.children.get_mut(name)?;
        }
        Some(node)
    }

    /// Takes a node and its subtree out; returns it.
    pub(crate) fn remove(&mut self, path: &str, generation: u64) -> Option<Arc<Node>> {
        let (parent, name) = path.rsplit_once('/')?;
        let parent = self.get_mut(parent)?;
        let removed = parent.children.remove(name)?;
        parent.generation = generation;
        Some(removed)
    }
}

/// A node and all below it with their paths, parents first, without recursion.
pub(crate) fn walk<'a>(
    top: &'a Arc<Node>,
    path: &str,
) -> impl Iterator<Item = (String, &'a Arc<Node>)> {
    let mut stack = vec![(path.to_owned(), top)];
    core::iter::from_fn(move || {
        let (path, node) = stack.pop()?;
        let base = if path == "/" { "" } else { path.as_str() };
        let below = node
            .children
            .iter()
            .map(|child| (format!("{base}/{}", child.name), child));
        stack.extend(below);
        Some((path, node))
    })
}

/// As [`walk`], where the paths do not matter.
pub(crate) fn nodes(top: &Arc<Node>) -> impl Iterator<Item = &Arc<Node>> {
    let mut stack = vec![top];
    core::iter::from_fn(move || {
        let node = stack.pop()?;
        stack.extend(node.children.iter());
        Some(node)
    })
}
