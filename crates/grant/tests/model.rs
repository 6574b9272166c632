//! Random sequences of grants, maps, unmaps and copies against a plain model, and a guest that scribbles while others use it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use cantle_abi::grant_table::{GTF_permit_access, GTF_reading, GTF_readonly, GTF_writing};
use cantle_abi::{DomId, Gfn, GrantRef, SharedMemory};
use cantle_grant::test_utils::calls::Stop;
use cantle_grant::test_utils::{GuestPages, HeapGuest};
use cantle_grant::{
    Access, CopyPiece, GrantMapper, GrantStatus, InProcessMapper, Local, Mapping, TableConfig,
    Tables,
};
use proptest::prelude::*;

const GUEST: DomId = DomId(1);
const FRAMES: u64 = 4;
const GREFS: u32 = 4;

#[derive(Clone, Debug)]
enum Op {
    Grant {
        gref: u32,
        to: u16,
        frame: u64,
        readonly: bool,
    },
    End {
        gref: u32,
    },
    Map {
        by: u16,
        gref: u32,
        write: bool,
    },
    Unmap {
        nth: usize,
    },
    Copy {
        by: u16,
        gref: u32,
        write: bool,
        offset: u16,
        len: u16,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let gref = || 0..GREFS + 1;
    let by = || 2..4u16;
    prop_oneof![
        4 => (0..GREFS, by(), 0..FRAMES + 1, any::<bool>())
            .prop_map(|(gref, to, frame, readonly)| Op::Grant { gref, to, frame, readonly }),
        2 => (0..GREFS).prop_map(|gref| Op::End { gref }),
        5 => (by(), gref(), any::<bool>()).prop_map(|(by, gref, write)| Op::Map { by, gref, write }),
        4 => (0..8usize).prop_map(|nth| Op::Unmap { nth }),
        4 => (by(), gref(), any::<bool>(), 0..4100u16, 0..64u16)
            .prop_map(|(by, gref, write, offset, len)| Op::Copy { by, gref, write, offset, len }),
    ]
}

#[derive(Clone, Copy, Default)]
struct ModelEntry {
    /// Who, which frame, read-only: `None` where nothing is granted.
    grant: Option<(u16, u64, bool)>,
    readers: u32,
    writers: u32,
}

impl ModelEntry {
    fn in_use(&self) -> bool {
        self.readers + self.writers > 0
    }

    fn allows(&self, by: u16, write: bool) -> Result<u64, GrantStatus> {
        match self.grant {
            Some((to, frame, readonly)) if to == by && !(write && readonly) => {
                if frame < FRAMES {
                    Ok(frame)
                } else {
                    Err(GrantStatus::BAD_PAGE)
                }
            }
            _ => Err(GrantStatus::GENERAL_ERROR),
        }
    }

    fn flags(&self) -> u16 {
        let mut flags = match self.grant {
            None => 0,
            Some((.., readonly)) => GTF_permit_access | if readonly { GTF_readonly } else { 0 },
        };
        if self.in_use() {
            flags |= GTF_reading;
        }
        if self.writers > 0 {
            flags |= GTF_writing;
        }
        flags
    }
}

/// A guest with a table of one frame: quick to look through.
fn small_guest(tables: &Arc<Tables>, frames: usize) -> HeapGuest {
    let config = TableConfig {
        initial_frames: 1,
        max_frames: 1,
        max_version: 2,
        ..TableConfig::default()
    };
    HeapGuest::with_config(tables, GUEST, frames, config)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_does_what_the_model_does(ops in prop::collection::vec(op(), 1..200)) {
        let tables = Arc::new(Tables::new());
        let guest = small_guest(&tables, usize::try_from(FRAMES).unwrap());
        let mut model = vec![ModelEntry::default(); 1 + GREFS as usize];
        let mut memory = vec![[0u8; 4096]; usize::try_from(FRAMES).unwrap()];
        let mut live: Vec<(Mapping, usize, bool)> = Vec::new();
        let mut byte = 0u8;
        for op in ops {
            match op {
                Op::Grant { gref, to, frame, readonly } => {
                    // As a kernel: an entry in use is not written.
                    let entry = &mut model[gref as usize];
                    if !entry.in_use() {
                        guest.grant_access(GrantRef(gref), DomId(to), Gfn(frame), readonly);
                        entry.grant = Some((to, frame, readonly));
                    }
                }
                Op::End { gref } => {
                    let entry = &mut model[gref as usize];
                    prop_assert_eq!(guest.end_access(GrantRef(gref)), !entry.in_use());
                    if !entry.in_use() {
                        entry.grant = None;
                    }
                }
                Op::Map { by, gref, write } => {
                    let entry = &mut model[gref as usize];
                    let mapper = InProcessMapper::new(tables.clone(), DomId(by));
                    let access = if write { Access::ReadWrite } else { Access::ReadOnly };
                    match mapper.map(GUEST, GrantRef(gref), access) {
                        Ok(mapping) => {
                            let frame = entry.allows(by, write).expect("the model allows it too");
                            prop_assert_eq!(mapping.as_ptr(), guest.page(Gfn(frame)).as_ptr());
                            if write { entry.writers += 1 } else { entry.readers += 1 }
                            live.push((mapping, gref as usize, write));
                        }
                        Err(status) => prop_assert_eq!(entry.allows(by, write), Err(status)),
                    }
                }
                Op::Unmap { nth } => {
                    if nth < live.len() {
                        let (mapping, gref, write) = live.swap_remove(nth);
                        drop(mapping);
                        let entry = &mut model[gref];
                        if write { entry.writers -= 1 } else { entry.readers -= 1 }
                    }
                }
                Op::Copy { by, gref, write, offset, len } => {
                    let entry = &model[gref as usize];
                    let mapper = InProcessMapper::new(tables.clone(), DomId(by));
                    byte = byte.wrapping_add(1);
                    let mut buffer = vec![byte; len.into()];
                    let local = if write { Local::From(&buffer) } else { Local::Into(&mut buffer) };
                    let status = Err(GrantStatus::EAGAIN);
                    let mut piece = [CopyPiece { granter: GUEST, gref: GrantRef(gref), offset, local, status }];
                    mapper.copy(&mut piece);
                    let status = piece[0].status;
                    let range = usize::from(offset)..usize::from(offset + len);
                    let expected = if len == 0 {
                        Ok(())
                    } else if range.end > 4096 {
                        Err(GrantStatus::BAD_COPY_ARG)
                    } else {
                        entry.allows(by, write).map(|frame| {
                            let page = &mut memory[usize::try_from(frame).unwrap()];
                            if write {
                                page[range].copy_from_slice(&buffer);
                            } else {
                                assert_eq!(buffer, page[range]);
                            }
                        })
                    };
                    prop_assert_eq!(status, expected);
                }
            }
            let mut uses = BTreeMap::new();
            for (gref, entry) in (0u32..).zip(&model).take(GREFS as usize) {
                prop_assert_eq!(guest.entry_flags(GrantRef(gref)), entry.flags());
                if entry.in_use() {
                    uses.insert(gref, entry.readers + entry.writers);
                }
            }
            let mapped = guest.table().mapped();
            let mapped: BTreeMap<_, _> = mapped.iter().map(|one| (one.gref.0, one.uses)).collect();
            prop_assert_eq!(mapped, uses);
        }
        for (n, page) in (0u64..).zip(&memory) {
            prop_assert_eq!(&guest.read(Gfn(n), 0, 4096), page);
        }
    }
}

/// A guest that minds no mark: it rewrites an entry between "frame 0 for domain 2" and "frame 1 for domain 3", always by
/// way of "nothing", while both map and copy as fast as they can. Neither may ever get the other's frame.
#[test]
fn racing_mutator_never_shows_a_page_that_is_not_granted() {
    race(1);
}

/// The same with version 2.
#[test]
fn racing_mutator_of_version_2_never_shows_a_page_that_is_not_granted() {
    race(2);
}

#[expect(clippy::unwrap_used, reason = "the body of two tests")]
fn race(version: u32) {
    let tables = Arc::new(Tables::new());
    let guest = small_guest(&tables, 2);
    guest.table().set_version(version).unwrap();
    let gref = GrantRef(9);
    guest.write(Gfn(0), 0, &[2; 64]);
    guest.write(Gfn(1), 0, &[3; 64]);
    let stop = AtomicBool::new(false);
    let hits = [AtomicU32::new(0), AtomicU32::new(0)];
    let begin = Instant::now();
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            let mut pause = 1u32;
            while !stop.load(Ordering::Relaxed) {
                for (flags, dom, frame) in [(0, 2, 0), (GTF_readonly, 3, 1)] {
                    // `write_entry` clears the flags, then writes the frame, then the new flags.
                    guest.write_entry(gref, GTF_permit_access | flags, DomId(dom), frame);
                    // Now and then long enough for somebody to get through.
                    pause = pause.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    for _ in 0..pause >> 23 {
                        std::hint::spin_loop();
                    }
                }
            }
        });
        let users = [2u16, 3].map(|dom| {
            let mapper = InProcessMapper::new(tables.clone(), DomId(dom));
            let own = guest.page(Gfn(u64::from(dom) - 2));
            let (hits, byte) = (&hits, u8::try_from(dom).unwrap());
            scope.spawn(move || {
                let mut rounds = 0u32;
                let enough = || hits.iter().all(|hits| hits.load(Ordering::Relaxed) > 500);
                while rounds < 20_000 || (!enough() && begin.elapsed().as_secs() < 30) {
                    rounds += 1;
                    let got = if rounds.is_multiple_of(2) {
                        map_once(&mapper, gref, &own)
                    } else {
                        copy_once(&mapper, gref, byte)
                    };
                    hits[usize::from(dom) - 2].fetch_add(u32::from(got), Ordering::Relaxed);
                }
            })
        });
        for user in users {
            user.join().unwrap();
        }
    });
    let hits = hits.map(|hits| hits.load(Ordering::Relaxed));
    assert!(
        hits.iter().all(|hits| *hits > 0),
        "nobody got through: {hits:?}"
    );
    assert_eq!(guest.table().mapped(), []);
    assert_eq!(guest.entry_flags(gref) & (GTF_reading | GTF_writing), 0);
}

/// Maps; what it gets must be the page `own`.
fn map_once(mapper: &InProcessMapper, gref: GrantRef, own: &GuestPages) -> bool {
    let mapping = mapper.map(GUEST, gref, Access::ReadOnly);
    mapping.is_ok_and(|mapping| {
        assert_eq!(mapping.as_ptr(), own.as_ptr(), "another's page");
        true
    })
}

/// Copies; what it gets must be `byte`s.
fn copy_once(mapper: &InProcessMapper, gref: GrantRef, byte: u8) -> bool {
    let mut buffer = [0; 64];
    let mut piece = [CopyPiece {
        granter: GUEST,
        gref,
        offset: 0,
        local: Local::Into(&mut buffer),
        status: Err(GrantStatus::EAGAIN),
    }];
    mapper.copy(&mut piece);
    let done = piece[0].status.is_ok();
    // Refused means untouched.
    assert_eq!(buffer, [if done { byte } else { 0 }; 64], "another's bytes");
    done
}
