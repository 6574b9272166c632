//! Random sequences of what guests do with each other's grants, in both versions, against a plain model.

use std::sync::Arc;

use cantle_abi::grant_table::*;
use cantle_abi::{DomId, Errno, Gfn, GrantRef};
use cantle_grant::test_utils::HeapGuest;
use cantle_grant::{
    CopyPiece, GrantMapper, GrantStatus, GuestSpace, InProcessMapper, Local, TableConfig, Tables,
};
use proptest::prelude::*;

const A: DomId = DomId(1);
const B: DomId = DomId(2);
const FRAMES: usize = 6;
/// The references that are used: from among the toolstack's to beyond them.
const GREFS: std::ops::Range<u32> = 5..11;
const PLACES: u64 = 5;
const CONFIG: TableConfig = TableConfig {
    initial_frames: 1,
    max_frames: 1,
    max_version: 2,
    max_maptrack_frames: 1,
};

/// What the lender `A` and the borrower `B` do.
#[derive(Clone, Debug)]
enum Op {
    Grant {
        gref: u32,
        frame: usize,
        readonly: bool,
        part: Option<(u16, u16)>,
    },
    Accept {
        gref: u32,
        frame: usize,
    },
    End {
        gref: u32,
    },
    Swap {
        a: u32,
        b: u32,
    },
    Version {
        version: u32,
    },
    Map {
        gref: u32,
        at: u64,
        readonly: bool,
    },
    /// The nth handle ever given, at its own place or at another one.
    Unmap {
        nth: usize,
        shift: u64,
    },
    Copy {
        gref: u32,
        offset: u16,
        len: u16,
        write: bool,
    },
    /// `B` gives one of its frames to `A`.
    Transfer {
        frame: usize,
        gref: u32,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let gref = || GREFS;
    let frame = || 0..FRAMES;
    let part = prop::option::weighted(0.3, (0..64u16, 0..64u16));
    prop_oneof![
        5 => (gref(), frame(), any::<bool>(), part)
            .prop_map(|(gref, frame, readonly, part)| Op::Grant { gref, frame, readonly, part }),
        2 => (gref(), frame()).prop_map(|(gref, frame)| Op::Accept { gref, frame }),
        2 => gref().prop_map(|gref| Op::End { gref }),
        2 => (gref(), gref()).prop_map(|(a, b)| Op::Swap { a, b }),
        2 => (1..3u32).prop_map(|version| Op::Version { version }),
        6 => (gref(), 0..PLACES, any::<bool>())
            .prop_map(|(gref, at, readonly)| Op::Map { gref, at, readonly }),
        5 => (0..12usize, 0..2u64).prop_map(|(nth, shift)| Op::Unmap { nth, shift }),
        4 => (gref(), 0..80u16, 1..64u16, any::<bool>())
            .prop_map(|(gref, offset, len, write)| Op::Copy { gref, offset, len, write }),
        2 => (frame(), gref()).prop_map(|(frame, gref)| Op::Transfer { frame, gref }),
    ]
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Kind {
    #[default]
    Nothing,
    Grant {
        frame: usize,
        readonly: bool,
        part: Option<(u16, u16)>,
    },
    Accept {
        frame: usize,
    },
    /// A transfer that was begun, and perhaps done.
    Used,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Entry {
    kind: Kind,
    readers: u32,
    writers: u32,
}

impl Entry {
    fn in_use(&self) -> bool {
        self.readers + self.writers > 0
    }

    fn marks(&self) -> u16 {
        let reading = if self.in_use() { GTF_reading } else { 0 };
        reading | if self.writers > 0 { GTF_writing } else { 0 }
    }
}

struct Held {
    gref: u32,
    at: u64,
    write: bool,
    handle: u32,
    live: bool,
}

fn unmap(tables: &Tables, handle: u32, at: u64) -> i16 {
    let mut op = GnttabUnmapGrantRef {
        host_addr: at,
        dev_bus_addr: 0,
        handle,
        status: 99,
        pad: 0,
    };
    tables.guest_unmap(B, &mut op);
    op.status
}

/// Beyond all memory.
fn address(at: u64) -> u64 {
    0x10_0000 + (at << 12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_does_what_the_model_does(ops in prop::collection::vec(op(), 1..150)) {
        let tables = Arc::new(Tables::new());
        let [a, b] = [A, B].map(|dom| HeapGuest::with_config(&tables, dom, FRAMES, CONFIG));
        let (a_space, _b_space) = (a.with_space(), b.with_space());
        let borrower = InProcessMapper::new(tables.clone(), B);
        let table = a.table();
        let mut version = 1;
        let mut entries = [Entry::default(); 16];
        // Whether the guests have their frames.
        let mut has = [[true; FRAMES]; 2];
        for frame in [4, 5] {
            let gone = a_space.surrender(Gfn(frame), &mut [0; 4096]);
            prop_assert_eq!(gone, Ok(()));
            has[0][usize::try_from(frame).expect("small")] = false;
        }
        let mut held: Vec<Held> = Vec::new();
        for op in ops {
            match op {
                Op::Grant { gref, frame, readonly, part } => {
                    let entry = &mut entries[gref as usize];
                    let part = part.filter(|_| version == 2);
                    if !entry.in_use() {
                        match part {
                            Some(part) => a.grant_part(GrantRef(gref), B, Gfn(frame as u64), readonly, part),
                            None => a.grant_access(GrantRef(gref), B, Gfn(frame as u64), readonly),
                        }
                        entry.kind = Kind::Grant { frame, readonly, part };
                    }
                }
                Op::Accept { gref, frame } => {
                    let entry = &mut entries[gref as usize];
                    if !entry.in_use() {
                        a.accept_transfer(GrantRef(gref), B, Gfn(frame as u64));
                        entry.kind = Kind::Accept { frame };
                    }
                }
                Op::End { gref } => {
                    let entry = &mut entries[gref as usize];
                    // In version 1 the flags of a transfer are those of a use: the guest's kernel knows which it is.
                    if matches!(entry.kind, Kind::Grant { .. }) {
                        prop_assert_eq!(a.end_access(GrantRef(gref)), !entry.in_use());
                        if !entry.in_use() || version == 2 {
                            entry.kind = Kind::Nothing;
                        }
                    }
                }
                Op::Swap { a, b } => {
                    let busy = a != b && (entries[a as usize].in_use() || entries[b as usize].in_use());
                    let expected = if busy { Err(GrantStatus::EAGAIN) } else { Ok(()) };
                    prop_assert_eq!(table.swap(GrantRef(a), GrantRef(b)), expected);
                    if !busy {
                        entries.swap(a as usize, b as usize);
                    }
                }
                Op::Version { version: to } => {
                    let busy = to != version && entries[8..].iter().any(Entry::in_use);
                    let expected = if busy { Err(Errno::EBUSY) } else { Ok(()) };
                    prop_assert_eq!(table.set_version(to), expected);
                    if !busy && to != version {
                        version = to;
                        entries[8..].fill(Entry::default());
                        for entry in &mut entries[..8] {
                            let keeps = match entry.kind {
                                Kind::Grant { part, .. } => part.is_none(),
                                _ => to == 2,
                            };
                            if !keeps {
                                entry.kind = Kind::Nothing;
                            }
                        }
                    }
                    prop_assert_eq!(table.version(), version);
                }
                Op::Map { gref, at, readonly } => {
                    let entry = &mut entries[gref as usize];
                    let flags = GNTMAP_host_map | if readonly { GNTMAP_readonly } else { 0 };
                    let mut op = GnttabMapGrantRef {
                        host_addr: address(at),
                        flags,
                        gref: GrantRef(gref),
                        dom: A,
                        status: 99,
                        handle: u32::MAX,
                        dev_bus_addr: 0,
                    };
                    tables.guest_map(B, &mut op);
                    let free = !held.iter().any(|held| held.live && held.at == at);
                    let expected = match entry.kind {
                        Kind::Grant { frame, readonly: ro, part: None } if readonly || !ro => {
                            match (has[0][frame], free) {
                                (false, _) => GNTST_bad_page,
                                (_, false) => GNTST_general_error,
                                _ => GNTST_okay,
                            }
                        }
                        _ => GNTST_general_error,
                    };
                    prop_assert_eq!(op.status, expected);
                    if expected == GNTST_okay {
                        if readonly { entry.readers += 1 } else { entry.writers += 1 }
                        prop_assert!(held.iter().all(|held| held.handle != op.handle));
                        held.push(Held { gref, at, write: !readonly, handle: op.handle, live: true });
                    }
                }
                Op::Unmap { nth, shift } => {
                    let Some(held) = held.get_mut(nth) else { continue };
                    let status = unmap(&tables, held.handle, address(held.at + shift));
                    let expected = match (held.live, shift) {
                        (false, _) => GNTST_bad_handle,
                        (_, 0) => GNTST_okay,
                        _ => GNTST_general_error,
                    };
                    prop_assert_eq!(status, expected);
                    if expected == GNTST_okay {
                        held.live = false;
                        let entry = &mut entries[held.gref as usize];
                        if held.write { entry.writers -= 1 } else { entry.readers -= 1 }
                    }
                }
                Op::Copy { gref, offset, len, write } => {
                    let mut buffer = vec![7; len.into()];
                    let local = if write { Local::From(&buffer) } else { Local::Into(&mut buffer) };
                    let gref_ = GrantRef(gref);
                    let mut pieces = [CopyPiece { granter: A, gref: gref_, offset, local, status: Ok(()) }];
                    borrower.copy(&mut pieces);
                    let expected = match entries[gref as usize].kind {
                        Kind::Grant { frame, readonly, part } if !(write && readonly) => {
                            let (start, length) = part.unwrap_or((0, 4096));
                            if !has[0][frame] {
                                Err(GrantStatus::BAD_PAGE)
                            } else if offset < start || offset + len > start + length {
                                Err(GrantStatus::GENERAL_ERROR)
                            } else {
                                Ok(())
                            }
                        }
                        _ => Err(GrantStatus::GENERAL_ERROR),
                    };
                    prop_assert_eq!(pieces[0].status, expected);
                }
                Op::Transfer { frame, gref } => {
                    let mut op = GnttabTransfer {
                        mfn: frame as u64,
                        domid: A,
                        pad: 0,
                        gref: GrantRef(gref),
                        status: 99,
                        pad2: [0; 3],
                    };
                    tables.guest_transfer(B, &mut op);
                    let entry = &mut entries[gref as usize];
                    let expected = if !std::mem::take(&mut has[1][frame]) {
                        GNTST_bad_page
                    } else if entry.in_use() {
                        GNTST_general_error
                    } else if let Kind::Accept { frame } = entry.kind {
                        entry.kind = Kind::Used;
                        if std::mem::replace(&mut has[0][frame], true) {
                            GNTST_general_error
                        } else {
                            GNTST_okay
                        }
                    } else {
                        GNTST_general_error
                    };
                    prop_assert_eq!(op.status, expected);
                }
            }
            for gref in GREFS {
                let entry = &entries[gref as usize];
                // Of a transfer the same bits say something else in version 1.
                if matches!(entry.kind, Kind::Nothing | Kind::Grant { .. }) {
                    let marks = a.entry_flags(GrantRef(gref)) & (GTF_reading | GTF_writing);
                    prop_assert_eq!(marks, entry.marks(), "entry {} of version {}", gref, version);
                }
            }
            let live = held.iter().filter(|held| held.live).count();
            prop_assert_eq!(b.table().maptracked(), live);
        }
        let ended = tables.remove(B).expect("it was there");
        prop_assert_eq!(ended.table.maptracked(), 0);
        prop_assert_eq!(table.mapped(), []);
    }
}
