//! `check`.

use std::io::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use cantle_disk::ImageFormat;
use serde_json::json;

use crate::cli::{Check, Repair};
use crate::image::{Below, Image, choose, lock};
use crate::output::Output;

/// Exit code where the tables are damaged.
const DAMAGED: u8 = 2;
/// Exit code where space is lost, and that is all.
const LEAKS: u8 = 3;
/// Exit code where there is nothing to check.
const NOTHING: u8 = 63;

/// What a check found, of whatever format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    /// Each as one line, the first ones.
    lines: Vec<String>,
    errors: u64,
    leaks: u64,
    /// What the leaks are counted in.
    leak_unit: &'static str,
    allocated: u64,
    /// What has a place is counted in.
    unit: &'static str,
    /// Whether it says that it was not closed.
    unclosed: bool,
}

impl Found {
    fn exit_code(&self) -> u8 {
        match (self.errors, self.leaks) {
            (0, 0) => 0,
            (0, _) => LEAKS,
            _ => DAMAGED,
        }
    }
}

pub(crate) fn check(out: &mut Output, args: &Check) -> Result<u8> {
    let format = choose(&args.file, args.format)?;
    let shown = args.file.display();
    if format == ImageFormat::Raw {
        eprintln!("cantle-img: {shown} is raw, and has nothing that can be checked");
        return Ok(NOTHING);
    }
    let _lock = match args.force_share {
        true => None,
        false => Some(lock(&args.file, args.repair.is_none())?),
    };
    let mut image = open(args, format, true)?;
    let context = || format!("cannot check {shown}");
    let before = look(&image).with_context(context)?;
    let wanted = match args.repair {
        Some(Repair::All) => before.errors + before.leaks != 0 || before.unclosed,
        Some(Repair::Leaks) => before.errors == 0 && before.leaks != 0,
        None => false,
    };
    let mut after = before.clone();
    if wanted {
        // Nobody has it open for reading meanwhile, ourselves included.
        drop(image);
        image = open(args, format, false)?;
        repair(&mut image).with_context(|| format!("cannot repair {shown}"))?;
        drop(image);
        image = open(args, format, true)?;
        after = look(&image).with_context(context)?;
    }
    if args.json {
        let all = json!({
            "filename": args.file.to_string_lossy(),
            "format": format.name(),
            "check-errors": 0,
            "corruptions": after.errors,
            "leaks": after.leaks,
            "leak-unit": after.leak_unit,
            "corruptions-fixed": before.errors.saturating_sub(after.errors),
            "leaks-fixed": before.leaks.saturating_sub(after.leaks),
            "allocated": after.allocated,
            "problems": before.lines,
        });
        writeln!(out, "{all:#}")?;
        return Ok(after.exit_code());
    }
    show(out, args, &before, &after, wanted)?;
    Ok(after.exit_code())
}

fn show(out: &mut Output, args: &Check, before: &Found, after: &Found, tried: bool) -> Result<()> {
    for line in &before.lines {
        writeln!(out, "{line}")?;
    }
    if tried {
        let errors = before.errors.saturating_sub(after.errors);
        let leaks = before.leaks.saturating_sub(after.leaks);
        let unit = before.leak_unit;
        writeln!(
            out,
            "Repaired: {errors} errors, {leaks} {unit} of lost space."
        )?;
    } else if args.repair.is_some() && before.errors != 0 {
        writeln!(out, "Nothing was repaired: --repair=all repairs errors.")?;
    }
    match (after.errors, after.leaks) {
        (0, 0) => writeln!(out, "No errors were found on the image.")?,
        (0, leaks) => writeln!(
            out,
            "{leaks} {} are lost, which does no harm; --repair gives them back.",
            after.leak_unit
        )?,
        (errors, _) => writeln!(
            out,
            "{errors} errors were found on the image: data may be lost, or become so by further writing."
        )?,
    }
    writeln!(out, "{} {} are in use.", after.allocated, after.unit)?;
    Ok(())
}

fn open(args: &Check, format: ImageFormat, read_only: bool) -> Result<Image> {
    Image::open(&args.file, format, read_only, Arc::new(Below::new()?))
}

fn look(image: &Image) -> std::io::Result<Found> {
    Ok(match image {
        Image::Raw(_) => Found::default(),
        Image::Vhd(image) => {
            let report = image.check()?;
            let mut lines: Vec<_> = report.problems.iter().map(vhd_problem).collect();
            let listed = lines.len() as u64;
            if report.errors > listed {
                lines.push(format!("ERROR and {} more", report.errors - listed));
            }
            Found {
                lines,
                errors: report.errors,
                leaks: report.leaked,
                leak_unit: "bytes",
                allocated: report.allocated_blocks,
                unit: "blocks",
                unclosed: false,
            }
        }
        Image::Qcow2(image) => {
            let report = image.check(false)?;
            let header = image.header();
            let mut lines = Vec::new();
            let mut errors = report.errors;
            if report.errors != 0 {
                lines.push(format!(
                    "ERROR {} entries or counts are wrong",
                    report.errors
                ));
            }
            if header.corrupt {
                errors += 1;
                lines.push("ERROR the image is marked as corrupt".to_owned());
            }
            if header.dirty {
                lines.push("The image was not closed.".to_owned());
            }
            Found {
                lines,
                errors,
                leaks: report.leaks,
                leak_unit: "clusters",
                allocated: report.allocated,
                unit: "clusters",
                unclosed: header.dirty,
            }
        }
        Image::Vmdk(image) => {
            let report = image.check()?;
            let counted = [
                (
                    report.beyond_end,
                    "entries name places beyond the file's end",
                ),
                (report.in_metadata, "entries name places in the tables"),
                (report.shared, "entries name another one's grain"),
                (report.unequal_tables, "tables differ from their copies"),
            ];
            let lines = counted
                .iter()
                .filter(|(count, _)| *count != 0)
                .map(|(count, what)| format!("ERROR {count} {what}"));
            Found {
                lines: lines.collect(),
                errors: report.errors() + report.unequal_tables,
                leaks: report.leaked,
                leak_unit: "grains",
                allocated: report.allocated,
                unit: "grains",
                unclosed: false,
            }
        }
    })
}

fn vhd_problem(problem: &cantle_vhd::Problem) -> String {
    use cantle_vhd::Problem;
    match problem {
        Problem::NoFooter => "ERROR there is no footer at the end".to_owned(),
        Problem::NoFooterCopy => "ERROR there is no copy of the footer at the start".to_owned(),
        Problem::BeyondEnd { block } => format!("ERROR block {block} is beyond the file's end"),
        Problem::Truncated { block } => format!("ERROR the file ends within block {block}"),
        Problem::OverMetadata { block } => format!("ERROR block {block} is where the tables are"),
        Problem::Overlap { block, with } => format!("ERROR blocks {block} and {with} overlap"),
        other => format!("ERROR {other:?}"),
    }
}

fn repair(image: &mut Image) -> Result<()> {
    match image {
        Image::Raw(_) => {}
        Image::Vhd(image) => drop(image.repair()?),
        Image::Qcow2(image) => {
            let report = image.check(true)?;
            ensure!(
                report.errors == 0 || report.repaired != 0,
                "nothing of it can be repaired"
            );
        }
        Image::Vmdk(image) => {
            image.repair()?;
            image.close()?;
        }
    }
    Ok(())
}
