//! From which length on it is worth to map a packet's pages instead of copying it out of them: both ways, in batches as the back end makes
//! them, without a ring.

use std::cell::RefCell;

use anyhow::{Context, Result, bail};
use cantle_abi::{GrantRef, PAGE_SIZE};
use cantle_grant::{Access, CopyPiece, GrantMapper, InProcessMapper, Local};
use cantle_netback::test_utils::{FrontOptions, GUEST, NetFront, World};
use cantle_netport::headers::HEADERS_MAX;
use cantle_netport::{Frame, NetPort, Part, PartMut, Tap};

use super::frames::{Kind, Packet};
use crate::measure::Unit;
use crate::private_net::set_up;
use crate::report::Report;
use crate::rounds::{per_second, timed};

/// As in the back end: packets and bytes of a batch.
const PACKETS: usize = 64;
const ARENA: usize = 192 * 1024;
/// Lengths of packets, in KiB.
const LENGTHS: [usize; 7] = [2, 4, 6, 8, 12, 16, 60];

pub(super) fn run(report: &mut Report) -> Result<()> {
    for length in LENGTHS {
        let packet = Packet::of(Kind::Gso, length * 1024)?;
        for (place, name) in [(Place::Tap, "tap"), (Place::Memory, "memory")] {
            let row = format!("netback/map_{length}k_{name}");
            if !report.wants(&row) {
                continue;
            }
            if let Err(error) = contest(report, &row, &packet, place) {
                report.absent(&row, Unit::PerSecond, &format!("{error:#}"));
            }
        }
    }
    Ok(())
}

/// Where packets go.
#[derive(Clone, Copy, Debug)]
enum Place {
    Tap,
    /// Copied on, as by a switch to another guest.
    Memory,
}

fn contest(report: &mut Report, row: &str, packet: &Packet, place: Place) -> Result<()> {
    let world = World::new();
    let front = world.front(&FrontOptions::default());
    let bench = Bench {
        grefs: fill(&front, packet)?,
        mapper: world.mapper(),
        packet,
        arena: vec![0; ARENA],
        out: match place {
            Place::Tap => {
                let tap = Tap::create("ours0")?;
                set_up("ours0")?;
                Out::Tap(Box::new(tap))
            }
            Place::Memory => Out::Memory(vec![0; 1 << 16]),
        },
    };
    let plan = report.plan();
    let count = u32::try_from(bench.batch())?;
    // Both use the same pages, arena and tap, in turns.
    let bench = RefCell::new(bench);
    report.contest(
        row,
        Unit::PerSecond,
        &mut || per_second(plan.slice, count, || timed(|| bench.borrow_mut().map())),
        Some(&mut || per_second(plan.slice, count, || timed(|| bench.borrow_mut().copy()))),
    );
    Ok(())
}

/// Puts the packet into the front end's pages as often as it fits: the pages' grants.
fn fill(front: &NetFront, packet: &Packet) -> Result<Vec<Vec<GrantRef>>> {
    let mut ids = 0..256;
    let mut copies = Vec::new();
    for _ in 0..256 / packet.pages() {
        let mut grefs = Vec::new();
        for chunk in packet.bytes.chunks(PAGE_SIZE) {
            let (page, gref) = front.tx_buffer(ids.next().context("there are 256")?);
            let into = PartMut::shared(page, 0, chunk.len());
            into.context("within the page")?.copy_from(chunk);
            grefs.push(gref);
        }
        copies.push(grefs);
    }
    Ok(copies)
}

enum Out {
    Tap(Box<dyn NetPort>),
    Memory(Vec<u8>),
}

impl Out {
    fn send(&mut self, frames: &mut [Frame<'_>]) -> Result<()> {
        match self {
            Self::Tap(port) => port.send(frames),
            Self::Memory(memory) => {
                for frame in &mut *frames {
                    let mut into = memory.as_mut_slice();
                    for part in frame.parts {
                        let done = part.copy_to(into);
                        into = into.get_mut(done..).unwrap_or_default();
                    }
                    frame.taken = true;
                }
            }
        }
        if frames.iter().any(|frame| !frame.taken) {
            bail!("a frame is not taken");
        }
        Ok(())
    }
}

struct Bench<'a> {
    /// Of each copy of the packet.
    grefs: Vec<Vec<GrantRef>>,
    mapper: InProcessMapper,
    packet: &'a Packet,
    arena: Vec<u8>,
    out: Out,
}

impl Bench<'_> {
    /// Packets of a batch.
    fn batch(&self) -> usize {
        PACKETS
            .min(ARENA / self.packet.bytes.len())
            .min(self.grefs.len())
    }

    fn copy(&mut self) -> Result<()> {
        let (len, batch) = (self.packet.bytes.len(), self.batch());
        // Other pages each time, as a ring's are.
        self.grefs.rotate_left(batch);
        let mut pieces = Vec::new();
        let arena = self.arena.chunks_exact_mut(len);
        for (grefs, own) in self.grefs.iter().take(batch).zip(arena) {
            for (gref, into) in grefs.iter().zip(own.chunks_mut(PAGE_SIZE)) {
                pieces.push(piece(*gref, into));
            }
        }
        self.mapper.copy(&mut pieces);
        check(&pieces)?;
        drop(pieces);
        let arena = self.arena.chunks_exact(len).take(batch);
        let parts: Vec<_> = arena.map(|own| [Part::from(own)]).collect();
        let mut frames: Vec<_> = parts.iter().map(|parts| self.packet.frame(parts)).collect();
        self.out.send(&mut frames)
    }

    fn map(&mut self) -> Result<()> {
        let batch = self.batch();
        self.grefs.rotate_left(batch);
        let mut pieces = Vec::new();
        let (grefs, arena) = (&self.grefs[..batch], &mut self.arena);
        for (grefs, into) in grefs.iter().zip(arena.chunks_exact_mut(HEADERS_MAX)) {
            pieces.push(piece(grefs[0], into));
        }
        self.mapper.copy(&mut pieces);
        check(&pieces)?;
        drop(pieces);
        let wanted: Vec<_> = grefs
            .iter()
            .flatten()
            .map(|gref| (*gref, Access::ReadOnly))
            .collect();
        let mapped = self.mapper.map_all(GUEST, &wanted);
        let (mut parts, mut counts) = (Vec::new(), Vec::new());
        let mut pages = 0..wanted.len();
        for own in self.arena.chunks_exact(HEADERS_MAX).take(batch) {
            parts.push(Part::from(own));
            let mut skip = HEADERS_MAX;
            let chunks = self.packet.bytes.chunks(PAGE_SIZE);
            counts.push(1 + chunks.len());
            for (chunk, page) in chunks.zip(&mut pages) {
                let page = mapped.get(page).map_err(status_error)?;
                let part = Part::shared(page, skip, chunk.len() - skip);
                parts.push(part.context("within the page")?);
                skip = 0;
            }
        }
        let mut rest = parts.as_slice();
        let mut frames = Vec::new();
        for count in counts {
            let (own, after) = rest.split_at(count);
            rest = after;
            frames.push(self.packet.frame(own));
        }
        self.out.send(&mut frames)
    }
}

fn status_error(status: cantle_grant::GrantStatus) -> anyhow::Error {
    anyhow::anyhow!("a page is not mapped: {status:?}")
}

fn piece(gref: GrantRef, into: &mut [u8]) -> CopyPiece<'_> {
    CopyPiece {
        granter: GUEST,
        gref,
        offset: 0,
        local: Local::Into(into),
        status: Ok(()),
    }
}

fn check(pieces: &[CopyPiece<'_>]) -> Result<()> {
    match pieces.iter().find_map(|piece| piece.status.err()) {
        Some(status) => bail!("a page is not copied: {status:?}"),
        None => Ok(()),
    }
}
