//! Nodes, and the tree of them: immutable where it is shared, changed in place where it is not.

use std::cell::OnceCell;
use std::sync::Arc;

use cantle_abi::DomId;

use super::mentions::{Mentions, Renaming};
use super::{Accounts, Children, Usage};
use crate::Perms;
use crate::path::components;

/// A node as it is in memory. Its subtree is shared by every tree that has it unchanged, and may be shared by another domain's
/// clone of it, who sees other permissions: so it is read through a [`NodeRef`]. Its name is in its parent's list.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(super) value: Box<[u8]>,
    pub(super) perms: Arc<Perms>,
    /// Grows with each change of the node or of its list of children.
    pub(super) generation: u64,
    pub(super) children: Children,
}

impl Node {
    pub(crate) fn new(perms: Arc<Perms>, generation: u64) -> Self {
        Self {
            value: Box::default(),
            perms,
            generation,
            children: Children::default(),
        }
    }

    /// What it mentions and what is mentioned below it.
    pub(super) fn mentions(&self) -> Mentions {
        Mentions::of(&self.perms).and(self.children.mentions())
    }

    /// A node of its own as this one is to be seen under a renaming; what is below is shared.
    pub(super) fn under(&self, renaming: &Arc<Renaming>) -> Self {
        Self {
            value: self.value.clone(),
            perms: renaming.perms(&self.perms),
            generation: self.generation,
            children: self.children.under(renaming),
        }
    }

    pub(super) fn set_value(&mut self, value: &[u8]) {
        if self.value.len() == value.len() {
            self.value.copy_from_slice(value);
        } else {
            self.value = value.into();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.children.drop_all();
    }
}

/// A node as it is seen at its place in a tree.
#[derive(Clone, Debug)]
pub(crate) struct NodeRef<'t> {
    node: &'t Arc<Node>,
    /// What the subtree's permissions are to be read under.
    renaming: Option<Arc<Renaming>>,
    /// The node's own under it, once somebody has asked.
    renamed: OnceCell<Arc<Perms>>,
}

impl<'t> NodeRef<'t> {
    pub(super) fn new(node: &'t Arc<Node>, renaming: Option<Arc<Renaming>>) -> Self {
        Self {
            node,
            renaming,
            renamed: OnceCell::new(),
        }
    }

    pub(crate) fn value(&self) -> &'t [u8] {
        &self.node.value
    }

    pub(crate) fn perms(&self) -> &Arc<Perms> {
        match &self.renaming {
            None => &self.node.perms,
            Some(renaming) => {
                let perms = || renaming.perms(&self.node.perms);
                self.renamed.get_or_init(perms)
            }
        }
    }

    /// Grows with each change of the node or of its list of children. A clone's nodes have those of the original until
    /// they are changed.
    pub(crate) fn generation(&self) -> u64 {
        self.node.generation
    }

    /// The children's names, in order, in runs of many; each name has its NUL.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'t str> + use<'t> {
        self.node.children.names()
    }

    /// The children, in order.
    pub(crate) fn children(&self) -> impl Iterator<Item = (&'t str, NodeRef<'t>)> + use<'t> {
        self.pieces().flatten()
    }

    pub(super) fn pieces(&self) -> super::dir::Pieces<'t> {
        self.node.children.pieces(self.renaming.as_ref())
    }

    pub(crate) fn has_children(&self) -> bool {
        !self.node.children.is_empty()
    }

    /// The children of this node and of another, without most of those that both have in common.
    pub(super) fn unlike_children(
        &self,
        other: &Self,
    ) -> (
        impl Iterator<Item = (&'t str, NodeRef<'t>)> + use<'t>,
        impl Iterator<Item = (&'t str, NodeRef<'t>)> + use<'t>,
    ) {
        let (ours, others) = if self.renaming == other.renaming {
            let (node, other) = (self.node, other.node);
            node.children
                .unlike(&other.children, self.renaming.as_ref())
        } else {
            (self.pieces(), other.pieces())
        };
        (ours.flatten(), others.flatten())
    }

    pub(crate) fn child(&self, name: &str) -> Option<Self> {
        self.node.children.get(name, self.renaming.as_ref())
    }

    /// What is mentioned below it, with false positives.
    pub(super) fn mentions_below(&self) -> Mentions {
        let below = self.node.children.mentions();
        match &self.renaming {
            None => below,
            Some(renaming) => renaming.mentions(below),
        }
    }

    /// Whom it costs what under this name, without what is below it.
    pub(crate) fn cost(&self, name: &str) -> (DomId, Usage) {
        let usage = Usage::of_node(name, self.value().len(), self.perms());
        (self.perms().owner, usage)
    }

    /// Whether both are the same in memory, with all that is below.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let same_view = match (&self.renaming, &other.renaming) {
            (None, None) => true,
            (Some(this), Some(other)) => Arc::ptr_eq(this, other) || this == other,
            _ => false,
        };
        same_view && Arc::ptr_eq(self.node, other.node)
    }

    /// Whether both have children of the same names.
    pub(crate) fn same_names(&self, other: &Self) -> bool {
        self.node.children.same_names(&other.node.children)
    }

    /// A node of its own like this one; what is below is shared.
    pub(super) fn detached(&self) -> Node {
        match &self.renaming {
            None => Node::clone(self.node),
            Some(renaming) => self.node.under(renaming),
        }
    }

    /// The same, to be kept while the tree goes on.
    pub(crate) fn keep(&self) -> Kept {
        Kept {
            node: Arc::clone(self.node),
            renaming: self.renaming.clone(),
        }
    }
}

/// A node and its subtree as it was seen, kept.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    node: Arc<Node>,
    renaming: Option<Arc<Renaming>>,
}

impl Kept {
    pub(crate) fn seen(&self) -> NodeRef<'_> {
        NodeRef::new(&self.node, self.renaming.clone())
    }

    pub(crate) fn value(&self) -> &[u8] {
        &self.node.value
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
    Node(NodeRef<'a>),
    /// Nothing; its nearest ancestor that exists, and how many nodes would have to be made.
    Missing {
        nearest: NodeRef<'a>,
        missing: usize,
    },
}

impl Tree {
    pub(crate) fn new(root: Node) -> Self {
        Self {
            root: Arc::new(root),
        }
    }

    pub(crate) fn root(&self) -> NodeRef<'_> {
        NodeRef::new(&self.root, None)
    }

    /// Whether both are one snapshot.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root)
    }

    /// What its nodes cost, by a walk through all of them.
    pub(crate) fn accounts(&self) -> Accounts {
        let mut counted = Accounts::default();
        for (name, node) in nodes("", self.root()) {
            let (owner, usage) = node.cost(name);
            counted.add(owner, usage);
        }
        counted
    }

    pub(crate) fn find(&self, path: &str) -> Found<'_> {
        let mut nearest = self.root();
        let mut names = components(path);
        while let Some(name) = names.next() {
            match nearest.child(name) {
                Some(child) => nearest = child,
                None => {
                    let missing = 1 + names.count();
                    return Found::Missing { nearest, missing };
                }
            }
        }
        Found::Node(nearest)
    }

    pub(crate) fn get(&self, path: &str) -> Option<NodeRef<'_>> {
        match self.find(path) {
            Found::Node(node) => Some(node),
            Found::Missing { .. } => None,
        }
    }

    /// The node, made this tree's own together with its ancestors. `mentions` is what it will mention. The caller knows that it
    /// exists; else the ancestors were made this tree's own for nothing.
    pub(super) fn get_mut(&mut self, path: &str, mentions: Mentions) -> Option<&mut Node> {
        let mut node = Arc::make_mut(&mut self.root);
        for name in components(path) {
            node = node.children.get_mut(name, mentions)?;
        }
        Some(node)
    }

    /// Makes the node and its missing ancestors, all with `perms` and `generation`; returns the node.
    pub(super) fn create(
        &mut self,
        path: &str,
        perms: &Arc<Perms>,
        generation: u64,
    ) -> Option<&mut Node> {
        let mentions = Mentions::of(perms);
        let mut node = Arc::make_mut(&mut self.root);
        for name in components(path) {
            if node.children.get(name, None).is_none() {
                node.generation = generation;
                node.children
                    .insert(name, Node::new(Arc::clone(perms), generation));
            }
            node = node.children.get_mut(name, mentions)?;
        }
        Some(node)
    }

    /// Puts a node, with all that is below it, where there is none in a directory that there is.
    pub(super) fn insert(&mut self, path: &str, node: Node) -> Option<()> {
        let (parent, name) = path.rsplit_once('/')?;
        let parent = self.get_mut(parent, node.mentions())?;
        parent.generation = node.generation;
        parent.children.insert(name, node);
        Some(())
    }

    /// Takes a node and its subtree out; returns it.
    pub(super) fn remove(&mut self, path: &str, generation: u64) -> Option<Kept> {
        let (parent, name) = path.rsplit_once('/')?;
        let parent = self.get_mut(parent, Mentions::default())?;
        let removed = parent.children.remove(name)?;
        parent.generation = generation;
        Some(Kept {
            node: removed,
            renaming: None,
        })
    }

    /// Finds out anew what is mentioned below a node.
    pub(super) fn recount_mentions(&mut self, path: &str) {
        if let Some(node) = self.get_mut(path, Mentions::default()) {
            node.children.recount_mentions();
        }
    }
}

/// The node that is at `path` below `top`, and its parent; `None` where there is none, and for `top` itself.
pub(crate) fn descend<'t>(top: &NodeRef<'t>, path: &str) -> Option<(NodeRef<'t>, NodeRef<'t>)> {
    let (mut parent, mut node) = (None, top.clone());
    for name in components(path) {
        let child = node.child(name)?;
        parent = Some(core::mem::replace(&mut node, child));
    }
    Some((parent?, node))
}

/// A node and all below it with their names, without recursion.
pub(crate) fn nodes<'a>(
    name: &'a str,
    top: NodeRef<'a>,
) -> impl Iterator<Item = (&'a str, NodeRef<'a>)> {
    let mut stack = vec![(name, top)];
    core::iter::from_fn(move || {
        let (name, node) = stack.pop()?;
        stack.extend(node.children());
        Some((name, node))
    })
}
