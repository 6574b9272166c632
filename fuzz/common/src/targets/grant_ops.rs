//! Maps and copies of one guest's grants by the host, and of both guests' by each other, while the entries are written over.

use std::collections::VecDeque;
use std::sync::Arc;

use arbitrary::Arbitrary;
use cantle_abi::grant_table::{GnttabCopy, GnttabCopyPtr};
use cantle_abi::{DomId, GrantRef, PAGE_SIZE, SharedMemory};
use cantle_grant::test_utils::HeapGuest;
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
    GuestCopy(bool, End, End, Odd, Odd),
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

/// Runs one input.
///
/// # Panics
///
/// Where a grant stays in use after its last mapping is gone.
pub fn run(data: &[u8]) {
    let tables = Arc::new(Tables::new());
    let guests = [1, 2].map(|dom| HeapGuest::with_config(&tables, DomId(dom), FRAMES, CONFIG));
    let mapper = InProcessMapper::new(tables.clone(), HOST);
    let mut mappings = VecDeque::new();
    let mut buffer = vec![0; 2 * PAGE_SIZE];
    for action in input::actions(data) {
        on(
            &tables,
            &guests,
            &mapper,
            &mut mappings,
            &mut buffer,
            &action,
        );
    }
    mappings.clear();
    for guest in &guests {
        let left = guest.table().mapped();
        assert!(left.is_empty(), "still in use: {left:?}");
    }
}

fn on(
    tables: &Tables,
    guests: &[HeapGuest; 2],
    mapper: &InProcessMapper,
    mappings: &mut VecDeque<Mapping>,
    buffer: &mut [u8],
    action: &Action,
) {
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
        Action::GuestCopy(second, source, dest, len, flags) => {
            let pointer = |end: &End| GnttabCopyPtr {
                u: end.u.0,
                domid: end.dom.into(),
                offset: end.offset.half(),
                pad: 0,
            };
            let mut op = GnttabCopy {
                source: pointer(source),
                dest: pointer(dest),
                len: len.half(),
                flags: flags.half(),
                status: 77,
                pad: 0,
            };
            tables.guest_copy(guest(second).dom(), std::slice::from_mut(&mut op));
            assert_ne!(op.status, 77, "each copy has an outcome");
        }
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
