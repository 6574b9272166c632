//! How large the monitor is: its image, and its source.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::row::{Row, Samples, Unit};
use crate::{elf, programs, size, workspace};

/// The rows of the program that `cantle` has in itself, as it was built last.
pub(super) fn rows() -> Result<Vec<Row>> {
    let file = fs::read(image()?).context("cannot read the monitor's image")?;
    let source = workspace::root().join("crates/pv-monitor");
    let kib = |bytes: usize| bytes as f64 / 1024.0;
    let mut rows = Vec::new();
    for (row, unit, figure) in [
        ("pv/monitor_kib", Unit::Kibibytes, kib(elf::loaded(&file)?)),
        ("pv/monitor_file_kib", Unit::Kibibytes, kib(file.len())),
        (
            "pv/monitor_lines",
            Unit::Lines,
            size::lines(&source)? as f64,
        ),
    ] {
        let (mut ours, none) = (Samples::default(), Samples::default());
        ours.push(figure);
        rows.push(Row::new(row, unit, &ours, &none, &none));
    }
    Ok(rows)
}

/// The newest that was built for the lab's programs.
fn image() -> Result<PathBuf> {
    let builds = workspace::target()
        .join(programs::TARGET)
        .join("release/build");
    let mut found = Vec::new();
    for entry in fs::read_dir(&builds).with_context(|| format!("no {}", builds.display()))? {
        let path = entry?.path().join("out/monitor.elf");
        if let Ok(about) = fs::metadata(&path) {
            found.push((about.modified()?, path));
        }
    }
    let newest = found.into_iter().max().context("no monitor was built")?;
    Ok(newest.1)
}
