use std::collections::HashMap;
use std::sync::Arc;

use cantle_abi::Gfn;
use cantle_abi::grant_table::{GTF_reading, GTF_writing};
use cantle_grant::test_utils::HeapGuest;
use cantle_grant::{InProcessMapper, Tables};
use proptest::prelude::*;

use super::*;

const GUEST: DomId = DomId(1);
const READONLY: u16 = XEN_NETIF_CTRLF_GREF_readonly;

struct World {
    guest: HeapGuest,
    mapper: InProcessMapper,
    grants: StaticGrants,
    frame: Gfn,
}

impl World {
    fn new() -> Self {
        let tables = Arc::new(Tables::new());
        let guest = HeapGuest::new(&tables, GUEST, 4);
        Self {
            mapper: InProcessMapper::new(tables, DomId::DOM0),
            grants: StaticGrants::new(),
            frame: guest.alloc_frame(),
            guest,
        }
    }

    fn grant(&self, readonly: bool) -> GrantRef {
        self.guest.grant(DomId::DOM0, self.frame, readonly)
    }

    fn add(&self, list: &[XenNetifGref]) -> Result<(), GrefFault> {
        self.grants.add(&self.mapper, GUEST, list)
    }

    fn get(&self, gref: GrantRef, access: Access) -> Option<Arc<Mapping>> {
        self.grants.lock().get(gref, access)
    }

    fn in_use(&self, gref: GrantRef) -> bool {
        self.guest.entry_flags(gref) & (GTF_reading | GTF_writing) != 0
    }
}

fn entry(gref: GrantRef, flags: u16) -> XenNetifGref {
    let status = 0xffff;
    XenNetifGref {
        gref,
        flags,
        status,
    }
}

#[test]
fn a_page_is_found_as_it_was_mapped() {
    let world = World::new();
    let (both, read) = (world.grant(false), world.grant(true));
    assert!(world.grants.is_empty());
    world.add(&[entry(both, 0), entry(read, READONLY)]).unwrap();
    assert!(!world.grants.is_empty());
    assert_eq!(world.get(both, Access::ReadWrite).unwrap().gref(), both);
    assert_eq!(world.get(both, Access::ReadOnly).unwrap().gref(), both);
    assert_eq!(world.get(read, Access::ReadOnly).unwrap().gref(), read);
    assert!(world.get(read, Access::ReadWrite).is_none());
    assert!(world.get(GrantRef(9999), Access::ReadOnly).is_none());
}

#[test]
fn a_list_with_a_mistake_maps_nothing() {
    let world = World::new();
    let (good, read) = (world.grant(false), world.grant(true));
    let bad = GrantRef(40_000);
    let fault = world.add(&[entry(good, 0), entry(bad, 0)]);
    let status = GrantStatus::BAD_GNTREF;
    assert_eq!(fault, Err(GrefFault::Map { gref: bad, status }));
    let fault = world.add(&[entry(good, 0), entry(read, 0)]);
    assert!(matches!(fault, Err(GrefFault::Map { gref, .. }) if gref == read));
    let flags = READONLY | 2;
    let fault = world.add(&[entry(good, 0), entry(read, flags)]);
    assert_eq!(fault, Err(GrefFault::Flags { gref: read, flags }));
    let fault = world.add(&[entry(good, 0), entry(good, 0)]);
    assert_eq!(fault, Err(GrefFault::Twice(good)));
    assert!(world.grants.is_empty() && !world.in_use(good) && !world.in_use(read));
    world.add(&[entry(good, 0)]).unwrap();
    let fault = world.add(&[entry(read, READONLY), entry(good, 0)]);
    assert_eq!(fault, Err(GrefFault::Twice(good)));
    assert!(world.in_use(good) && !world.in_use(read));
}

#[test]
fn no_more_are_mapped_than_was_said() {
    let world = World::new();
    let grefs: Vec<_> = (0..=512).map(|_| world.grant(false)).collect();
    let list: Vec<_> = grefs.iter().map(|gref| entry(*gref, 0)).collect();
    let full = |mapped, wanted| Err(GrefFault::Full { mapped, wanted });
    assert_eq!(world.add(&list), full(0, 513));
    world.add(&list[..500]).unwrap();
    assert_eq!(world.add(&list[500..]), full(500, 13));
    world.add(&list[500..512]).unwrap();
    assert_eq!(world.add(&list[512..]), full(512, 1));
    world.add(&[]).unwrap();
}

#[test]
fn a_page_that_a_thread_holds_stays_mapped() {
    let world = World::new();
    let (held, other) = (world.grant(false), world.grant(false));
    world.add(&[entry(held, 0), entry(other, 0)]).unwrap();
    let page = world.get(held, Access::ReadWrite).unwrap();
    let mut list = [held, other, other, GrantRef(9999)].map(|gref| entry(gref, 0));
    assert_eq!(world.grants.remove(&mut list), 1);
    // The second time it is there no more; the last never was.
    assert_eq!(list.map(|entry| entry.status), [2, 0, 2, 2]);
    assert!(world.in_use(held) && !world.in_use(other));
    assert!(world.get(held, Access::ReadOnly).is_some());
    drop(page);
    assert_eq!(world.grants.remove(&mut list[..1]), 1);
    assert_eq!(list[0].status, 0);
    assert!(!world.in_use(held) && world.grants.is_empty());
}

/// Pages are unmapped while a queue's thread takes and gives back the same: none that it holds is taken away from it.
#[test]
fn what_is_unmapped_is_never_in_a_threads_hands() {
    let world = World::new();
    let gref = world.grant(false);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        let user = threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if let Some(page) = world.get(gref, Access::ReadWrite) {
                    assert!(world.in_use(gref));
                    drop(page);
                }
            }
        });
        let mut list = [entry(gref, 0)];
        for _ in 0..5_000 {
            world.add(&list).unwrap();
            while world.grants.remove(&mut list) == 0 {
                assert_eq!(list[0].status, XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER);
            }
            assert!(!world.in_use(gref));
        }
        stop.store(true, Ordering::Relaxed);
        user.join().unwrap();
    });
}

#[derive(Clone, Debug)]
enum Step {
    Add(Vec<(usize, u16)>),
    Remove(Vec<usize>),
    Hold(usize),
    Release,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let list = prop::collection::vec(0..8_usize, 0..5);
    let flags = prop_oneof![4 => Just(0), 4 => Just(READONLY), 1 => Just(2)];
    let step = prop_oneof![
        prop::collection::vec((0..8_usize, flags), 0..5).prop_map(Step::Add),
        list.prop_map(Step::Remove),
        (0..8_usize).prop_map(Step::Hold),
        Just(Step::Release),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// Six grants, of which two are read-only, and two grefs that grant nothing, against a map of what is mapped.
    #[test]
    fn it_is_a_map_whose_lists_go_in_whole(steps in steps()) {
        let world = World::new();
        let mut grefs: Vec<_> = (0..6).map(|n| world.grant(n >= 4)).collect();
        grefs.extend([GrantRef(30_000), GrantRef(50_000)]);
        let mut model: HashMap<usize, u16> = HashMap::new();
        let mut held: Vec<Arc<Mapping>> = Vec::new();
        for step in steps {
            match step {
                Step::Add(list) => {
                    let mut next = model.clone();
                    let fits = list.iter().all(|&(n, flags)| {
                        let can = match n {
                            0..4 => flags <= 1,
                            4..6 => flags == 1,
                            _ => false,
                        };
                        can && next.insert(n, flags).is_none()
                    });
                    let list: Vec<_> = list.iter().map(|&(n, flags)| entry(grefs[n], flags)).collect();
                    prop_assert_eq!(world.add(&list).is_ok(), fits);
                    if fits {
                        model = next;
                    }
                }
                Step::Remove(list) => {
                    let mut entries: Vec<_> = list.iter().map(|n| entry(grefs[*n], 0)).collect();
                    let removed = world.grants.remove(&mut entries);
                    let mut expected = 0;
                    for (n, entry) in list.iter().zip(&entries) {
                        let is_held = held.iter().any(|page| page.gref() == grefs[*n]);
                        let can = !is_held && model.remove(n).is_some();
                        expected += u32::from(can);
                        prop_assert_eq!(entry.status, if can { 0 } else { 2 });
                    }
                    prop_assert_eq!(removed, expected);
                }
                Step::Hold(n) => {
                    let writable = model.get(&n) == Some(&0);
                    let page = world.get(grefs[n], Access::ReadWrite);
                    prop_assert_eq!(page.is_some(), writable);
                    let page = world.get(grefs[n], Access::ReadOnly);
                    prop_assert_eq!(page.is_some(), model.contains_key(&n));
                    held.extend(page);
                }
                Step::Release => held.clear(),
            }
            prop_assert_eq!(world.grants.is_empty(), model.is_empty());
            for (n, gref) in grefs.iter().take(6).enumerate() {
                prop_assert_eq!(world.in_use(*gref), model.contains_key(&n));
            }
        }
    }
}
