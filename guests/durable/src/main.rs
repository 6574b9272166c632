//! Writes to disks until it, its machine or its host is ended, says all the while what is durable, and verifies later that it was.
//!
//! `durable write RUN DISK…` writes batches to four lanes of each disk at once, each lane by a thread of its own. After each batch it calls
//! fdatasync, and when that has returned, it prints `durable DISK LANE BATCH`: from then on the batch has to survive whatever happens. RUN is a
//! number above those of earlier runs. With `for=N` before the disks it ends after N batches of each lane.
//!
//! `durable verify HISTORY DISK…` reads the disks to their last sector. HISTORY is a file of what was printed, a line `DISK LANE RUN BATCH` for
//! each lane in each run with the last batch that was seen to be durable (0: none). Every sector has to be as the last durable batch that wrote it
//! left it, or as one that was begun after that; none may be anything else. It prints one line for each disk, and fails where a sector is wrong.
//!
//! DISK is a block device or a file, as `NAME=PATH` or just a path, whose last part is then the name. A disk is known by its name: where it
//! changes, all of it is wrong.

mod content;
mod disk;
mod history;
mod plan;
mod verify;
mod write;

use std::fmt::Display;
use std::process::ExitCode;

use history::History;

/// A disk that was named.
struct Disk {
    name: String,
    path: String,
    tag: u64,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["write", run, rest @ ..] => write_told(run, rest),
        ["verify", history, rest @ ..] => verify_told(history, rest),
        _ => {
            Err("usage: durable write RUN [for=N] DISK… | durable verify HISTORY DISK…".to_owned())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn write_told(run: &str, rest: &[&str]) -> Result<(), String> {
    let number = |text: &str| -> Result<u64, String> {
        text.parse().map_err(|_| format!("{text:?} is no number"))
    };
    let run = number(run)?;
    match rest {
        [first, rest @ ..] if first.starts_with("for=") => write::run(
            run,
            &disks(rest),
            Some(number(first.trim_start_matches("for="))?),
        ),
        rest => write::run(run, &disks(rest), None),
    }
}

/// All disks are read, whatever is wrong with the first.
fn verify_told(history: &str, rest: &[&str]) -> Result<(), String> {
    let history = History::read(history)?;
    let wrong: Vec<String> = disks(rest)
        .iter()
        .filter_map(|disk| verify::run(disk, &history).err())
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(wrong.join("; "))
}

fn disks(words: &[&str]) -> Vec<Disk> {
    let named = |word: &&str| {
        let (name, path) = word
            .split_once('=')
            .unwrap_or((word.rsplit('/').next().unwrap_or(word), word));
        Disk {
            name: name.to_owned(),
            path: path.to_owned(),
            tag: content::disk_tag(name),
        }
    };
    words.iter().map(named).collect()
}

fn broken<E: Display>(disk: &Disk) -> impl Fn(E) -> String {
    move |error| format!("{}: {error}", disk.name)
}
