//! A tree from a list of its nodes, and nodes set or removed without asking anybody: what a saved state and a journal need.

use std::sync::Arc;

use super::edit::private_to_dom0;
use super::mentions::Mentions;
use super::perms_table::PermsTable;
use super::{Accounts, Book, Captures, Children, Node, NodeRef, Store, Tree};
use crate::Perms;

/// A node that cannot be where it is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misplaced {
    /// Its parent has not been named before it.
    NoParent,
    /// It has been named before.
    Twice,
}

/// A node whose children are still being named.
struct Level {
    node: Node,
    /// The names of the children so far, each with its NUL.
    names: String,
    /// Where the last of them begins.
    last: usize,
    children: Vec<Arc<Node>>,
}

impl Level {
    fn new(node: Node) -> Self {
        Self {
            node,
            names: String::new(),
            last: 0,
            children: Vec::new(),
        }
    }

    /// Whether a name comes after those of all children so far.
    fn is_next(&self, name: &str) -> bool {
        let last = self.names.get(self.last..).unwrap_or_default();
        self.children.is_empty() || last.trim_end_matches('\0') < name
    }

    fn whole(self) -> Node {
        let Self {
            mut node,
            names,
            children,
            ..
        } = self;
        node.children = Children::from_sorted(&names, children);
        node
    }
}

/// Builds a tree from its nodes, parents first.
///
/// Where the nodes come in the order in which [`Tree::preorder`] gives them, each is put in its place once, without a search, and its
/// parent's list is made when it is complete. Any other order works too, by inserting each node by its path.
pub(crate) struct Builder {
    /// From the root down to the node that was named last; empty once the order was left.
    levels: Vec<Level>,
    /// The path of that node; empty for the root.
    path: String,
    /// What there is since the order was left.
    tree: Option<Tree>,
    rooted: bool,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            levels: vec![Level::new(Node::new(private_to_dom0(), 0))],
            path: String::new(),
            tree: None,
            rooted: false,
        }
    }

    /// Adds a node by its absolute path, which is well-formed. The root need not be named.
    pub(crate) fn add(
        &mut self,
        path: &str,
        value: &[u8],
        perms: Arc<Perms>,
        generation: u64,
    ) -> Result<(), Misplaced> {
        let (parent, name) = path.rsplit_once('/').ok_or(Misplaced::NoParent)?;
        let mut node = Node::new(perms, generation);
        node.set_value(value);
        if name.is_empty() {
            return self.set_root(node);
        }
        if self.tree.is_none() && self.come_to(parent, name) {
            self.path.push('/');
            self.path.push_str(name);
            self.levels.push(Level::new(node));
            return Ok(());
        }
        let (levels, deepest) = (&mut self.levels, &mut self.path);
        let tree = self.tree.get_or_insert_with(|| collapse(levels, deepest));
        if tree.get(path).is_some() {
            return Err(Misplaced::Twice);
        }
        let above = tree.get_mut(parent, node.mentions());
        let above = above.ok_or(Misplaced::NoParent)?;
        above.children.insert(name, node);
        Ok(())
    }

    /// The tree. Nodes that nobody has named are not in it, save the root.
    pub(crate) fn finish(mut self) -> Tree {
        match self.tree {
            Some(tree) => tree,
            None => collapse(&mut self.levels, &mut self.path),
        }
    }

    fn set_root(&mut self, root: Node) -> Result<(), Misplaced> {
        if core::mem::replace(&mut self.rooted, true) {
            return Err(Misplaced::Twice);
        }
        let there = match (&mut self.tree, self.levels.first_mut()) {
            (Some(tree), _) => {
                let there = tree.get_mut("/", Mentions::default());
                there.ok_or(Misplaced::NoParent)?
            }
            (None, Some(level)) => &mut level.node,
            (None, None) => return Err(Misplaced::NoParent),
        };
        there.set_value(&root.value);
        there.perms = Arc::clone(&root.perms);
        there.generation = root.generation;
        Ok(())
    }

    /// Closes levels until `parent` is the deepest; whether it is, and `name` comes after its other children.
    fn come_to(&mut self, parent: &str, name: &str) -> bool {
        let below = self.path.strip_prefix(parent);
        if !below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            return false;
        }
        while self.path.len() > parent.len() {
            close(&mut self.levels, &mut self.path);
        }
        self.levels.last().is_some_and(|level| level.is_next(name))
    }
}

/// Puts the deepest node into its parent's list.
fn close(levels: &mut Vec<Level>, path: &mut String) {
    let end = path.rfind('/').unwrap_or(0);
    if let Some(level) = levels.pop()
        && let Some(parent) = levels.last_mut()
    {
        parent.last = parent.names.len();
        parent
            .names
            .push_str(path.get(end + 1..).unwrap_or_default());
        parent.names.push('\0');
        parent.children.push(Arc::new(level.whole()));
    }
    path.truncate(end);
}

/// Closes all levels.
fn collapse(levels: &mut Vec<Level>, path: &mut String) -> Tree {
    while levels.len() > 1 {
        close(levels, path);
    }
    let root = levels.pop().map(Level::whole);
    Tree::new(root.unwrap_or_else(|| Node::new(private_to_dom0(), 0)))
}

impl Tree {
    /// Calls `visit` with each node and its path, parents first and siblings by their names. Without recursion.
    pub(crate) fn preorder<E>(
        &self,
        mut visit: impl FnMut(&str, &NodeRef<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        below(&self.root(), "", &mut visit)
    }

    /// As [`preorder`](Self::preorder), with a node and what is below it; nothing where it is not there.
    pub(crate) fn preorder_from<E>(
        &self,
        path: &str,
        mut visit: impl FnMut(&str, &NodeRef<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.get(path)
            .map_or(Ok(()), |top| below(&top, path, &mut visit))
    }

    /// Makes a node what it is said to be, whoever may do so. Its children stay; ancestors that are missing are made like it.
    pub(super) fn put(&mut self, path: &str, value: &[u8], perms: &Arc<Perms>, generation: u64) {
        if let Some(node) = self.create(path, perms, generation) {
            node.set_value(value);
            node.perms = Arc::clone(perms);
            node.generation = generation;
        }
    }
}

fn below<E>(
    top: &NodeRef<'_>,
    path: &str,
    visit: &mut impl FnMut(&str, &NodeRef<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let shown = if path.is_empty() { "/" } else { path };
    visit(shown, top)?;
    let mut path = if path == "/" {
        String::new()
    } else {
        path.to_owned()
    };
    let mut stack = vec![(path.len(), top.children())];
    while let Some((len, children)) = stack.last_mut() {
        path.truncate(*len);
        let Some((name, child)) = children.next() else {
            stack.pop();
            continue;
        };
        path.push('/');
        path.push_str(name);
        visit(&path, &child)?;
        if child.has_children() {
            stack.push((path.len(), child.children()));
        }
    }
    Ok(())
}

/// How a store was, in case that what is begun cannot be ended.
#[derive(Debug)]
pub(crate) struct Snapshot {
    tree: Tree,
    accounts: Accounts,
}

impl Snapshot {
    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }
}

impl Store {
    /// How it is, at the cost of the number of domains.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            tree: self.tree.clone(),
            accounts: self.book.accounts.clone(),
        }
    }

    /// Puts it back to how it was.
    pub(crate) fn put_back(&mut self, before: Snapshot) {
        self.tree = before.tree;
        self.book.accounts = before.accounts;
    }

    /// A store with this tree, whose nodes have these permissions.
    pub(crate) fn with_tree(
        tree: Tree,
        generation: u64,
        perms: impl IntoIterator<Item = Arc<Perms>>,
    ) -> Self {
        let mut table = PermsTable::default();
        for perms in perms {
            table.shared(perms);
        }
        Self {
            book: Book {
                accounts: tree.accounts(),
                generation,
                perms: table,
                ..Book::default()
            },
            tree,
            captures: Captures::default(),
        }
    }

    /// The tree with some nodes set, or removed where nothing is said of them.
    pub(crate) fn tree_with<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a str, &'a [u8], Option<Perms>)>,
    ) -> Tree {
        let mut tree = self.tree.clone();
        let generation = self.book.generation;
        for (path, value, perms) in changes {
            match perms {
                Some(perms) => {
                    let perms = self.book.perms.shared(Arc::new(perms));
                    tree.put(path, value, &perms, generation);
                }
                None => drop(tree.remove(path, generation)),
            }
        }
        tree
    }

    /// Makes a node what it is said to be, whoever may do so. What it costs is not counted before [`recount`](Self::recount).
    pub(crate) fn put(&mut self, path: &str, value: &[u8], perms: Perms) {
        let perms = self.book.perms.shared(Arc::new(perms));
        self.tree.put(path, value, &perms, self.book.generation);
    }

    /// Removes a node and what is below it, if it is there; as [`put`](Self::put).
    pub(crate) fn cut(&mut self, path: &str) {
        self.tree.remove(path, self.book.generation);
    }

    /// Counts anew what everybody's nodes cost.
    pub(crate) fn recount(&mut self) {
        self.book.accounts = self.tree.accounts();
    }

    /// The number that the last change got.
    pub(crate) fn generation(&self) -> u64 {
        self.book.generation
    }

    /// The next change's number is the one after this.
    pub(crate) fn rewind(&mut self, generation: u64) {
        self.book.generation = generation;
    }

    /// The next change's number will be greater.
    pub(crate) fn set_generation(&mut self, generation: u64) {
        self.book.generation = self.book.generation.max(generation);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Access;
    use cantle_abi::DomId;

    type Listed = Vec<(String, Vec<u8>, DomId, u64)>;

    fn listed(tree: &Tree) -> Listed {
        let mut list = Vec::new();
        let done: Result<(), ()> = tree.preorder(|path, node| {
            let value = node.value().to_vec();
            list.push((
                path.to_owned(),
                value,
                node.perms().owner,
                node.generation(),
            ));
            Ok(())
        });
        done.unwrap();
        list
    }

    fn add(
        builder: &mut Builder,
        (path, value, owner, generation): &(String, Vec<u8>, DomId, u64),
    ) -> Result<(), Misplaced> {
        let perms = Arc::new(Perms::new(*owner, Access::None));
        builder.add(path, value, perms, *generation)
    }

    proptest! {
        #[test]
        fn a_tree_is_built_from_its_list_in_any_order_of_siblings(
            paths in prop::collection::vec("(/[a-c]{1,2}){1,4}", 0..150), seed in any::<usize>(), breadth in any::<bool>(),
        ) {
            let mut tree = Tree::new(Node::new(private_to_dom0(), 7));
            for (generation, path) in (8..).zip(&paths) {
                let owner = Arc::new(Perms::new(DomId((generation % 3) as u16), Access::None));
                tree.put(path, generation.to_string().as_bytes(), &owner, generation);
            }
            let mut list = listed(&tree);
            if breadth {
                // Parents first still, but in no order that the builder would like.
                list.sort_by_key(|(path, ..)| (path.matches('/').count(), path.len().wrapping_mul(seed)));
                let root = list.iter().position(|(path, ..)| path == "/").unwrap();
                list.swap(0, root);
                list[1..].sort_by_key(|(path, ..)| path.matches('/').count());
            }
            let mut builder = Builder::new();
            for node in &list {
                prop_assert_eq!(add(&mut builder, node), Ok(()));
            }
            if let Some(last) = list.last() {
                prop_assert_eq!(add(&mut builder, last), Err(Misplaced::Twice));
            }
            let orphan = ("/nobody/x".to_owned(), Vec::new(), DomId::DOM0, 0);
            prop_assert_eq!(add(&mut builder, &orphan), Err(Misplaced::NoParent));
            prop_assert_eq!(listed(&builder.finish()), listed(&tree));
        }
    }
}
