//! The cache of mappings, against a plain list.

use std::sync::Arc;

use cantle_abi::grant_table::{GTF_permit_access, GTF_reading, GTF_writing};
use cantle_abi::{DomId, Gfn, GrantRef, SharedMemory};
use cantle_grant::test_utils::HeapGuest;
use cantle_grant::{Access, CacheStats, GrantStatus, InProcessMapper, PersistentCache, Tables};
use proptest::prelude::*;

const HOST: DomId = DomId(0);
const GREFS: u32 = 6;
const BASE: u32 = 8;

#[derive(Clone, Debug)]
enum Op {
    Map {
        dom: u16,
        gref: u32,
        write: bool,
    },
    Forget {
        dom: u16,
        gref: u32,
    },
    ForgetAll {
        dom: u16,
    },
    /// The domain ends, and its number is used again.
    Renew {
        dom: u16,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let dom = || 1..3u16;
    let gref = || BASE..BASE + GREFS + 1;
    prop_oneof![
        10 => (dom(), gref(), any::<bool>()).prop_map(|(dom, gref, write)| Op::Map { dom, gref, write }),
        2 => (dom(), gref()).prop_map(|(dom, gref)| Op::Forget { dom, gref }),
        1 => dom().prop_map(|dom| Op::ForgetAll { dom }),
        1 => dom().prop_map(|dom| Op::Renew { dom }),
    ]
}

/// Reference `BASE + n` grants frame `n`; the odd ones for reading only, and the last one nothing.
fn guest(tables: &Arc<Tables>, dom: u16) -> HeapGuest {
    let guest = HeapGuest::new(tables, DomId(dom), GREFS as usize);
    for n in 0..GREFS {
        guest.grant_access(GrantRef(BASE + n), HOST, Gfn(n.into()), n % 2 == 1);
    }
    guest
}

/// A page that the model keeps.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Kept {
    dom: u16,
    gref: u32,
    write: bool,
    /// Of a domain that has ended.
    stale: bool,
}

proptest! {
    #[test]
    fn it_keeps_what_a_list_would(limit in 0..6usize, ops in prop::collection::vec(op(), 1..120)) {
        let tables = Arc::new(Tables::new());
        let mapper = InProcessMapper::new(tables.clone(), HOST);
        let mut guests = [guest(&tables, 1), guest(&tables, 2)];
        let mut cache = PersistentCache::new(limit);
        // The least recently used first.
        let mut model: Vec<Kept> = Vec::new();
        let mut stats = CacheStats::default();
        for op in ops {
            match op {
                Op::Map { dom, gref, write } => {
                    let access = if write { Access::ReadWrite } else { Access::ReadOnly };
                    let got = cache.map(&mapper, DomId(dom), GrantRef(gref), access);
                    let n = gref - BASE;
                    let at = model.iter().position(|kept| (kept.dom, kept.gref) == (dom, gref));
                    if let Some(at) = at && model[at].stale {
                        model.remove(at);
                    }
                    let at = model.iter().position(|kept| (kept.dom, kept.gref) == (dom, gref));
                    let allowed = n < GREFS && !(write && n % 2 == 1);
                    match at {
                        Some(at) if !write || model[at].write => {
                            let kept = model.remove(at);
                            model.push(kept);
                            stats.hits += 1;
                            prop_assert!(got.is_ok());
                        }
                        _ if allowed => {
                            stats.misses += 1;
                            if let Some(at) = at {
                                stats.upgrades += 1;
                                model.remove(at);
                            }
                            if limit > 0 {
                                if model.len() == limit {
                                    model.remove(0);
                                    stats.evictions += 1;
                                }
                                model.push(Kept { dom, gref, write, stale: false });
                            }
                        }
                        _ => prop_assert_eq!(got.as_ref().err(), Some(&GrantStatus::GENERAL_ERROR)),
                    }
                    if let Ok(page) = got {
                        let guest = &guests[usize::from(dom) - 1];
                        prop_assert_eq!(page.as_ptr(), guest.page(Gfn(n.into())).as_ptr());
                        prop_assert!(page.access() == Access::ReadWrite || !write);
                    }
                }
                Op::Forget { dom, gref } => {
                    let before = model.len();
                    model.retain(|kept| (kept.dom, kept.gref) != (dom, gref));
                    prop_assert_eq!(cache.forget(DomId(dom), GrantRef(gref)), model.len() < before);
                }
                Op::ForgetAll { dom } => {
                    let before = model.len();
                    model.retain(|kept| kept.dom != dom);
                    prop_assert_eq!(cache.forget_granter(DomId(dom)), before - model.len());
                }
                Op::Renew { dom } => {
                    let index = usize::from(dom) - 1;
                    tables.remove(DomId(dom)).unwrap();
                    guests[index] = guest(&tables, dom);
                    for kept in model.iter_mut().filter(|kept| kept.dom == dom) {
                        kept.stale = true;
                    }
                }
            }
            prop_assert_eq!((cache.len(), cache.stats()), (model.len(), stats));
            // Just what is kept is in use.
            for (dom, guest) in (1u16..).zip(&guests) {
                for n in 0..GREFS {
                    let kept = model.iter().find(|kept| {
                        (kept.dom, kept.gref, kept.stale) == (dom, BASE + n, false)
                    });
                    let marks = match kept {
                        None => 0,
                        Some(kept) if kept.write => GTF_reading | GTF_writing,
                        Some(_) => GTF_reading,
                    };
                    let flags = guest.entry_flags(GrantRef(BASE + n));
                    prop_assert_eq!(flags & (GTF_reading | GTF_writing), marks);
                    prop_assert_eq!(flags & GTF_permit_access, GTF_permit_access);
                }
            }
        }
    }
}

#[test]
fn what_was_dropped_stays_mapped_for_who_has_it() {
    let tables = Arc::new(Tables::new());
    let mapper = InProcessMapper::new(tables.clone(), HOST);
    let guest = guest(&tables, 1);
    let mut cache = PersistentCache::new(1);
    let mut map = |gref| {
        let gref = GrantRef(BASE + gref);
        cache
            .map(&mapper, DomId(1), gref, Access::ReadOnly)
            .unwrap()
    };
    let first = map(0);
    let _second = map(1);
    assert!(!guest.end_access(GrantRef(BASE)));
    drop(first);
    assert!(guest.end_access(GrantRef(BASE)));
}
