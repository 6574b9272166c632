//! The lab: a Debian host with a `/dev/kvm` like real hardware's, emulated, that runs commands for us.

mod running;
mod stream;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use crate::images::Debian;
use crate::programs;
pub(crate) use running::{Lab, LabLost, Setup};
pub(crate) use stream::Stream;

/// Options of `cargo xtask lab`.
#[derive(Debug, Args)]
pub(crate) struct LabArgs {
    /// The Debian release that the lab runs.
    #[arg(long, value_enum, default_value_t = Debian::Debian12)]
    host: Debian,
    /// Gives up after this many seconds (exit code 124); 0 waits for ever.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    timeout: u64,
    /// MiB of memory of the lab.
    #[arg(long, default_value_t = 2048, value_name = "MIB")]
    memory: u32,
    /// CPUs of the lab.
    #[arg(long, default_value_t = 2, value_name = "N")]
    cpus: u32,
    /// A raw image to be seen as /dev/vda, the next as /dev/vdb, and so on.
    #[arg(long, value_name = "FILE")]
    disk: Vec<PathBuf>,
    /// A (static) program to be put into the lab's PATH besides the workspace's own.
    #[arg(long, value_name = "FILE")]
    with: Vec<PathBuf>,
    /// Takes the workspace's programs as they were last built.
    #[arg(long)]
    no_build: bool,
    /// The command reads this program's standard input; it has none otherwise.
    #[arg(long)]
    input: bool,
    /// The command, looked up in the lab's PATH; runs in /share (target/lab/share).
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// `cargo xtask lab`.
pub(crate) fn main(args: &LabArgs) -> Result<ExitCode> {
    if !args.no_build {
        programs::build()?;
    }
    let mut found: Vec<PathBuf> = programs::built()
        .into_iter()
        .filter(|p| p.exists())
        .collect();
    found.extend(args.with.iter().cloned());
    let mut lab = Lab::boot(&Setup {
        host: args.host,
        memory: args.memory,
        cpus: args.cpus,
        disks: &args.disk,
        programs: &found,
    })?;
    if args.input {
        lab.connect_input(io::stdin())?;
    }
    let deadline = (args.timeout > 0).then(|| Instant::now() + Duration::from_secs(args.timeout));
    let code = lab.run(&quoted(&args.command), deadline, &mut |stream, bytes| {
        let shown = match stream {
            Stream::Out => passed_on(&mut io::stdout().lock(), bytes),
            Stream::Err => passed_on(&mut io::stderr().lock(), bytes),
        };
        shown.context("cannot write the command's output")
    })?;
    let Some(code) = code else {
        eprintln!("xtask: no end after {} s; gave up", args.timeout);
        return Ok(ExitCode::from(124));
    };
    lab.off()?;
    Ok(ExitCode::from(code))
}

fn passed_on(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// The words as one line of shell that runs them as they are.
pub(crate) fn quoted(words: &[String]) -> String {
    let quoted: Vec<String> = words
        .iter()
        .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
        .collect();
    quoted.join(" ")
}

/// Variables of a script, one a line.
pub(crate) fn assigned(variables: &[(&str, &str)]) -> String {
    variables
        .iter()
        .map(|(name, value)| format!("{name}={}\n", quoted(&[(*value).to_owned()])))
        .collect()
}

/// Where a lab has these programs of [`Setup`], in one line.
pub(crate) fn paths(programs: &[PathBuf]) -> String {
    let paths: Vec<String> = programs
        .iter()
        .filter_map(|program| program.file_name())
        .map(|name| format!("/usr/local/bin/{}", name.display()))
        .collect();
    paths.join(" ")
}

/// The last lines of a text file.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let _ = file.read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes).replace('\r', "");
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..)
        .unwrap_or_default()
        .join("\n")
}
