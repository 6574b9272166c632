//! Grafted subtrees against copies made node by node in a plain map.

use std::collections::BTreeMap;

use cantle_abi::{DomId, Errno};
use proptest::prelude::*;

use super::*;
use crate::quota::Quotas;
use crate::store::{Actor, Edit, Transaction};
use crate::{Access, Limits, Perms};

const DOM0: Actor = Actor {
    domid: DomId::DOM0,
    privileged: true,
    target: None,
};
const HOST: Actor = Actor {
    privileged: false,
    ..DOM0
};

/// Values and permissions by path; the root is the empty one.
type Map = BTreeMap<String, (Vec<u8>, Perms)>;

#[derive(Clone, Debug)]
enum Step {
    Write(String, Vec<u8>),
    Rm(String),
    SetPerms(String, Perms),
    Capture(String),
    Graft(String, usize, Vec<(u16, u16)>),
    Die(u16),
    Begin,
    Within(usize, Box<Step>),
    Commit(usize),
}

/// `t` is a template, the others are where it is put.
fn top() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["/t", "/x", "/y", "/z", "/x/n", "/y/a"]).prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = String> {
    let below = prop::collection::vec(prop::sample::select(vec!["/a", "/b"]), 0..5);
    (top(), below).prop_map(|(top, below)| top + &below.concat())
}

fn perms() -> impl Strategy<Value = Perms> {
    let access = || prop::sample::select(vec![Access::None, Access::Read]);
    let listed = prop::collection::vec((1..6_u16, access()), 0..3);
    (0..6_u16, access(), listed).prop_map(|(owner, others, listed)| Perms {
        owner: DomId(owner),
        others,
        listed: listed
            .into_iter()
            .map(|(domain, access)| (DomId(domain), access))
            .collect(),
    })
}

fn edit() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (path(), prop::collection::vec(any::<u8>(), 0..4))
            .prop_map(|(path, value)| Step::Write(path, value)),
        1 => path().prop_map(Step::Rm),
        1 => top().prop_map(Step::Rm),
        4 => (path(), perms()).prop_map(|(path, perms)| Step::SetPerms(path, perms)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => edit(),
        2 => top().prop_map(Step::Capture),
        1 => path().prop_map(Step::Capture),
        6 => (top(), 0..6_usize, prop::collection::vec((0..6_u16, 0..9_u16), 0..4))
            .prop_map(|(path, which, pairs)| Step::Graft(path, which, pairs)),
        1 => (1..9_u16).prop_map(Step::Die),
        1 => Just(Step::Begin),
        4 => (0..3_usize, edit()).prop_map(|(tx, step)| Step::Within(tx, Box::new(step))),
        1 => (0..3_usize).prop_map(Step::Commit),
    ]
}

/// A captured subtree, its nodes by the paths below it, and the domains that have died since.
type Copied = (Subtree, Map, Vec<DomId>);

struct World {
    store: Store,
    quotas: Quotas,
    map: Map,
    copies: Vec<Copied>,
    /// With what each did.
    open: Vec<(Transaction, Vec<Step>)>,
}

fn below(map: &Map, top: &str) -> Map {
    let within = |path: &str| path == top || path.starts_with(&format!("{top}/"));
    map.iter()
        .filter(|(path, _)| within(path))
        .map(|(path, node)| (path[top.len()..].to_owned(), node.clone()))
        .collect()
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').unwrap().0
}

/// Makes the directories above a path as a privileged domain does.
fn make_above(map: &mut Map, path: &str) -> Perms {
    let mut nearest = path;
    while !map.contains_key(nearest) {
        nearest = parent(nearest);
    }
    let perms = map[nearest].1.clone();
    let mut at = parent(path);
    while !map.contains_key(at) {
        map.insert(at.to_owned(), (Vec::new(), perms.clone()));
        at = parent(at);
    }
    perms
}

fn edit_map(map: &mut Map, step: &Step) {
    match step {
        Step::Write(path, value) if map.contains_key(path) => {
            map.get_mut(path).unwrap().0.clone_from(value);
        }
        Step::Write(path, value) => {
            let perms = make_above(map, path);
            map.insert(path.clone(), (value.clone(), perms));
        }
        Step::Rm(path) => {
            for below in below(map, path).keys() {
                map.remove(&format!("{path}{below}"));
            }
        }
        Step::SetPerms(path, perms) => {
            if let Some(node) = map.get_mut(path) {
                node.1 = perms.clone();
            }
        }
        _ => unreachable!(),
    }
}

fn as_edit(step: &Step) -> (&str, Edit) {
    match step {
        Step::Write(path, value) => (path, Edit::Write(value.as_slice().into())),
        Step::Rm(path) => (path, Edit::Rm),
        Step::SetPerms(path, perms) => (path, Edit::SetPerms(Arc::new(perms.clone()))),
        _ => unreachable!(),
    }
}

fn rename(pairs: &[(u16, u16)], domain: DomId) -> DomId {
    let pair = pairs.iter().find(|(old, _)| *old == domain.0);
    pair.map_or(domain, |(_, new)| DomId(*new))
}

fn die(map: &mut Map, dead: DomId) {
    let owned = |map: &Map, path: &str| map.get(path).is_some_and(|(_, perms)| perms.owner == dead);
    for path in map.keys().cloned().collect::<Vec<_>>() {
        if !path.is_empty() && owned(map, &path) {
            let within = format!("{path}/");
            map.retain(|other, _| *other != path && !other.starts_with(&within));
        }
    }
    if owned(map, "") {
        let private = Perms::new(DomId::DOM0, Access::None);
        map.insert(String::new(), (Vec::new(), private));
    }
    for (_, perms) in map.values_mut() {
        perms.listed.retain(|(domain, _)| *domain != dead);
    }
}

impl World {
    fn new() -> Self {
        let limits = Limits {
            nodes: 100_000,
            ..Limits::DEFAULT
        };
        let mut world = Self {
            store: Store::new(),
            quotas: Quotas::new(limits),
            map: Map::new(),
            copies: Vec::new(),
            open: Vec::new(),
        };
        world.map = seen(&world.store);
        // Four levels, with an owner for each node.
        let mut level = vec!["/t".to_owned()];
        for number in 1..16_u16 {
            let path = level.remove(0);
            level.extend(["/a", "/b"].map(|name| path.clone() + name));
            let owner = Perms::new(DomId(number % 6), Access::None);
            let perms = owner.and(DomId(number * 5 % 6), Access::Read);
            for step in [
                Step::Write(path.clone(), vec![1]),
                Step::SetPerms(path, perms),
            ] {
                world.step(&step).unwrap();
            }
        }
        world.step(&Step::Capture("/t".to_owned())).unwrap();
        world
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let Self {
            store,
            quotas,
            map,
            copies,
            open,
        } = self;
        match step {
            Step::Capture(path) => {
                if let Some(subtree) = store.capture(path) {
                    let copy = below(map, path);
                    prop_assert_eq!(subtree.nodes(), copy.len());
                    copies.push((subtree, copy, Vec::new()));
                } else {
                    prop_assert!(!map.contains_key(path));
                }
            }
            Step::Graft(path, which, pairs) => {
                let Some((subtree, copy, died)) = copies.get(*which) else {
                    return Ok(());
                };
                let to = |domain| rename(pairs, domain);
                let result = quotas.ask(HOST, path, |allowance| {
                    store.graft(path, subtree, to, allowance)
                });
                let expected = if map.contains_key(path) {
                    Err(Errno::EEXIST)
                } else if died.iter().any(|domain| to(*domain) == *domain) {
                    Err(Errno::ENOENT)
                } else {
                    make_above(map, path);
                    for (below, (value, perms)) in copy {
                        let mut perms = perms.clone();
                        perms.owner = to(perms.owner);
                        for (domain, _) in &mut perms.listed {
                            *domain = to(*domain);
                        }
                        map.insert(format!("{path}{below}"), (value.clone(), perms));
                    }
                    Ok(())
                };
                prop_assert_eq!(result.map(drop), expected);
            }
            Step::Die(domain) => {
                let dead = DomId(*domain);
                store.forget(dead);
                for (subtree, _, died) in copies {
                    died.extend(subtree.mentioned().filter(|domain| *domain == dead));
                }
                for (tx, _) in open {
                    tx.forget(dead);
                }
                die(map, dead);
            }
            Step::Begin => open.push((store.begin(), Vec::new())),
            Step::Within(which, step) => {
                if let Some((tx, done)) = open.get_mut(*which) {
                    let (path, edit) = as_edit(step);
                    let result = quotas.ask(DOM0, path, |allowance| {
                        store.edit_in(tx, DOM0, path, edit, allowance)
                    });
                    if result.is_ok() {
                        done.push(Step::clone(step));
                    }
                }
            }
            Step::Commit(which) => {
                if *which < open.len() {
                    let (tx, done) = open.remove(*which);
                    let result =
                        quotas.ask(DOM0, "", |allowance| store.commit(tx, DOM0, allowance));
                    if result.is_ok() {
                        done.iter().for_each(|step| edit_map(map, step));
                    }
                }
            }
            edit => {
                let (path, as_edit) = as_edit(edit);
                let _ = quotas.ask(DOM0, path, |allowance| {
                    store.edit(DOM0, path, &as_edit, allowance)
                });
                edit_map(map, edit);
            }
        }
        prop_assert_eq!(&seen(&self.store), &self.map, "{:?}", step);
        prop_assert_eq!(self.store.audit(), []);
        self.mentions_cover()
    }

    /// What a directory says to be mentioned below it is not less than what is.
    fn mentions_cover(&self) -> Result<(), TestCaseError> {
        for (top, node) in walk(self.store.tree.root(), "") {
            for (path, below) in walk(node.clone(), &top).into_iter().skip(1) {
                let mut domains = mentioned(below.perms());
                let covered = domains.all(|domain| node.mentions_below().may_contain(domain));
                prop_assert!(covered, "{} is not covered by {}", path, top);
            }
        }
        Ok(())
    }
}

/// A node and all below it, with their paths.
fn walk<'a>(top: NodeRef<'a>, path: &str) -> Vec<(String, NodeRef<'a>)> {
    let mut all = vec![(path.to_owned(), top)];
    let mut at = 0;
    while let Some((path, node)) = all.get(at).cloned() {
        let below = node.children();
        all.extend(below.map(|(name, child)| (format!("{path}/{name}"), child)));
        at += 1;
    }
    all
}

fn seen(store: &Store) -> Map {
    walk(store.tree.root(), "")
        .into_iter()
        .map(|(path, node)| (path, (node.value().to_vec(), Perms::clone(node.perms()))))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_graft_is_a_copy(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step)?;
        }
        // What was captured is as it was, whatever became of the original.
        for (subtree, copy, _) in &world.copies {
            let now: Map = walk(subtree.0.top.seen(), "")
                .into_iter()
                .map(|(path, node)| (path, (node.value().to_vec(), Perms::clone(node.perms()))))
                .collect();
            prop_assert_eq!(&now, copy);
        }
    }
}

fn guest_with_home(nodes: usize) -> (Store, Quotas) {
    let (mut store, mut quotas) = (Store::new(), Quotas::new(Limits::DEFAULT));
    let mut edit = |path: &str, edit: Edit| {
        quotas
            .ask(DOM0, path, |allowance| {
                store.edit(DOM0, path, &edit, allowance)
            })
            .unwrap();
    };
    edit("/g/5", Edit::Mkdir);
    let own = Arc::new(Perms::new(DomId(5), Access::None));
    edit("/g/5", Edit::SetPerms(own));
    for number in 1..nodes {
        edit(&format!("/g/5/n{number}"), Edit::Write([1, 2].into()));
    }
    (store, quotas)
}

#[test]
fn the_new_owners_quota_is_asked_and_a_refusal_changes_nothing() {
    let (mut store, mut quotas) = guest_with_home(600);
    let subtree = store.capture("/g/5").unwrap();
    let mut graft = |store: &mut Store, path: &str| {
        quotas
            .ask(HOST, path, |allowance| {
                store.graft(path, &subtree, |_| DomId(7), allowance)
            })
            .map(drop)
    };
    assert_eq!(graft(&mut store, "/g/7"), Ok(()));
    assert_eq!(store.usage_of(DomId(7)), store.usage_of(DomId(5)));
    let before = seen(&store);
    assert_eq!(graft(&mut store, "/x/y/7"), Err(Errno::ENOSPC));
    assert_eq!(seen(&store), before);
    assert_eq!(store.audit(), []);
}

#[test]
fn no_path_becomes_too_long_and_no_other_stores_subtree_is_taken() {
    let (mut store, mut quotas) = guest_with_home(10);
    let subtree = store.capture("/g/5").unwrap();
    let mut graft = |store: &mut Store, path: &str| {
        quotas
            .ask(HOST, path, |allowance| {
                store.graft(path, &subtree, |domain| domain, allowance)
            })
            .map(drop)
    };
    let path = |len: usize| format!("/{}", "x".repeat(len - 1));
    let longest = XENSTORE_ABS_PATH_MAX - "/n1".len();
    assert_eq!(graft(&mut store, &path(longest + 1)), Err(Errno::E2BIG));
    assert_eq!(graft(&mut store, &path(longest)), Ok(()));
    let (mut other, _) = guest_with_home(10);
    assert_eq!(graft(&mut other, "/x"), Err(Errno::EINVAL));
}
