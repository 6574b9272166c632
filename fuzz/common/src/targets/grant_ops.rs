//! Maps and copies of one guest's grants by the host, and of both guests' by each other, transfers, swaps and changes of version, while
//! the entries are written over.

use std::collections::VecDeque;
use std::sync::Arc;

use arbitrary::Arbitrary;
use cantle_abi::grant_table::{
    GnttabCacheFlush, GnttabCopy, GnttabCopyPtr, GnttabMapGrantRef, GnttabTransfer,
    GnttabUnmapAndReplace, GnttabUnmapGrantRef,
};
use cantle_abi::{DomId, GrantRef, PAGE_SIZE, SharedMemory};
use cantle_grant::test_utils::{HeapGuest, HeapSpace};
use cantle_grant::{
    Access, CopyPiece, GrantMapper, InProcessMapper, Local, Mapping, TableConfig, Tables,
};

use crate::input::{self, Odd};
use crate::scribble;

#[derive(Arbitrary, Debug)]
enum Action {
    /// A guest writes an entry: flags, who may, which frame.
    Entry(bool, Odd, Odd, Odd, Odd),
    /// An entry that grants one of the guest's frames to the host.
    Grant(bool, Odd, u8, bool),
    EndAccess(bool, Odd),
    Map(Dom, Odd, bool),
    /// The oldest mapping is used and dropped.
    Unmap,
    /// The host writes to a mapped page, or reads from it.
    Use(u8, Odd, u32),
    /// Pieces of one batch.
    Copy(Vec<Piece>),
    /// Both guests' copies, as one list.
    GuestCopy(bool, Vec<(End, End, Odd, Odd)>),
    /// Mapped by the host together, and given back at once.
    MapAll(Dom, Vec<(Odd, bool)>),
    /// A guest maps: whose, which, where, with which flags.
    GuestMap(bool, Dom, Odd, u8, Odd),
    /// The nth mapping that a guest was given, or any handle; where; and what else.
    GuestUnmap(bool, Option<u8>, Odd, u8, Odd, bool),
    Accept(bool, Odd, u8),
    Part(bool, Odd, u8, Odd, Odd),
    Transfer(bool, Dom, Odd, u8),
    Swap(bool, Odd, Odd),
    CacheFlush(Odd, Odd, Odd),
    Paravirtual(bool),
    Grow(bool, Odd),
    SetVersion(bool, Odd),
    Seed(bool, Odd, Odd, Odd),
    End(bool),
}

#[derive(Arbitrary, Debug)]
struct Piece {
    dom: Dom,
    gref: Odd,
    offset: Odd,
    len: Odd,
    into: bool,
}

#[derive(Arbitrary, Debug)]
struct End {
    u: Odd,
    dom: Dom,
    offset: Odd,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Dom {
    Host,
    First,
    Second,
    Myself,
    Other(u16),
}

impl From<Dom> for DomId {
    fn from(dom: Dom) -> Self {
        match dom {
            Dom::Host => HOST,
            Dom::First => Self(1),
            Dom::Second => Self(2),
            Dom::Myself => Self::SELF,
            Dom::Other(number) => Self(number),
        }
    }
}

const HOST: DomId = DomId(0);
const FRAMES: usize = 8;
/// Entries of the table's first frame, which is always there.
const ENTRIES: u32 = 512;
const CONFIG: TableConfig = TableConfig {
    initial_frames: 1,
    max_frames: 2,
    max_version: 2,
    max_maptrack_frames: 1,
};

/// Two guests and the host, with what they have of each other.
struct World {
    tables: Arc<Tables>,
    guests: [HeapGuest; 2],
    spaces: [Arc<HeapSpace>; 2],
    mapper: InProcessMapper,
    mappings: VecDeque<Mapping>,
    /// Handles that the guests were given, and where.
    handles: [Vec<(u32, u64)>; 2],
    buffer: Vec<u8>,
}

/// Runs one input.
///
/// # Panics
///
/// Where a grant stays in use after its last mapping is gone, or a guest has more mappings than it was given handles.
pub fn run(data: &[u8]) {
    let tables = Arc::new(Tables::new());
    let guests = [1, 2].map(|dom| HeapGuest::with_config(&tables, DomId(dom), FRAMES, CONFIG));
    let mut world = World {
        mapper: InProcessMapper::new(tables.clone(), HOST),
        spaces: guests.each_ref().map(HeapGuest::with_space),
        tables,
        guests,
        mappings: VecDeque::new(),
        handles: [const { Vec::new() }; 2],
        buffer: vec![0; 2 * PAGE_SIZE],
    };
    for action in input::actions(data) {
        on(&mut world, &action);
    }
    world.mappings.clear();
    for guest in &world.guests {
        world.tables.remove(guest.dom());
    }
    for (guest, space) in world.guests.iter().zip(&world.spaces) {
        let left = guest.table().mapped();
        assert!(left.is_empty(), "still in use: {left:?}");
        assert_eq!(guest.table().maptracked(), 0);
        // Whatever the guest did to the entries, no use is left in what the host says of them.
        assert_eq!(space.placed(), 0, "still placed");
    }
}

fn on(world: &mut World, action: &Action) {
    let World {
        tables,
        guests,
        spaces,
        mapper,
        mappings,
        handles,
        buffer,
    } = world;
    let guest = |second: &bool| &guests[usize::from(*second)];
    let entry = |gref: &Odd| GrantRef(gref.word() % ENTRIES);
    match action {
        Action::Entry(second, gref, flags, who, frame) => {
            let who = DomId(who.half());
            guest(second).write_entry(entry(gref), flags.half(), who, frame.word());
        }
        Action::Grant(second, gref, frame, readonly) => {
            let frame = cantle_abi::Gfn(u64::from(*frame) % FRAMES as u64);
            guest(second).grant_access(entry(gref), HOST, frame, *readonly);
        }
        Action::EndAccess(second, gref) => {
            let _ = guest(second).end_access(entry(gref));
        }
        Action::Map(dom, gref, writes) => {
            let access = if *writes {
                Access::ReadWrite
            } else {
                Access::ReadOnly
            };
            if mappings.len() < 64 {
                mappings.extend(mapper.map((*dom).into(), GrantRef(gref.word()), access));
            }
        }
        Action::Unmap => {
            if let Some(mapping) = mappings.pop_front() {
                scribble::read_u32(&mapping, PAGE_SIZE - 4);
            }
        }
        Action::Use(which, offset, value) => {
            let count = mappings.len();
            let index = usize::from(*which).checked_rem(count).unwrap_or(0);
            if let Some(mapping) = mappings.get(index) {
                assert_eq!(mapping.len(), PAGE_SIZE);
                scribble::write(mapping, usize::from(offset.half()), &value.to_le_bytes());
            }
        }
        Action::Copy(pieces) => copy(mapper, buffer, pieces),
        Action::GuestCopy(second, list) => guest_copy(tables, guest(second).dom(), list),
        Action::MapAll(dom, wanted) => {
            let access = |writes: &bool| match *writes {
                true => Access::ReadWrite,
                false => Access::ReadOnly,
            };
            let wanted = wanted.iter().take(64);
            let wanted = wanted.map(|(gref, writes)| (GrantRef(gref.word()), access(writes)));
            let wanted: Vec<_> = wanted.collect();
            let pages = mapper.map_all((*dom).into(), &wanted);
            assert_eq!(pages.len(), wanted.len());
            for page in pages.iter().flatten() {
                scribble::read_u32(page, PAGE_SIZE - 4);
            }
        }
        Action::GuestMap(second, dom, gref, at, flags) => {
            let host_addr = place(*at);
            let mut op = GnttabMapGrantRef {
                host_addr,
                flags: flags.word(),
                gref: GrantRef(gref.word()),
                dom: (*dom).into(),
                status: 77,
                handle: u32::MAX,
                dev_bus_addr: 0,
            };
            tables.guest_map(guest(second).dom(), &mut op);
            assert_ne!(op.status, 77, "each map has an outcome");
            if op.status == 0 {
                handles[usize::from(*second)].push((op.handle, host_addr));
            }
        }
        Action::GuestUnmap(second, nth, handle, at, other, replace) => {
            let given = &handles[usize::from(*second)];
            let nth = nth.map(|nth| usize::from(nth).checked_rem(given.len()).unwrap_or(0));
            let (handle, host_addr) = match nth.and_then(|nth| given.get(nth)) {
                Some(given) => *given,
                None => (handle.word(), place(*at)),
            };
            unmap(
                tables,
                guest(second).dom(),
                handle,
                host_addr,
                other.0,
                *replace,
            );
            assert!(guest(second).table().maptracked() <= given.len());
        }
        Action::Accept(second, gref, frame) => {
            let other = guests[usize::from(!*second)].dom();
            let frame = cantle_abi::Gfn(u64::from(*frame) % (FRAMES as u64 + 1));
            guest(second).accept_transfer(entry(gref), other, frame);
        }
        Action::Part(second, gref, frame, start, len) => {
            let frame = cantle_abi::Gfn(u64::from(*frame) % FRAMES as u64);
            let part = (start.half(), len.half());
            guest(second).grant_part(entry(gref), HOST, frame, false, part);
        }
        Action::Transfer(second, dom, gref, frame) => {
            let mut op = GnttabTransfer {
                mfn: u64::from(*frame) % (FRAMES as u64 + 1),
                domid: (*dom).into(),
                pad: 0,
                gref: GrantRef(gref.word()),
                status: 77,
                pad2: [0; 3],
            };
            tables.guest_transfer(guest(second).dom(), &mut op);
            assert_ne!(op.status, 77, "each transfer has an outcome");
        }
        Action::Swap(second, a, b) => {
            let (a, b) = (GrantRef(a.word()), GrantRef(b.word()));
            let _ = guest(second).table().swap(a, b);
        }
        Action::CacheFlush(offset, length, op) => {
            let _ = Tables::guest_cache_flush(&GnttabCacheFlush {
                a: 0,
                offset: offset.half(),
                length: length.half(),
                op: op.word(),
            });
        }
        Action::Paravirtual(second) => spaces[usize::from(*second)].paravirtual(),
        Action::Grow(second, frames) => {
            let _ = guest(second).table().grow(frames.word());
        }
        Action::SetVersion(second, version) => {
            let _ = guest(second).table().set_version(version.word());
        }
        Action::Seed(second, gref, who, frame) => {
            let (gref, who) = (GrantRef(gref.word()), DomId(who.half()));
            let _ = guest(second)
                .table()
                .seed(gref, who, cantle_abi::Gfn(frame.0));
        }
        Action::End(second) => {
            let _ = tables.remove(guest(second).dom());
        }
    }
}

/// Where guests map: a few places beyond their memory, and some in it.
fn place(at: u8) -> u64 {
    (u64::from(at) % (4 * FRAMES as u64)) << 12
}

fn unmap(
    tables: &Tables,
    caller: DomId,
    handle: u32,
    host_addr: u64,
    other_addr: u64,
    replace: bool,
) {
    if replace {
        tables.guest_unmap_and_replace(
            caller,
            &mut GnttabUnmapAndReplace {
                host_addr,
                new_addr: other_addr,
                handle,
                status: 77,
                pad: 0,
            },
        );
    } else {
        tables.guest_unmap(
            caller,
            &mut GnttabUnmapGrantRef {
                host_addr,
                dev_bus_addr: other_addr,
                handle,
                status: 77,
                pad: 0,
            },
        );
    }
}

fn guest_copy(tables: &Tables, caller: DomId, list: &[(End, End, Odd, Odd)]) {
    let pointer = |end: &End| GnttabCopyPtr {
        u: end.u.0,
        domid: end.dom.into(),
        offset: end.offset.half(),
        pad: 0,
    };
    let op = |(source, dest, len, flags): &(End, End, Odd, Odd)| GnttabCopy {
        source: pointer(source),
        dest: pointer(dest),
        len: len.half(),
        flags: flags.half(),
        status: 77,
        pad: 0,
    };
    let mut ops: Vec<_> = list.iter().take(20).map(op).collect();
    tables.guest_copy(caller, &mut ops);
    let undone = ops.iter().any(|op| op.status == 77);
    assert!(!undone, "each copy has an outcome");
}

fn copy(mapper: &InProcessMapper, buffer: &mut [u8], pieces: &[Piece]) {
    for piece in pieces.iter().take(16) {
        let len = usize::from(piece.len.half()).min(buffer.len());
        let local = &mut buffer[..len];
        let mut batch = [CopyPiece {
            granter: piece.dom.into(),
            gref: GrantRef(piece.gref.word()),
            offset: piece.offset.half(),
            local: if piece.into {
                Local::Into(local)
            } else {
                Local::From(local)
            },
            status: Ok(()),
        }];
        mapper.copy(&mut batch);
        let [done] = batch;
        let end = usize::from(piece.offset.half()) + len;
        assert!(
            done.status.is_err() || len == 0 || end <= PAGE_SIZE,
            "a copy of {len} bytes to {end} in a page"
        );
    }
}
