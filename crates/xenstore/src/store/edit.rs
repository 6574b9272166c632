//! The four edits.

use std::sync::Arc;

use cantle_abi::{DomId, Errno};

use super::account::{Usage, of_perms, signed};
use super::mentions::Mentions;
use super::{Accounts, Actor, Book, Found, Kept, Tree, nodes};
use crate::limits::Quota;
use crate::path::components;
use crate::quota::Allowance;
use crate::{Access, Perms};

/// What is to happen at a path.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    /// Set the value; make the node where it is missing.
    Write(Arc<[u8]>),
    /// Make the node where it is missing.
    Mkdir,
    /// Remove the node and what is below it.
    Rm,
    /// Set the permissions.
    SetPerms(Arc<Perms>),
}

/// What happened at a path, as far as watchers may learn of it.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) path: Arc<str>,
    /// The permissions before, where the node existed before.
    pub(crate) before: Option<Arc<Perms>>,
    /// The permissions after, where it exists after.
    pub(crate) after: Option<Arc<Perms>>,
    /// Where the node came or went: its parent's permissions, since whoever may list the parent may see that.
    pub(crate) parent: Option<Arc<Perms>>,
    /// The subtree that is gone.
    pub(crate) removed: Option<Kept>,
    /// How many nodes the change made: the last so many names of the path.
    pub(crate) made: usize,
    /// Nodes that were visited for it beside the one, which makes it more work than another.
    pub(crate) steps: u32,
}

/// A tree that is being changed, with what the changes cost whom.
pub(crate) struct View<'a> {
    pub(crate) tree: &'a mut Tree,
    /// What each domain's nodes cost in it, without `delta`.
    pub(crate) book: &'a mut Book,
    pub(crate) delta: &'a mut Accounts,
    pub(crate) allowance: &'a Allowance<'a>,
}

impl View<'_> {
    /// Applies an edit; `None` where nothing changed. An edit that fails has changed nothing.
    pub(crate) fn edit(
        &mut self,
        actor: Actor,
        path: &str,
        edit: &Edit,
    ) -> Result<Option<Change>, Errno> {
        match edit {
            Edit::Write(value) => self.write(actor, path, value).map(Some),
            Edit::Mkdir => self.mkdir(actor, path),
            Edit::Rm => self.rm(actor, path),
            Edit::SetPerms(perms) => self.set_perms(actor, path, perms).map(Some),
        }
    }

    fn write(&mut self, actor: Actor, path: &str, value: &[u8]) -> Result<Change, Errno> {
        let (nearest, missing) = match self.tree.find(path) {
            Found::Node(node) => (node, 0),
            Found::Missing { nearest, missing } => (nearest, missing),
        };
        if !actor.may_write(nearest.perms()) {
            return Err(Errno::EACCES);
        }
        let perms = Arc::clone(nearest.perms());
        self.allowance
            .allow(Quota::NodeSize, value.len() + 4 * (1 + perms.listed.len()))?;
        if missing > 0 {
            return self.create(actor, path, missing, &perms, value);
        }
        let more = Usage::of_bytes(signed(value.len()) - signed(nearest.value().len()));
        self.afford(perms.owner, more)?;
        let generation = self.next_generation();
        let node = self.tree.get_mut(path, Mentions::default());
        let node = node.ok_or(Errno::EIO)?;
        node.set_value(value);
        node.generation = generation;
        self.delta.add(perms.owner, more);
        Ok(Change {
            path: path.into(),
            before: Some(Arc::clone(&perms)),
            after: Some(perms),
            parent: None,
            removed: None,
            made: 0,
            steps: 0,
        })
    }

    fn mkdir(&mut self, actor: Actor, path: &str) -> Result<Option<Change>, Errno> {
        let (nearest, missing) = match self.tree.find(path) {
            Found::Node(node) => (node, 0),
            Found::Missing { nearest, missing } => (nearest, missing),
        };
        if !actor.may_write(nearest.perms()) {
            return Err(Errno::EACCES);
        }
        if missing == 0 {
            return Ok(None);
        }
        let perms = Arc::clone(nearest.perms());
        self.create(actor, path, missing, &perms, &[]).map(Some)
    }

    /// Makes `missing` nodes that end in `path`. They inherit the permissions of the ancestor above them, but what an
    /// unprivileged domain makes is its own.
    fn create(
        &mut self,
        actor: Actor,
        path: &str,
        missing: usize,
        inherited: &Arc<Perms>,
        value: &[u8],
    ) -> Result<Change, Errno> {
        let perms = if actor.privileged || inherited.owner == actor.domid {
            Arc::clone(inherited)
        } else {
            self.book.perms.shared(Arc::new(Perms {
                owner: actor.domid,
                ..Perms::clone(inherited)
            }))
        };
        self.allowance
            .allow(Quota::PathDepth, components(path).count())?;
        let cost = cost_of_new(path, missing, &perms, value);
        self.afford(perms.owner, cost)?;
        let generation = self.next_generation();
        let node = self
            .tree
            .create(path, &perms, generation)
            .ok_or(Errno::EIO)?;
        node.set_value(value);
        self.delta.add(perms.owner, cost);
        Ok(Change {
            path: path.into(),
            before: None,
            parent: Some(Arc::clone(if missing == 1 { inherited } else { &perms })),
            after: Some(perms),
            removed: None,
            made: missing,
            steps: 0,
        })
    }

    fn rm(&mut self, actor: Actor, path: &str) -> Result<Option<Change>, Errno> {
        let perms = match self.tree.find(path) {
            Found::Node(node) => Arc::clone(node.perms()),
            Found::Missing { nearest, .. } if !actor.may_write(nearest.perms()) => {
                return Err(Errno::EACCES);
            }
            Found::Missing { missing: 1, .. } => return Ok(None),
            Found::Missing { .. } => return Err(Errno::ENOENT),
        };
        if !actor.may_write(&perms) {
            return Err(Errno::EACCES);
        }
        if path == "/" {
            return Err(Errno::EINVAL);
        }
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let parent = self
            .tree
            .get(parent)
            .map(|parent| Arc::clone(parent.perms()));
        let generation = self.next_generation();
        let removed = self.tree.remove(path, generation).ok_or(Errno::EIO)?;
        let name = path.rsplit('/').next().unwrap_or_default();
        let mut steps = 0_u32;
        for (name, node) in nodes(name, removed.seen()) {
            steps = steps.saturating_add(1);
            let (owner, cost) = node.cost(name);
            self.delta.add(owner, cost.negated());
        }
        Ok(Some(Change {
            path: path.into(),
            before: Some(perms),
            after: None,
            parent,
            removed: Some(removed),
            made: 0,
            steps,
        }))
    }

    fn set_perms(&mut self, actor: Actor, path: &str, perms: &Arc<Perms>) -> Result<Change, Errno> {
        let name = path.rsplit('/').next().unwrap_or_default();
        let (before, (_, cost)) = match self.tree.find(path) {
            Found::Node(node) => (Arc::clone(node.perms()), node.cost(name)),
            Found::Missing { nearest, .. } if actor.may_write(nearest.perms()) => {
                return Err(Errno::ENOENT);
            }
            Found::Missing { .. } => return Err(Errno::EACCES),
        };
        if !actor.owns(&before) {
            return Err(Errno::EACCES);
        }
        // To give a node away would be to make another pay for it.
        if !actor.privileged && perms.owner != before.owner {
            return Err(Errno::EPERM);
        }
        self.allowance
            .allow(Quota::Permissions, 1 + perms.listed.len())?;
        // Only a privileged domain changes the owner; nobody is asked then whether he can afford it.
        let more = Usage::of_bytes(of_perms(perms) - of_perms(&before));
        self.afford(perms.owner, more)?;
        let generation = self.next_generation();
        let shared = self.book.perms.shared(Arc::clone(perms));
        let node = self.tree.get_mut(path, Mentions::of(perms));
        let node = node.ok_or(Errno::EIO)?;
        node.perms = shared;
        node.generation = generation;
        self.delta.add(before.owner, cost.negated());
        self.delta.add(perms.owner, cost.plus(more));
        Ok(Change {
            path: path.into(),
            before: Some(before),
            after: Some(Arc::clone(perms)),
            parent: None,
            removed: None,
            made: 0,
            steps: 0,
        })
    }

    /// Whether the owner's quotas allow for so much more. Every edit that makes something grow asks this before it changes
    /// anything. The owner pays, whoever edits; but a privileged domain is not held up by anyone's quota, and what
    /// shrinks is never refused.
    fn afford(&self, owner: DomId, more: Usage) -> Result<(), Errno> {
        let after = self
            .book
            .accounts
            .of(owner)
            .plus(self.delta.of(owner))
            .plus(more);
        self.allowance.afford(
            owner,
            (more.nodes > 0).then_some(after.nodes),
            (more.bytes > 0).then_some(after.bytes),
        )
    }

    fn next_generation(&mut self) -> u64 {
        self.book.generation += 1;
        self.book.generation
    }
}

impl Change {
    /// Whether a watcher may learn of the change: it may read the node as it is or as it was, or it may list the directory
    /// that the node came into or went from.
    pub(crate) fn visible_to(&self, watcher: Actor) -> bool {
        [&self.before, &self.after, &self.parent]
            .into_iter()
            .flatten()
            .any(|perms| watcher.may_read(perms))
    }

    /// What the change at its path comes to from one state to another, both of which others can see; `None` where there is
    /// nothing at the path in either.
    pub(crate) fn net(&self, before: &Tree, after: &Tree) -> Option<Self> {
        let perms = |tree: &Tree, path: &str| tree.get(path).map(|node| Arc::clone(node.perms()));
        let made = match before.find(&self.path) {
            Found::Node(_) => 0,
            Found::Missing { missing, .. } => missing,
        };
        let (was, is) = (perms(before, &self.path), perms(after, &self.path));
        let above = self.path.rsplit_once('/').map_or("", |(above, _)| above);
        let parent = match (&was, &is) {
            (None, None) => return None,
            (Some(_), Some(_)) => None,
            (Some(_), None) => perms(before, above),
            (None, Some(_)) => perms(after, above),
        };
        let removed = self.removed.as_ref().and_then(|_| before.get(&self.path));
        Some(Self {
            path: Arc::clone(&self.path),
            before: was,
            after: is,
            parent,
            removed: removed.map(|node| node.keep()),
            made,
            steps: self.steps,
        })
    }
}

/// The cost of the last `missing` nodes of a path, the last of which has the value.
fn cost_of_new(path: &str, missing: usize, perms: &Perms, value: &[u8]) -> Usage {
    path.rsplit('/')
        .take(missing)
        .map(|name| Usage::of_node(name, 0, perms))
        .fold(Usage::of_bytes(signed(value.len())), Usage::plus)
}

/// What dom0 alone may see.
pub(super) fn private_to_dom0() -> Arc<Perms> {
    Arc::new(Perms::new(DomId::DOM0, Access::None))
}
