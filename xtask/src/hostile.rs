//! The hostile back end in the lab: what it gets on each host's kernel, whose userfaultfd differ.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::images::Debian;
use crate::interrupt::Scratch;
use crate::lab::{Lab, LabLost, Setup};
use crate::{machine, process, programs, workspace};

/// The program, an example of this package.
const PROGRAM: &str = "hostile";
const PACKAGE: &str = "cantle-grant";
const FEATURES: &str = "process,test-utils";

/// Bytes of the disk that it does direct I/O on.
const DISK: u64 = 16 << 20;
/// How long it may take; it takes ten seconds.
const TIMEOUT: Duration = Duration::from_secs(180);
/// How often a lab is booted that is lost.
const TRIES: u32 = 3;

/// Runs all its attempts on a host; its last line, where none got it anything.
pub(crate) fn on(host: Debian) -> Result<String> {
    let program = built()?;
    let mut tries = 1;
    loop {
        match once(host, &program) {
            Err(error) if error.is::<LabLost>() && tries < TRIES => {
                tries += 1;
                eprintln!("hostile on {}: once more: {error:#}", host.name());
            }
            other => return other,
        }
    }
}

fn built() -> Result<PathBuf> {
    machine::for_programs()?;
    let mut build = programs::cargo();
    build
        .args(["build", "--quiet", "--release"])
        .args(["--target", programs::TARGET, "--package", PACKAGE])
        .args(["--example", PROGRAM, "--features", FEATURES]);
    process::run(&mut build).context("cannot build the hostile back end")?;
    let folder = workspace::target().join(programs::TARGET);
    Ok(folder.join("release/examples").join(PROGRAM))
}

fn once(host: Debian, program: &PathBuf) -> Result<String> {
    machine::for_demo()?;
    let scratch = Scratch::new("hostile")?;
    let disk = scratch.path().join("disk");
    File::create(&disk)?.set_len(DISK)?;
    let mut lab = Lab::boot(&Setup {
        host,
        memory: 1024,
        cpus: 2,
        disks: &[disk],
        programs: std::slice::from_ref(program),
    })?;
    let mut said = Vec::new();
    let script = format!("HOSTILE_FILE=/dev/vda {PROGRAM} 2>&1");
    let code = lab.run(&script, Some(Instant::now() + TIMEOUT), &mut |_, bytes| {
        said.extend_from_slice(bytes);
        Ok(())
    })?;
    let said = String::from_utf8_lossy(&said).replace('\r', "");
    eprint!("{said}");
    let last = said.lines().last().unwrap_or("it said nothing").to_owned();
    ensure!(
        code == Some(0),
        "hostile on {}: {last} (exit code {code:?})",
        host.name()
    );
    lab.off()?;
    Ok(last)
}
