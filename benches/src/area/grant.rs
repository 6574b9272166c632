//! Grants: copying by reference, mapping and unmapping.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use cantle_abi::{DomId, GrantRef, PAGE_SIZE};
use cantle_grant::test_utils::HeapGuest;
use cantle_grant::{Access, CopyPiece, GrantMapper, InProcessMapper, Local, Tables};

use crate::measure::Unit;
use crate::report::Report;
use crate::rounds::{per_op, timed};

const HOST: DomId = DomId(0);
const GUEST: DomId = DomId(1);

/// Pages that are copied in turn: together with their targets 512 KiB, so that the second-level cache decides for both sides.
const PAGES: usize = 64;
/// The same, as counts of operations are given.
const OPS: u32 = 64;

pub(super) fn run(report: &mut Report) -> Result<()> {
    let lent = Lent::new();
    copy(report, &lent, "grant/copy_64b", 64, 1);
    copy(report, &lent, "grant/copy_512b", 512, 1);
    copy(report, &lent, "grant/copy_4k", PAGE_SIZE, 1);
    copy(report, &lent, "grant/copy_4k_batch32", PAGE_SIZE, 32);
    map_unmap(report, &lent);
    map_unmap_batch(report, &lent);
    Ok(())
}

/// A guest that has granted pages to the host.
struct Lent {
    /// Keeps the memory and the table.
    _guest: HeapGuest,
    mapper: InProcessMapper,
    grefs: Vec<GrantRef>,
}

impl Lent {
    fn new() -> Self {
        let tables = Arc::new(Tables::new());
        let guest = HeapGuest::new(&tables, GUEST, PAGES);
        let grefs = (0..PAGES)
            .map(|_| guest.grant(HOST, guest.alloc_frame(), false))
            .collect();
        Self {
            mapper: InProcessMapper::new(tables, HOST),
            grefs,
            _guest: guest,
        }
    }
}

/// Copies of `len` bytes out of granted pages, `batch` to a call; nanoseconds a copy. Against `memcpy` of the same bytes.
fn copy(report: &mut Report, lent: &Lent, row: &str, len: usize, batch: usize) {
    let slice = report.plan().slice;
    // Pages on both sides: where source and target lie differently within their cache lines, any copy is slower.
    let [mut own, mut to, mut from] = [0_u8, 0, 1].map(|byte| vec![byte; (PAGES + 1) * PAGE_SIZE]);
    let [own, to, from] = [&mut own, &mut to, &mut from].map(|memory| pages(memory));
    report.contest(
        row,
        Unit::Nanoseconds,
        &mut || {
            per_op(slice, OPS, || {
                let mut pieces: Vec<CopyPiece<'_>> = own
                    .chunks_exact_mut(PAGE_SIZE)
                    .zip(&lent.grefs)
                    .map(|(page, gref)| CopyPiece {
                        granter: GUEST,
                        gref: *gref,
                        offset: 0,
                        local: Local::Into(&mut page[..len]),
                        status: Ok(()),
                    })
                    .collect();
                let took = timed(|| {
                    for batch in pieces.chunks_mut(batch) {
                        lent.mapper.copy(black_box(batch));
                    }
                    Ok(())
                })?;
                ensure!(
                    pieces.iter().all(|piece| piece.status.is_ok()),
                    "a copy is refused"
                );
                Ok(took)
            })
        },
        Some(&mut || {
            per_op(slice, OPS, || {
                timed(|| {
                    let pages = to
                        .chunks_exact_mut(PAGE_SIZE)
                        .zip(from.chunks_exact(PAGE_SIZE));
                    for (to, from) in pages {
                        black_box(&mut to[..len]).copy_from_slice(black_box(&from[..len]));
                    }
                    Ok(())
                })
            })
        }),
    );
}

/// The part of some memory that is whole pages.
fn pages(memory: &mut [u8]) -> &mut [u8] {
    let begin = memory.as_ptr().align_offset(PAGE_SIZE);
    &mut memory[begin..][..PAGES * PAGE_SIZE]
}

/// Mapping a page and giving it back, against the two atomic changes of an entry's flags that this cannot do without.
fn map_unmap(report: &mut Report, lent: &Lent) {
    let slice = report.plan().slice;
    report.contest(
        "grant/map_unmap",
        Unit::Nanoseconds,
        &mut || {
            per_op(slice, OPS, || {
                timed(|| {
                    for gref in &lent.grefs {
                        let mapping = lent.mapper.map(GUEST, *gref, Access::ReadWrite)?;
                        drop(black_box(mapping));
                    }
                    Ok(())
                })
            })
        },
        Some(&mut || marks(slice)),
    );
}

/// The same, 32 pages to a call.
fn map_unmap_batch(report: &mut Report, lent: &Lent) {
    let slice = report.plan().slice;
    let wanted = lent.grefs.iter().map(|gref| (*gref, Access::ReadWrite));
    let wanted: Vec<_> = wanted.collect();
    report.contest(
        "grant/map_unmap_batch32",
        Unit::Nanoseconds,
        &mut || {
            per_op(slice, OPS, || {
                timed(|| {
                    for wanted in wanted.chunks(32) {
                        let pages = lent.mapper.map_all(GUEST, black_box(wanted));
                        ensure!(pages.iter().all(|page| page.is_ok()), "a map is refused");
                        drop(black_box(pages));
                    }
                    Ok(())
                })
            })
        },
        Some(&mut || marks(slice)),
    );
}

/// Two atomic changes of each of as many words.
fn marks(slice: Duration) -> Result<f64> {
    let entries: Vec<AtomicU32> = (0..PAGES).map(|_| AtomicU32::new(1)).collect();
    let change = |entry: &AtomicU32, from, to| {
        entry
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .map_err(|found| anyhow!("an entry is {found}"))
    };
    per_op(slice, OPS, || {
        timed(|| {
            for entry in &entries {
                change(black_box(entry), 1, 3)?;
                change(black_box(entry), 3, 1)?;
            }
            Ok(())
        })
    })
}
