//! The store as a plain map from paths to values and permissions.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cantle_abi::{DomId, Errno};
use cantle_xenstore::{Access, Perms};

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Read(String),
    Write(String, String),
    Mkdir(String),
    Rm(String),
    List(String),
    GetPerms(String),
    SetPerms(String, String),
}

pub(crate) type Answer = Result<Vec<u8>, Errno>;

/// Domain 0 is privileged. A stub domain has its target's rights beside its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) domid: DomId,
    pub(crate) target: Option<DomId>,
}

impl Who {
    fn privileged(self) -> bool {
        self.domid == DomId::DOM0
    }

    fn is(self, domain: DomId) -> bool {
        domain == self.domid || Some(domain) == self.target
    }

    /// What the first entry says that is about it.
    fn access(self, perms: &Perms) -> Access {
        if self.privileged() || self.is(perms.owner) {
            return Access::Both;
        }
        let mut entries = perms.listed.iter();
        entries
            .find(|(domain, _)| self.is(*domain))
            .map_or(perms.others, |(_, access)| *access)
    }

    pub(crate) fn reads(self, perms: &Perms) -> bool {
        matches!(self.access(perms), Access::Read | Access::Both)
    }

    fn writes(self, perms: &Perms) -> bool {
        matches!(self.access(perms), Access::Write | Access::Both)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) value: Vec<u8>,
    pub(crate) perms: Perms,
}

/// A path at which something happened, and the permissions of which any one lets a watcher know.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) path: String,
    pub(crate) known_by: Vec<Perms>,
    /// Only watches on exactly this path are told.
    pub(crate) exact: bool,
    /// How many nodes were made: the path's own and its ancestors from there up.
    pub(crate) made: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Map {
    pub(crate) nodes: BTreeMap<String, Entry>,
}

pub(crate) type Counts = HashMap<DomId, i64>;

pub(crate) struct Quota {
    pub(crate) nodes: i64,
    pub(crate) node_bytes: usize,
    pub(crate) perms: usize,
}

fn parent(path: &str) -> String {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/".to_owned(),
        Some((parent, _)) => parent.to_owned(),
    }
}

fn below(path: &str, top: &str) -> bool {
    path != top && (top == "/" || path.starts_with(&format!("{top}/")))
}

impl Map {
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::new();
        for entry in self.nodes.values() {
            *counts.entry(entry.perms.owner).or_default() += 1;
        }
        counts
    }

    fn nearest(&self, path: &str) -> (String, usize) {
        let mut path = path.to_owned();
        let mut missing = 0;
        while !self.nodes.contains_key(&path) {
            path = parent(&path);
            missing += 1;
        }
        (path, missing)
    }

    fn look(&self, who: Who, path: &str) -> Result<&Entry, Errno> {
        let (nearest, missing) = self.nearest(path);
        let entry = &self.nodes[&nearest];
        match (who.reads(&entry.perms), missing) {
            (true, 0) => Ok(entry),
            (true, _) => Err(Errno::ENOENT),
            (false, _) => Err(Errno::EACCES),
        }
    }

    /// Does one thing; `used` are the nodes that each domain owns.
    pub(crate) fn run(
        &mut self,
        who: Who,
        op: &Op,
        used: &Counts,
        quota: &Quota,
    ) -> (Answer, Vec<Event>) {
        let mut events = Vec::new();
        let answer = self.try_run(who, op, used, quota, &mut events);
        (answer, events)
    }

    fn try_run(
        &mut self,
        who: Who,
        op: &Op,
        used: &Counts,
        quota: &Quota,
        events: &mut Vec<Event>,
    ) -> Answer {
        match op {
            Op::Read(path) => Ok(self.look(who, path)?.value.clone()),
            Op::GetPerms(path) => Ok(self.look(who, path)?.perms.emit()),
            Op::List(path) => {
                self.look(who, path)?;
                let names: BTreeSet<_> = self
                    .nodes
                    .keys()
                    .filter(|other| below(other, path) && parent(other) == *path)
                    .map(|other| other.rsplit_once('/').unwrap().1)
                    .collect();
                Ok(names
                    .iter()
                    .flat_map(|name| [name.as_bytes(), b"\0"].concat())
                    .collect())
            }
            Op::Write(path, value) => self.make(who, path, Some(value), used, quota, events),
            Op::Mkdir(path) => self.make(who, path, None, used, quota, events),
            Op::Rm(path) => self.remove(who, path, events),
            Op::SetPerms(path, perms) => self.set_perms(
                who,
                path,
                &Perms::parse(perms.as_bytes()).unwrap(),
                quota,
                events,
            ),
        }
    }

    fn make(
        &mut self,
        who: Who,
        path: &str,
        value: Option<&str>,
        used: &Counts,
        quota: &Quota,
        events: &mut Vec<Event>,
    ) -> Answer {
        let (nearest, missing) = self.nearest(path);
        let inherited = self.nodes[&nearest].perms.clone();
        if !who.writes(&inherited) {
            return Err(Errno::EACCES);
        }
        let size = value.map_or(0, |value| value.len() + 4 * (1 + inherited.listed.len()));
        if !who.privileged() && size > quota.node_bytes {
            return Err(Errno::ENOSPC);
        }
        if missing == 0 {
            if let Some(value) = value {
                self.nodes.get_mut(path).unwrap().value = value.as_bytes().to_vec();
                events.push(Event {
                    path: path.to_owned(),
                    known_by: vec![inherited],
                    exact: false,
                    made: 0,
                });
            }
            return Ok(b"OK\0".to_vec());
        }
        let mut perms = inherited.clone();
        if !who.privileged() {
            // What a stub domain makes is its own, and so is the cost.
            perms.owner = who.domid;
            let have = used.get(&who.domid).copied().unwrap_or(0);
            if have + i64::try_from(missing).unwrap() > quota.nodes {
                return Err(Errno::ENOSPC);
            }
        }
        let mut at = path.to_owned();
        for _ in 0..missing {
            let value = if at == path {
                value.unwrap_or_default()
            } else {
                ""
            };
            let entry = Entry {
                value: value.as_bytes().to_vec(),
                perms: perms.clone(),
            };
            self.nodes.insert(at.clone(), entry);
            at = parent(&at);
        }
        let above = self.nodes[&parent(path)].perms.clone();
        events.push(Event {
            path: path.to_owned(),
            known_by: vec![perms, above],
            exact: false,
            made: missing,
        });
        Ok(b"OK\0".to_vec())
    }

    fn remove(&mut self, who: Who, path: &str, events: &mut Vec<Event>) -> Answer {
        let (nearest, missing) = self.nearest(path);
        let perms = self.nodes[&nearest].perms.clone();
        match (missing, who.writes(&perms)) {
            (_, false) => return Err(Errno::EACCES),
            (0, true) if path == "/" => return Err(Errno::EINVAL),
            (0, true) => {}
            (1, true) => return Ok(b"OK\0".to_vec()),
            (_, true) => return Err(Errno::ENOENT),
        }
        self.take_out(path, events);
        Ok(b"OK\0".to_vec())
    }

    fn take_out(&mut self, path: &str, events: &mut Vec<Event>) {
        let gone: Vec<_> = self
            .nodes
            .keys()
            .filter(|other| below(other, path))
            .cloned()
            .collect();
        let known_by = |map: &Self, path: &str| {
            let perms = |path: &str| map.nodes[path].perms.clone();
            vec![perms(path), perms(&parent(path))]
        };
        events.push(Event {
            path: path.to_owned(),
            known_by: known_by(self, path),
            exact: false,
            made: 0,
        });
        events.extend(gone.iter().map(|below| Event {
            path: below.clone(),
            known_by: known_by(self, below),
            exact: true,
            made: 0,
        }));
        self.nodes.remove(path);
        for below in gone {
            self.nodes.remove(&below);
        }
    }

    fn set_perms(
        &mut self,
        who: Who,
        path: &str,
        perms: &Perms,
        quota: &Quota,
        events: &mut Vec<Event>,
    ) -> Answer {
        let (nearest, missing) = self.nearest(path);
        let before = self.nodes[&nearest].perms.clone();
        if missing > 0 {
            return Err(if who.writes(&before) {
                Errno::ENOENT
            } else {
                Errno::EACCES
            });
        }
        if !who.privileged() {
            if !who.is(before.owner) {
                return Err(Errno::EACCES);
            }
            if perms.owner != before.owner {
                return Err(Errno::EPERM);
            }
            if 1 + perms.listed.len() > quota.perms {
                return Err(Errno::ENOSPC);
            }
        }
        self.nodes.get_mut(path).unwrap().perms = perms.clone();
        let known_by = vec![before, perms.clone()];
        events.push(Event {
            path: path.to_owned(),
            known_by,
            exact: false,
            made: 0,
        });
        Ok(b"OK\0".to_vec())
    }

    /// What the events of a transaction come to, when this map is what `before` has become: who knew the node as it was or
    /// knows it as it is, or may list where it came or went, is told; what came and went on the way is nothing.
    pub(crate) fn net(&self, events: Vec<Event>, before: &Self) -> Vec<Event> {
        let seen = |event: Event| {
            let was = before.nodes.get(&event.path);
            let is = self.nodes.get(&event.path).filter(|_| !event.exact);
            let above = match (was, is) {
                (Some(_), None) => before.nodes.get(&parent(&event.path)),
                (None, Some(_)) => self.nodes.get(&parent(&event.path)),
                _ => None,
            };
            let known_by = [was, is, above].into_iter().flatten();
            Event {
                known_by: known_by.map(|entry| entry.perms.clone()).collect(),
                ..event
            }
        };
        events.into_iter().map(seen).collect()
    }

    /// A domain is gone.
    pub(crate) fn die(&mut self, dead: DomId) -> Vec<Event> {
        // What it owned goes, with all that is below.
        let mut events = Vec::new();
        let paths: Vec<_> = self.nodes.keys().cloned().collect();
        for path in paths {
            let own = |entry: &Entry| entry.perms.owner == dead;
            if path != "/" && self.nodes.get(&path).is_some_and(own) {
                self.take_out(&path, &mut events);
            }
        }
        for entry in self.nodes.values_mut() {
            if entry.perms.owner == dead {
                entry.perms = Perms::parse(b"n0\0").unwrap();
                entry.value.clear();
            }
            entry.perms.listed.retain(|(listed, _)| *listed != dead);
        }
        events
    }
}
