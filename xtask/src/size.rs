//! `cargo xtask size`: the house's measures, per crate, so that it can be watched.

mod file;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{process, programs, workspace};
use file::{Counts, Named};

/// Where the house draws its lines; what is beyond is listed after the table.
const LONGEST_FILE: usize = 800;
const WIDEST_TRAIT: usize = 8;
const LARGEST_ERROR: usize = 12;

/// One crate's measures.
#[derive(Debug, Default)]
struct Crate {
    name: String,
    counts: Counts,
    /// Lines of each file with production code, shortest first.
    lengths: Vec<usize>,
    longest: Named,
}

/// Prints the table.
pub(crate) fn main() -> Result<ExitCode> {
    let mut crates = Vec::new();
    for manifest in ["Cargo.toml", "guests/Cargo.toml", "fuzz/Cargo.toml"] {
        if workspace::root().join(manifest).exists() {
            for (name, folder) in members(manifest)? {
                crates.push(measure(name, &folder)?);
            }
        }
    }
    println!(
        "{:<18} {:>6} {:>6} {:>6} {:>19} {:>7}  {:<32} largest error",
        "crate", "code", "test", "doc", "file: med p90 max", "unsafe", "widest trait"
    );
    for one in &crates {
        println!("{}", row(one));
    }
    let all = total(&crates);
    println!("{}", row(&all));
    for one in &crates {
        for line in beyond(one) {
            println!("beyond the house's lines: {line}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Lines of production code of the crate in this folder.
pub(crate) fn lines(folder: &Path) -> Result<usize> {
    Ok(measure(String::new(), folder)?.counts.code)
}

fn row(one: &Crate) -> String {
    let counts = &one.counts;
    let files = format!(
        "{} {:>4} {:>4}",
        percentile(&one.lengths, 50),
        percentile(&one.lengths, 90),
        one.longest.size
    );
    format!(
        "{:<18} {:>6} {:>6} {:>6} {:>19} {:>7}  {:<32} {}",
        one.name,
        counts.code,
        counts.test,
        counts.doc,
        files,
        counts.unsafe_blocks,
        counts.widest_trait.to_string(),
        counts.largest_error
    )
}

fn beyond(one: &Crate) -> Vec<String> {
    [
        (&one.longest, LONGEST_FILE, "lines"),
        (&one.counts.widest_trait, WIDEST_TRAIT, "methods"),
        (&one.counts.largest_error, LARGEST_ERROR, "variants"),
    ]
    .into_iter()
    .filter(|(named, limit, _)| named.size > *limit)
    .map(|(named, limit, what)| {
        format!(
            "{}: {} has {} {what}, more than {limit}",
            one.name, named.name, named.size
        )
    })
    .collect()
}

/// The value below which `percent` of the sorted values lie, or are it.
fn percentile(sorted: &[usize], percent: usize) -> usize {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

fn total(crates: &[Crate]) -> Crate {
    let mut all = Crate {
        name: "all".to_owned(),
        ..Crate::default()
    };
    for one in crates {
        all.counts.add(&one.counts);
        all.lengths.extend(&one.lengths);
        all.longest.raise(&one.longest);
    }
    all.lengths.sort_unstable();
    all
}

/// The members of a workspace: names and folders.
fn members(manifest: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut metadata = programs::cargo();
    metadata
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .args(["--manifest-path", manifest]);
    let metadata: Value = serde_json::from_str(&process::output(&mut metadata)?)?;
    let mut members = Vec::new();
    for package in metadata["packages"].as_array().context("no packages")? {
        let name = package["name"].as_str().context("a package without name")?;
        let path = package["manifest_path"].as_str().context("no manifest")?;
        if let Some(folder) = Path::new(path).parent() {
            members.push((name.to_owned(), folder.to_path_buf()));
        }
    }
    Ok(members)
}

fn measure(name: String, folder: &Path) -> Result<Crate> {
    let mut paths = Vec::new();
    sources(folder, &mut paths)?;
    paths.sort();
    let mut parsed = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path)?;
        let syntax =
            syn::parse_file(&text).with_context(|| format!("cannot parse {}", path.display()))?;
        parsed.push((path, text, syntax));
    }
    // Modules that are only there for tests, by the path of their file without its extension.
    let mut test_modules = BTreeSet::new();
    for (path, _, syntax) in &parsed {
        for module in file::test_modules(syntax) {
            test_modules.insert(modules_of(path).join(module));
        }
    }
    let mut one = Crate {
        name,
        ..Crate::default()
    };
    for (path, text, syntax) in &parsed {
        let below = path.strip_prefix(folder).unwrap_or(path);
        let all_test = ["tests", "benches"].iter().any(|t| below.starts_with(t))
            || path.ancestors().any(|a| {
                let stem = a.with_extension("");
                test_modules.contains(&stem)
            });
        let counts = file::count(text, syntax, all_test);
        if counts.code > 0 {
            one.lengths.push(counts.length);
            one.longest.raise(&Named {
                name: below.display().to_string(),
                size: counts.length,
            });
        }
        one.counts.add(&counts);
    }
    one.lengths.sort_unstable();
    Ok(one)
}

/// The folder that the modules declared in a file are looked up in.
fn modules_of(path: &Path) -> PathBuf {
    let is_root = path
        .file_stem()
        .is_some_and(|s| s == "lib" || s == "main" || s == "mod");
    if is_root {
        path.parent().map(Path::to_path_buf).unwrap_or_default()
    } else {
        path.with_extension("")
    }
}

/// The Rust sources below a crate's folder, without those of crates inside it.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            let foreign = path.join("Cargo.toml").exists();
            if !foreign && name != "target" && !name.starts_with('.') {
                sources(&path, found)?;
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
    Ok(())
}
