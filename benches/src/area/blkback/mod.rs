//! The block back end: requests through its rings, against the same requests to the same file by an io_uring loop alone; beside
//! `qemu-storage-daemon`'s vhost-user-blk, and fio.

mod case;
mod formats;
mod null;
mod sides;
mod spin;

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::NamedTempFile;

use crate::disk_op::Op;
use crate::measure::{Row, Samples, Unit};
use crate::report::Report;
use case::{Case, Load, Place};
use sides::Sides;

const MIB: usize = 1 << 20;
/// The file's size. Direct reads do not profit from it being small, and those of the page cache are of memory anyway.
const FILE_MIB: usize = 256;

pub(super) fn run(report: &mut Report, scratch: &Path) -> Result<()> {
    let file = filled(scratch)?;
    let on = |path: &Path, direct, suffix| Place {
        path: path.to_owned(),
        direct,
        suffix,
    };
    let medium = on(file.path(), true, "");
    for load in Load::ALL {
        contest(report, &Case::usual(load), &medium)?;
    }
    let usual = Load::randread(32);
    for case in [
        Case::usual(usual).plain(),
        Case::usual(usual).queues(2),
        Case::usual(Load::ReadMib).short(),
    ] {
        contest(report, &case, &medium)?;
    }
    // What is left without the medium is our own cost.
    let cached = on(file.path(), false, "_cached");
    for load in [
        Load::randread(1),
        usual,
        Load::randread(128),
        Load::ReadMib,
        Load::WriteMib,
    ] {
        contest(report, &Case::usual(load), &cached)?;
    }
    cpu(report, &medium, "")?;
    cpu(report, &cached, "_cached")?;
    spin::run(report, file.path())?;
    formats::run(report, scratch)?;
    null::run(report)
}

/// A row for us and the limit, one for the peer, and one for fio, all in turns.
fn contest(report: &mut Report, case: &Case, place: &Place) -> Result<()> {
    let name = format!("blkback/{}{}", case.name(), place.suffix);
    if !report.wants(&name) {
        return Ok(());
    }
    let unit = case.load.unit();
    let plan = report.plan().longer(4);
    let mut sides = Sides::start(case, place)?;
    let (mut ours, mut limit, mut peer, mut fio) =
        <(Samples, Samples, Samples, Samples)>::default();
    let mut failed = None;
    for round in 0..=plan.rounds {
        let figures = [sides.ours(plan.slice)?, sides.limit(plan.slice)?];
        let theirs = match &failed {
            None => sides.peer(plan.slice),
            Some(_) => Ok(0.0),
        };
        // The first round warms everything up, and is forgotten.
        if round == 0 {
            failed = theirs.err();
            continue;
        }
        let [own, bare] = figures;
        ours.push(own);
        limit.push(bare);
        match (theirs, &failed) {
            (Ok(figure), None) => peer.push(figure),
            (Err(error), _) => failed = Some(error),
            _ => {}
        }
        // It takes long to start, and is no peer but a yardstick.
        if round % 3 == 1
            && let Ok(figure) = sides.fio(plan.slice)
        {
            fio.push(figure);
        }
    }
    let none = Samples::default();
    report.push(Row::new(&name, unit, &ours, &limit, &none));
    let versus = format!("{name}_vs_vhost_user");
    match failed {
        None => report.push(Row::new(&versus, unit, &ours, &none, &peer)),
        Some(error) => report.absent(&versus, unit, &format!("{error:#}")),
    }
    let versus = format!("{name}_vs_fio");
    match fio.median() {
        Some(_) => report.push(Row::new(&versus, unit, &ours, &none, &fio)),
        None => report.absent(&versus, unit, "fio is not installed"),
    }
    Ok(())
}

/// Requests for each second of CPU time that serving them takes: ours, the kernel's work and its workers' included and the front end's not;
/// against the loop, whose submissions are all there is, and the peer's daemon.
fn cpu(report: &mut Report, place: &Place, suffix: &str) -> Result<()> {
    let name = format!("blkback/cpu_per_request{suffix}");
    if !report.wants(&name) {
        return Ok(());
    }
    let plan = report.plan().longer(4);
    let case = Case::usual(Load::randread(32));
    let mut sides = Sides::start(&case, place)?;
    let (mut ours, mut limit, mut peer) = <(Samples, Samples, Samples)>::default();
    let mut failed = None;
    for round in 0..=plan.rounds {
        let (own, bare) = (sides.our_cpu(plan.slice)?, sides.limit_cpu(plan.slice)?);
        let theirs = sides.peer_cpu(plan.slice);
        if round == 0 {
            failed = theirs.err();
            continue;
        }
        ours.push(own);
        limit.push(bare);
        if let Ok(figure) = theirs {
            peer.push(figure);
        }
    }
    let none = Samples::default();
    report.push(Row::new(&name, Unit::Nanoseconds, &ours, &limit, &none));
    let versus = format!("{name}_vs_vhost_user");
    match failed {
        None => report.push(Row::new(&versus, Unit::Nanoseconds, &ours, &none, &peer)),
        Some(error) => report.absent(&versus, Unit::Nanoseconds, &format!("{error:#}")),
    }
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

impl Op {
    fn of_ring(self) -> u8 {
        use cantle_abi::io::blkif::{BLKIF_OP_READ, BLKIF_OP_WRITE};
        match self {
            Self::Read => BLKIF_OP_READ,
            Self::Write => BLKIF_OP_WRITE,
        }
    }
}
