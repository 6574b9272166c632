//! The block back end: reads through its ring, against the same reads of the same file by an io_uring loop alone.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use cantle_abi::PAGE_SIZE;
use cantle_blkback::image::{Caching, NullImage, RawImage, RawOptions};
use cantle_blkback::test_utils::{Random, World};
use tempfile::NamedTempFile;

use crate::measure::Unit;
use crate::raw_disk::RawDisk;
use crate::report::Report;
use crate::rounds::Pace;

/// Requests in flight: all slots of a ring of one page.
const DEPTH: usize = 32;
const MIB: usize = 1 << 20;
/// The file's size. Direct reads do not profit from it being small, and those of a tmpfs are of memory anyway.
const FILE_MIB: usize = 256;

pub(super) fn run(report: &mut Report, scratch: &Path) -> Result<()> {
    files(report, scratch, "")?;
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        files(report, memory, "_tmpfs")?;
    }
    null(report)
}

/// Reads of a file in `folder`: at random, and one after the other.
fn files(report: &mut Report, folder: &Path, suffix: &str) -> Result<()> {
    let file = filled(folder)?;
    let options = RawOptions {
        caching: Caching::DirectIfPossible,
        ..RawOptions::default()
    };
    let image = RawImage::open(file.path(), &options)?;
    let direct = image.is_direct();
    let world = World::new();
    let _disk = world.serve(world.backend(Box::new(image))?);
    let mut front = world.front()?;

    let plan = report.plan().longer(4);
    let mut bare = RawDisk::open(file.path(), direct, DEPTH, 1)?;
    let blocks = (FILE_MIB * MIB / PAGE_SIZE) as u64;
    let (mut our_pace, mut bare_pace) = (Pace::new(256), Pace::new(256));
    let (mut our_seed, mut bare_seed) = (1, 1);
    report.contest_by(
        plan,
        &format!("blkback/randread_4k_qd32{suffix}"),
        Unit::PerSecond,
        &mut || {
            our_pace.rate(plan.slice, |count| {
                our_seed += 1;
                Ok(front.random_reads(DEPTH, count, our_seed)?)
            })
        },
        Some(&mut || {
            bare_pace.rate(plan.slice, |count| {
                bare_seed += 1;
                let mut random = Random::new(bare_seed);
                bare.reads(count, || random.below(blocks) * PAGE_SIZE as u64)
            })
        }),
    );

    // At least as many bytes in flight as a ring holds (32 requests of 44 KiB).
    let mut bare = RawDisk::open(file.path(), direct, 2, MIB / PAGE_SIZE)?;
    let (mut our_pace, mut bare_pace) = (Pace::new(16), Pace::new(16));
    let mut at = 0;
    report.contest_by(
        plan,
        &format!("blkback/read_1m{suffix}"),
        Unit::MebibytesPerSecond,
        &mut || {
            our_pace.rate(plan.slice, |count| {
                Ok(front.sequential_reads(DEPTH, MIB, count)?)
            })
        },
        Some(&mut || {
            bare_pace.rate(plan.slice, |count| {
                bare.reads(count, || {
                    at = (at + 1) % FILE_MIB as u64;
                    at * MIB as u64
                })
            })
        }),
    );
    Ok(())
}

/// Requests through the ring to a disk that does nothing: what the ring path alone can do. There is no limit to hold it against.
fn null(report: &mut Report) -> Result<()> {
    let plan = report.plan().longer(2);
    let world = World::new();
    let _disk = world.serve(world.backend(Box::new(NullImage::new(1 << 20)?))?);
    let mut front = world.front()?;
    let (mut pace, mut seed) = (Pace::new(256), 1);
    report.contest_by(
        plan,
        "blkback/null_1q",
        Unit::PerSecond,
        &mut || {
            pace.rate(plan.slice, |count| {
                seed += 1;
                Ok(front.random_reads(DEPTH, count, seed)?)
            })
        },
        None,
    );
    Ok(())
}

/// A file without holes, on the medium and deleted when dropped.
fn filled(folder: &Path) -> Result<NamedTempFile> {
    let mut file = NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot make a file in {}", folder.display()))?;
    let mut block = vec![0; MIB];
    for n in 0..FILE_MIB {
        block.fill(u8::try_from(n % 251)? + 1);
        file.write_all(&block)?;
    }
    file.as_file().sync_all()?;
    Ok(file)
}
