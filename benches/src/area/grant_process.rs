//! Grants in another process: mapping, unmapping and copying through the broker.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, Result};
use cantle_abi::PAGE_SIZE;
use cantle_grant::process::test_utils::BareWindow;

use crate::grant_backend::{Backend, PAGES};
use crate::measure::Unit;
use crate::report::Report;
use crate::rounds::{per_op, timed};

const ROWS: [&str; 4] = [
    "grant/map_process",
    "grant/map_process_1",
    "grant/map_unmap_process",
    "grant/copy_process_4k",
];

pub(super) fn run(report: &mut Report) -> Result<()> {
    let [map, map_one, both, copy] = ROWS;
    let started = Backend::start().and_then(|backend| {
        let window = BareWindow::new(2 * PAGES as usize).context("no userfaultfd")?;
        Ok((backend, window))
    });
    let (mut backend, window) = match started {
        Ok(started) => started,
        Err(error) => {
            for row in ROWS {
                report.absent(row, Unit::Nanoseconds, &format!("{error:#}"));
            }
            return Ok(());
        }
    };
    mapping(report, map, &mut backend, 32, &window, |[map, _]| map);
    mapping(report, map_one, &mut backend, 1, &window, |[map, _]| map);
    mapping(report, both, &mut backend, 32, &window, |[map, unmap]| {
        map + unmap
    });
    copying(report, copy, &mut backend);
    Ok(())
}

/// Nanoseconds a page; against a bare `UFFDIO_CONTINUE` (and `MADV_DONTNEED`) for each.
fn mapping(
    report: &mut Report,
    row: &str,
    backend: &mut Backend,
    batch: u8,
    window: &BareWindow,
    part: fn([Duration; 2]) -> Duration,
) {
    let slice = report.plan().slice;
    report.contest(
        row,
        Unit::Nanoseconds,
        &mut || per_op(slice, PAGES, || backend.map(batch).map(part)),
        Some(&mut || {
            per_op(slice, PAGES, || {
                // Every other page, as in the back end.
                let filled = timed(|| {
                    (0..PAGES as usize).try_for_each(|n| Ok(window.fill(black_box(2 * n))?))
                })?;
                let emptied = timed(|| {
                    (0..PAGES as usize).try_for_each(|n| Ok(window.empty(black_box(2 * n))?))
                })?;
                Ok(part([filled, emptied]))
            })
        }),
    );
}

/// Nanoseconds a page copied out, 32 to a call, against `memcpy`.
fn copying(report: &mut Report, row: &str, backend: &mut Backend) {
    let slice = report.plan().slice;
    let bytes = PAGES as usize * PAGE_SIZE;
    let (mut to, from) = (vec![0_u8; bytes], vec![1_u8; bytes]);
    report.contest(
        row,
        Unit::Nanoseconds,
        &mut || per_op(slice, PAGES, || backend.copy()),
        Some(&mut || {
            per_op(slice, PAGES, || {
                timed(|| {
                    let pages = to
                        .chunks_exact_mut(PAGE_SIZE)
                        .zip(from.chunks_exact(PAGE_SIZE));
                    for (to, from) in pages {
                        black_box(to).copy_from_slice(black_box(from));
                    }
                    Ok(())
                })
            })
        }),
    );
}
