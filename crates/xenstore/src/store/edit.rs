//! The four edits.

use std::collections::HashMap;
use std::sync::Arc;

use cantle_abi::{DomId, Errno};

use super::{Actor, Delta, Found, Node, Tree, nodes};
use crate::limits::Limits;
use crate::path::components;
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
    pub(crate) removed: Option<Arc<Node>>,
}

/// A tree that is being changed, with what the changes cost whom.
pub(crate) struct View<'a> {
    pub(crate) tree: &'a mut Tree,
    /// Nodes by owner, without `delta`.
    pub(crate) owned: &'a HashMap<DomId, i64>,
    pub(crate) delta: &'a mut Delta,
    pub(crate) generation: &'a mut u64,
    pub(crate) limits: &'a Limits,
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

    fn write(&mut self, actor: Actor, path: &str, value: &Arc<[u8]>) -> Result<Change, Errno> {
        let (nearest, missing) = match self.tree.find(path) {
            Found::Node(node) => (node, 0),
            Found::Missing { nearest, missing } => (nearest, missing),
        };
        if !actor.may_write(&nearest.perms) {
            return Err(Errno::EACCES);
        }
        let perms = Arc::clone(&nearest.perms);
        self.check_size(actor, &perms, value.len())?;
        if missing > 0 {
            return self.create(actor, path, missing, &perms, value);
        }
        let generation = self.next_generation();
        let node = self.tree.get_mut(path).ok_or(Errno::EIO)?;
        node.value = Arc::clone(value);
        node.generation = generation;
        Ok(Change {
            path: path.into(),
            before: Some(Arc::clone(&perms)),
            after: Some(perms),
            parent: None,
            removed: None,
        })
    }

    fn mkdir(&mut self, actor: Actor, path: &str) -> Result<Option<Change>, Errno> {
        let (nearest, missing) = match self.tree.find(path) {
            Found::Node(node) => (node, 0),
            Found::Missing { nearest, missing } => (nearest, missing),
        };
        if !actor.may_write(&nearest.perms) {
            return Err(Errno::EACCES);
        }
        if missing == 0 {
            return Ok(None);
        }
        let perms = Arc::clone(&nearest.perms);
        self.create(actor, path, missing, &perms, &Arc::default())
            .map(Some)
    }

    /// Makes `missing` nodes that end in `path`. They inherit the permissions of the ancestor above them, but what an
    /// unprivileged domain makes is its own.
    fn create(
        &mut self,
        actor: Actor,
        path: &str,
        missing: usize,
        inherited: &Arc<Perms>,
        value: &Arc<[u8]>,
    ) -> Result<Change, Errno> {
        let perms = if actor.privileged || inherited.owner == actor.domid {
            Arc::clone(inherited)
        } else {
            Arc::new(Perms {
                owner: actor.domid,
                ..Perms::clone(inherited)
            })
        };
        let made = i64::try_from(missing).map_err(|_| Errno::ENOSPC)?;
        if !actor.privileged {
            let depth = components(path).count();
            let nodes = self.count(actor.domid).saturating_add(made);
            if depth > self.limits.path_depth || nodes > i64::from(self.limits.nodes) {
                return Err(Errno::ENOSPC);
            }
        }
        let generation = self.next_generation();
        let node = self
            .tree
            .create(path, &perms, generation)
            .ok_or(Errno::EIO)?;
        node.value = Arc::clone(value);
        self.charge(perms.owner, made);
        Ok(Change {
            path: path.into(),
            before: None,
            parent: Some(Arc::clone(if missing == 1 { inherited } else { &perms })),
            after: Some(perms),
            removed: None,
        })
    }

    fn rm(&mut self, actor: Actor, path: &str) -> Result<Option<Change>, Errno> {
        let perms = match self.tree.find(path) {
            Found::Node(node) => Arc::clone(&node.perms),
            Found::Missing { nearest, .. } if !actor.may_write(&nearest.perms) => {
                return Err(Errno::EACCES);
            }
            Found::Missing { missing: 1, .. } => return Ok(None),
            Found::Missing { .. } => return Err(Errno::ENOENT),
        };
        if path == "/" {
            return Err(Errno::EINVAL);
        }
        if !actor.may_write(&perms) {
            return Err(Errno::EACCES);
        }
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let parent = self
            .tree
            .get(parent)
            .map(|parent| Arc::clone(&parent.perms));
        let generation = self.next_generation();
        let removed = self.tree.remove(path, generation).ok_or(Errno::EIO)?;
        for node in nodes(&removed) {
            self.charge(node.perms.owner, -1);
        }
        Ok(Some(Change {
            path: path.into(),
            before: Some(perms),
            after: None,
            parent,
            removed: Some(removed),
        }))
    }

    fn set_perms(&mut self, actor: Actor, path: &str, perms: &Arc<Perms>) -> Result<Change, Errno> {
        let before = match self.tree.find(path) {
            Found::Node(node) => Arc::clone(&node.perms),
            Found::Missing { nearest, .. } if actor.may_write(&nearest.perms) => {
                return Err(Errno::ENOENT);
            }
            Found::Missing { .. } => return Err(Errno::EACCES),
        };
        if !actor.owns(&before) {
            return Err(Errno::EACCES);
        }
        if !actor.privileged {
            // To give a node away would be to make another pay for it.
            if perms.owner != before.owner {
                return Err(Errno::EPERM);
            }
            if 1 + perms.listed.len() > self.limits.perms_per_node {
                return Err(Errno::ENOSPC);
            }
        }
        let generation = self.next_generation();
        let node = self.tree.get_mut(path).ok_or(Errno::EIO)?;
        node.perms = Arc::clone(perms);
        node.generation = generation;
        if before.owner != perms.owner {
            self.charge(before.owner, -1);
            self.charge(perms.owner, 1);
        }
        Ok(Change {
            path: path.into(),
            before: Some(before),
            after: Some(Arc::clone(perms)),
            parent: None,
            removed: None,
        })
    }

    fn check_size(&self, actor: Actor, perms: &Perms, value: usize) -> Result<(), Errno> {
        let size = value + 4 * (1 + perms.listed.len());
        if actor.privileged || size <= self.limits.node_bytes {
            Ok(())
        } else {
            Err(Errno::ENOSPC)
        }
    }

    fn count(&self, domain: DomId) -> i64 {
        let owned = self.owned.get(&domain).copied().unwrap_or(0);
        owned + self.delta.get(&domain).copied().unwrap_or(0)
    }

    fn charge(&mut self, domain: DomId, nodes: i64) {
        *self.delta.entry(domain).or_default() += nodes;
    }

    fn next_generation(&mut self) -> u64 {
        *self.generation += 1;
        *self.generation
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
}

/// What dom0 alone may see.
pub(super) fn private_to_dom0() -> Arc<Perms> {
    Arc::new(Perms::new(DomId::DOM0, Access::None))
}
