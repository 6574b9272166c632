//! Images whose blocks are all there, against the raw file: what a format costs.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use cantle_blkback::image::{Caching, Disk, FormatDisk, FormatOptions, RawDisk, RawOptions};
use cantle_disk::{CreateSpec, ImageFormat, Parents, create, open_format};

use super::case::{Case, Load};
use super::sides::Ours;
use super::{FILE_MIB, MIB};
use crate::measure::Unit;
use crate::report::Report;
use crate::rounds::Pace;

pub(super) fn run(report: &mut Report, scratch: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(scratch)?;
    for caching in [Caching::DirectIfPossible, Caching::Buffered] {
        let suffix = match caching {
            Caching::Buffered => "_cached",
            _ => "",
        };
        for format in [ImageFormat::Vhd, ImageFormat::Qcow2, ImageFormat::Vmdk] {
            let row = format!("blkback/{format}_randread_4k_qd32{suffix}");
            if !report.wants(&row) {
                continue;
            }
            let ours = disk(
                &folder.path().join(format!("{format}{suffix}")),
                format,
                caching,
            )?;
            let limit = disk(
                &folder.path().join(format!("raw{suffix}")),
                ImageFormat::Raw,
                caching,
            )?;
            contest(report, &row, ours, limit)?;
        }
    }
    Ok(())
}

/// A disk of this format, written all over.
fn disk(path: &Path, format: ImageFormat, caching: Caching) -> Result<Arc<dyn Disk>> {
    let size = (FILE_MIB * MIB) as u64;
    if !path.exists() {
        create(path, &CreateSpec::new(format, size))?;
        let image = open_format(path, format, false, &Parents::Refuse)?;
        let block = vec![7; MIB];
        for at in (0..size).step_by(MIB) {
            image.write(at, &block)?;
        }
        image.flush()?;
    }
    if format == ImageFormat::Raw {
        let options = RawOptions {
            caching,
            ..RawOptions::default()
        };
        return Ok(Arc::new(RawDisk::open(path, &options)?));
    }
    let image = open_format(path, format, false, &Parents::Refuse)?;
    let options = FormatOptions {
        caching,
        ..FormatOptions::default()
    };
    Ok(Arc::new(FormatDisk::new(image, options)?))
}

fn contest(
    report: &mut Report,
    row: &str,
    ours: Arc<dyn Disk>,
    limit: Arc<dyn Disk>,
) -> Result<()> {
    let plan = report.plan().longer(4);
    let case = Case::usual(Load::randread(32));
    let (mut ours, mut limit) = (Ours::start(&case, ours)?, Ours::start(&case, limit)?);
    // Each block is found out about once.
    ours.drive(1 << 17)?;
    let (mut our_pace, mut limit_pace) = (Pace::new(256), Pace::new(256));
    report.contest_by(
        plan,
        row,
        Unit::PerSecond,
        &mut || our_pace.rate(plan.slice, |count| ours.drive(count)),
        Some(&mut || limit_pace.rate(plan.slice, |count| limit.drive(count))),
    );
    Ok(())
}
