//! The server and the map, side by side.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cantle_abi::io::xs_wire::{
    XS_CONTROL, XS_DIRECTORY, XS_GET_PERMS, XS_MKDIR, XS_READ, XS_RM, XS_SET_PERMS,
    XS_TRANSACTION_END, XS_TRANSACTION_START, XS_UNWATCH, XS_WATCH, XS_WRITE, XsType,
};
use cantle_abi::{DomId, Errno};
use cantle_xenstore::server::ConnId;
use cantle_xenstore::{Limits, Perms, Server, TxId};
use proptest::prelude::*;

use crate::map::{Answer, Counts, Entry, Event, Map, Op, Quota, Who};

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Alone(usize, Op),
    Within(usize, usize, Op),
    Start(usize),
    End(usize, usize, bool),
    /// With a depth, or without one.
    Watch(usize, String, Option<u8>),
    Unwatch(usize, String),
    Die(u16),
    /// All clients take the events that wait.
    Hear,
}

struct Open {
    tx: TxId,
    map: Map,
    /// What it made and removed, by owner.
    delta: Counts,
    log: Vec<(Op, Answer)>,
    /// It gives something to a domain that has died.
    doomed: bool,
}

struct Conn {
    id: ConnId,
    who: Who,
    open: Vec<Open>,
    /// By path; the number of levels below that are told.
    watches: BTreeMap<String, Option<u8>>,
}

pub(crate) struct World {
    server: Server,
    /// The events that wait, and that nobody has taken.
    waiting: BTreeMap<Told, u32>,
    map: Map,
    conns: Vec<Conn>,
    quota: Quota,
    limits: Limits,
}

/// Connection, path, token.
type Told = (usize, String, String);
/// What happens at once tells each of them once.
type Tells = BTreeSet<Told>;

impl World {
    /// `stub`: domain 1 works for domain 2.
    pub(crate) fn new(open_root: bool, stub: bool) -> Self {
        let limits = Limits {
            nodes: 6,
            node_bytes: 14,
            perms_per_node: 2,
            watches: 3,
            transactions: 3,
            ..Limits::DEFAULT
        };
        let mut server = Server::with_limits(limits.clone());
        let mut nodes = BTreeMap::new();
        let private = Perms::parse(b"n0\0").unwrap();
        for path in ["/", "/local", "/local/domain", "/tool", "/tool/xenstored"] {
            let entry = Entry {
                value: Vec::new(),
                perms: private.clone(),
            };
            nodes.insert(path.to_owned(), entry);
        }
        for domain in 1..3 {
            server.introduce(DomId(domain)).unwrap();
        }
        if stub {
            server.target(DomId(1), DomId(2)).unwrap();
        }
        let conns = [0, 1, 2, 1].map(|domain| Conn {
            id: server.connect(DomId(domain), domain == 0),
            who: Who {
                domid: DomId(domain),
                target: (stub && domain == 1).then_some(DomId(2)),
            },
            open: Vec::new(),
            watches: BTreeMap::new(),
        });
        let mut world = Self {
            server,
            waiting: BTreeMap::new(),
            map: Map { nodes },
            conns: conns.into(),
            quota: Quota {
                nodes: i64::from(limits.nodes),
                node_bytes: limits.node_bytes as usize,
                perms: limits.perms_per_node as usize,
            },
            limits,
        };
        if open_root {
            world
                .step(&Step::Alone(
                    0,
                    Op::SetPerms("/".to_owned(), "b0\0".to_owned()),
                ))
                .unwrap();
        }
        world
    }

    pub(crate) fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let mut expected = Tells::new();
        match step {
            Step::Alone(conn, op) => {
                let answer = self.ask(*conn, TxId::NONE, op);
                let used = self.map.counts();
                let (wanted, events) = self.map.run(self.conns[*conn].who, op, &used, &self.quota);
                prop_assert_eq!(answer, wanted, "{:?}", step);
                self.announce(&events, &mut expected);
            }
            Step::Within(conn, tx, op) => self.within(*conn, *tx, op)?,
            Step::Start(conn) => self.start(*conn)?,
            Step::End(conn, tx, commit) => self.end(*conn, *tx, *commit, &mut expected)?,
            Step::Watch(conn, path, depth) => self.watch(*conn, path, *depth, &mut expected)?,
            Step::Unwatch(conn, path) => {
                let payload = watch_payload(path);
                let id = self.conns[*conn].id;
                let answer = self.server.request(id, XS_UNWATCH, TxId::NONE, &payload);
                let known = self.conns[*conn].watches.remove(path);
                prop_assert_eq!(answer.is_ok(), known.is_some());
                // What it had to tell is of no interest any more.
                self.waiting
                    .retain(|(number, _, token), _| (*number, token) != (*conn, path));
            }
            Step::Die(domain) => self.die(DomId(*domain), &mut expected)?,
            Step::Hear => self.hear()?,
        }
        for told in expected {
            *self.waiting.entry(told).or_default() += 1;
        }
        Ok(())
    }

    /// Everybody is told what happened, each time that it happened, and nothing else.
    fn hear(&mut self) -> Result<(), TestCaseError> {
        let mut told = BTreeMap::new();
        for (number, conn) in self.conns.iter().enumerate() {
            while let Some(event) = self.server.take_event(conn.id) {
                *told.entry((number, event.path, event.token)).or_default() += 1;
            }
        }
        prop_assert_eq!(told, core::mem::take(&mut self.waiting));
        Ok(())
    }

    /// The server's own accounts hold, and what it has is what the map has.
    pub(crate) fn finish(&mut self) -> Result<(), TestCaseError> {
        self.hear()?;
        let dom0 = self.server.connect(DomId::DOM0, true);
        let verdict = self
            .server
            .request(dom0, XS_CONTROL, TxId::NONE, b"check\0");
        prop_assert_eq!(verdict, Ok(b"OK\0".to_vec()));
        for (path, entry) in &self.map.nodes {
            let payload = [path.as_bytes(), b"\0"].concat();
            let value = self.server.request(dom0, XS_READ, TxId::NONE, &payload);
            prop_assert_eq!(value.as_ref(), Ok(&entry.value), "{}", path);
            let perms = self
                .server
                .request(dom0, XS_GET_PERMS, TxId::NONE, &payload);
            prop_assert_eq!(perms, Ok(entry.perms.emit()), "{}", path);
            let list = self
                .server
                .request(dom0, XS_DIRECTORY, TxId::NONE, &payload)
                .unwrap();
            let count = list.iter().filter(|byte| **byte == 0).count();
            let prefix = if path == "/" {
                "/".to_owned()
            } else {
                format!("{path}/")
            };
            let wanted = self
                .map
                .nodes
                .keys()
                .filter(|other| {
                    other
                        .strip_prefix(&prefix)
                        .is_some_and(|name| !name.is_empty() && !name.contains('/'))
                })
                .count();
            prop_assert_eq!(count, wanted, "{}", path);
        }
        Ok(())
    }

    fn ask(&mut self, conn: usize, tx: TxId, op: &Op) -> Answer {
        let (kind, payload): (XsType, Vec<u8>) = match op {
            Op::Read(path) => (XS_READ, [path.as_bytes(), b"\0"].concat()),
            Op::Write(path, value) => (
                XS_WRITE,
                [path.as_bytes(), b"\0", value.as_bytes()].concat(),
            ),
            Op::Mkdir(path) => (XS_MKDIR, [path.as_bytes(), b"\0"].concat()),
            Op::Rm(path) => (XS_RM, [path.as_bytes(), b"\0"].concat()),
            Op::List(path) => (XS_DIRECTORY, [path.as_bytes(), b"\0"].concat()),
            Op::GetPerms(path) => (XS_GET_PERMS, [path.as_bytes(), b"\0"].concat()),
            Op::SetPerms(path, perms) => (
                XS_SET_PERMS,
                [path.as_bytes(), b"\0", perms.as_bytes()].concat(),
            ),
        };
        self.server.request(self.conns[conn].id, kind, tx, &payload)
    }

    fn start(&mut self, conn: usize) -> Result<(), TestCaseError> {
        let who = self.conns[conn].who;
        let open: usize = self
            .conns
            .iter()
            .filter(|other| other.who == who)
            .map(|other| other.open.len())
            .sum();
        let id = self.conns[conn].id;
        match self
            .server
            .request(id, XS_TRANSACTION_START, TxId::NONE, b"\0")
        {
            Ok(reply) => {
                let text = String::from_utf8(reply).unwrap();
                let tx = TxId(text.trim_end_matches('\0').parse().unwrap());
                prop_assert!(self.conns[conn].open.iter().all(|other| other.tx != tx));
                let map = self.map.clone();
                let open = Open {
                    tx,
                    map,
                    delta: Counts::new(),
                    log: Vec::new(),
                    doomed: false,
                };
                self.conns[conn].open.push(open);
            }
            Err(errno) => {
                prop_assert_eq!(errno, Errno::ENOSPC);
                prop_assert!(who.domid != DomId::DOM0 && open >= self.limits.transactions as usize);
            }
        }
        Ok(())
    }

    fn within(&mut self, conn: usize, tx: usize, op: &Op) -> Result<(), TestCaseError> {
        let Some(id) = self.conns[conn].open.get(tx).map(|open| open.tx) else {
            return Ok(());
        };
        let answer = self.ask(conn, id, op);
        let used_now = self.map.counts();
        let Conn { who, open, .. } = &mut self.conns[conn];
        let open = &mut open[tx];
        let used: Counts = [0, 1, 2]
            .map(DomId)
            .map(|domain| {
                let delta = open.delta.get(&domain).copied().unwrap_or(0);
                (domain, used_now.get(&domain).copied().unwrap_or(0) + delta)
            })
            .into();
        let before = open.map.counts();
        let (wanted, _) = open.map.run(*who, op, &used, &self.quota);
        prop_assert_eq!(&answer, &wanted, "in a transaction: {:?}", op);
        for (domain, count) in difference(&open.map.counts(), &before) {
            *open.delta.entry(domain).or_default() += count;
        }
        open.log.push((op.clone(), answer));
        Ok(())
    }

    fn end(
        &mut self,
        conn: usize,
        tx: usize,
        commit: bool,
        expected: &mut Tells,
    ) -> Result<(), TestCaseError> {
        if tx >= self.conns[conn].open.len() {
            return Ok(());
        }
        let open = self.conns[conn].open.remove(tx);
        let verdict: &[u8] = if commit { b"T\0" } else { b"F\0" };
        let id = self.conns[conn].id;
        let answer = self
            .server
            .request(id, XS_TRANSACTION_END, open.tx, verdict);
        if !commit {
            prop_assert_eq!(answer, Ok(b"OK\0".to_vec()));
            return Ok(());
        }
        // Serialisable: as if all of it happened now, every answer as it was.
        let mut map = self.map.clone();
        let mut all = Vec::new();
        let mut explained = !open.doomed;
        for (op, answer) in &open.log {
            let used = map.counts();
            let (now, events) = map.run(self.conns[conn].who, op, &used, &self.quota);
            explained &= now == *answer;
            all.extend(events);
        }
        if explained {
            prop_assert_eq!(
                answer,
                Ok(b"OK\0".to_vec()),
                "refused without reason: {:?}",
                open.log
            );
            let before = std::mem::replace(&mut self.map, map);
            self.announce(&self.map.net(all, &before), expected);
        } else {
            prop_assert_eq!(answer, Err(Errno::EAGAIN), "committed, but: {:?}", open.log);
        }
        Ok(())
    }

    fn watch(
        &mut self,
        conn: usize,
        path: &str,
        depth: Option<u8>,
        expected: &mut Tells,
    ) -> Result<(), TestCaseError> {
        let who = self.conns[conn].who;
        let mine: usize = self
            .conns
            .iter()
            .filter(|other| other.who == who)
            .map(|other| other.watches.len())
            .sum();
        let mut payload = watch_payload(path);
        if let Some(depth) = depth {
            payload.extend(format!("{depth}\0").bytes());
        }
        let id = self.conns[conn].id;
        let answer = self.server.request(id, XS_WATCH, TxId::NONE, &payload);
        if self.conns[conn].watches.contains_key(path) {
            prop_assert_eq!(answer, Err(Errno::EEXIST));
        } else if who.domid != DomId::DOM0 && mine >= self.limits.watches as usize {
            prop_assert_eq!(answer, Err(Errno::E2BIG));
        } else {
            prop_assert_eq!(answer, Ok(b"OK\0".to_vec()));
            self.conns[conn].watches.insert(path.to_owned(), depth);
            expected.insert((conn, path.to_owned(), path.to_owned()));
        }
        Ok(())
    }

    /// The domain dies, and another one of its number is born.
    fn die(&mut self, dead: DomId, expected: &mut Tells) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.server.release(dead), Ok(()));
        let conns = &self.conns;
        self.waiting
            .retain(|(number, ..), _| conns[*number].who.domid != dead);
        for conn in self.conns.iter_mut().filter(|conn| conn.who.domid == dead) {
            prop_assert!(!self.server.is_connected(conn.id));
            conn.id = self.server.connect(dead, false);
            conn.open.clear();
            conn.watches.clear();
        }
        prop_assert_eq!(self.server.introduce(dead), Ok(true));
        for open in self.conns.iter_mut().flat_map(|conn| &mut conn.open) {
            open.doomed |= open.log.iter().any(|(op, _)| match op {
                Op::SetPerms(_, perms) => perms.split('\0').any(|entry| {
                    entry.get(1..).and_then(|digits| digits.parse().ok()) == Some(dead.0)
                }),
                _ => false,
            });
        }
        let events = self.map.die(dead);
        // With its target a stub domain loses that one's rights at once, and has them again of the next of that number.
        let who = self.conns.iter().map(|conn| conn.who).collect::<Vec<_>>();
        for conn in self.conns.iter_mut() {
            conn.who.target = conn.who.target.filter(|target| *target != dead);
        }
        self.announce(&events, expected);
        for (conn, who) in self.conns.iter_mut().zip(who) {
            conn.who = who;
        }
        if let Some(target) = self.conns[1].who.target {
            self.server.target(DomId(1), target).unwrap();
        }
        Ok(())
    }

    fn announce(&self, events: &[Event], expected: &mut Tells) {
        for event in events {
            for (number, conn) in self.conns.iter().enumerate() {
                let known = event.known_by.iter().any(|perms| conn.who.reads(perms));
                for (watch, depth) in conn.watches.iter().filter(|_| known) {
                    let covered = watch == "/" || event.path.starts_with(&format!("{watch}/"));
                    if event.path != *watch && (event.exact || !covered) {
                        continue;
                    }
                    // From below the depth, the nearest ancestor that came at the same time is told.
                    let level = levels(&event.path);
                    let near = depth.map_or(level, |depth| levels(watch) + usize::from(depth));
                    let beyond = level.saturating_sub(near);
                    if beyond == 0 || beyond < event.made {
                        let path = upward(&event.path, beyond);
                        expected.insert((number, path, watch.clone()));
                    }
                }
            }
        }
    }
}

/// The ancestor so many levels above a path.
fn upward(path: &str, by: usize) -> String {
    let mut path = path.to_owned();
    for _ in 0..by {
        path.truncate(path.rfind('/').unwrap());
    }
    path
}

fn levels(path: &str) -> usize {
    path.split('/').filter(|name| !name.is_empty()).count()
}

/// A watch's token is its path.
fn watch_payload(path: &str) -> Vec<u8> {
    [path.as_bytes(), b"\0", path.as_bytes(), b"\0"].concat()
}

fn difference(after: &Counts, before: &Counts) -> HashMap<DomId, i64> {
    let domains: BTreeSet<_> = after
        .keys()
        .chain(before.keys())
        .map(|domain| domain.0)
        .collect();
    domains
        .into_iter()
        .map(DomId)
        .map(|domain| {
            let of = |counts: &Counts| counts.get(&domain).copied().unwrap_or(0);
            (domain, of(after) - of(before))
        })
        .collect()
}
