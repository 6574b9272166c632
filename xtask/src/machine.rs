//! What the machine must have: packages, and targets of the compiler. What is there already is left alone.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{process, programs, workspace};

/// A package, and a file or program that shows that it is there.
type Need = (&'static str, Shown);

/// To link the workspace's programs statically, parts in C included.
const FOR_PROGRAMS: &[Need] = &[
    ("gcc", Shown::Program("cc")),
    ("libc6-dev", Shown::File("/usr/include/stdio.h")),
    ("musl-tools", Shown::Program("musl-gcc")),
];

/// To make and check the demo's disk.
const FOR_DEMO: &[Need] = &[("e2fsprogs", Shown::File("/usr/sbin/mkfs.ext4"))];

/// To make and check images of disks.
const FOR_STORAGE: &[Need] = &[("qemu-utils", Shown::File("/usr/bin/qemu-img"))];

/// To compare with.
const FOR_BENCH: &[Need] = &[("fio", Shown::File("/usr/bin/fio"))];

/// For tests: the C headers that layouts are compared with, taps and user-mode networks, the fuzzer's runtime, others' clients of xenstore.
const FOR_TESTS: &[Need] = &[
    ("libxen-dev", Shown::File("/usr/include/xen/xen.h")),
    ("iproute2", Shown::File("/usr/sbin/ip")),
    ("passt", Shown::File("/usr/bin/passt")),
    ("tcpdump", Shown::File("/usr/bin/tcpdump")),
    ("g++", Shown::Program("c++")),
    ("xenstore-utils", Shown::File("/usr/bin/xenstore-ls")),
    (
        "python3-pyxs",
        Shown::File("/usr/lib/python3/dist-packages/pyxs/__init__.py"),
    ),
];

#[derive(Clone, Copy, Debug)]
enum Shown {
    Program(&'static str),
    File(&'static str),
}

impl Shown {
    fn here(self) -> bool {
        match self {
            Self::Program(name) => process::exists(name),
            Self::File(path) => Path::new(path).exists() || process::exists(program_of(path)),
        }
    }
}

fn program_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Makes the machine able to build the lab's programs.
pub(crate) fn for_programs() -> Result<()> {
    packages(&[FOR_PROGRAMS])?;
    toolchain()
}

/// Makes the machine able to run the demo.
pub(crate) fn for_demo() -> Result<()> {
    packages(&[FOR_PROGRAMS, FOR_DEMO])?;
    toolchain()
}

/// Makes the machine able to run the storage demo.
pub(crate) fn for_storage() -> Result<()> {
    packages(&[FOR_PROGRAMS, FOR_DEMO, FOR_STORAGE])?;
    toolchain()
}

/// Makes the machine able to run the benchmarks' peers.
pub(crate) fn for_bench() -> Result<()> {
    packages(&[FOR_STORAGE, FOR_BENCH])
}

/// Makes the machine able to run everything.
pub(crate) fn for_tests() -> Result<()> {
    packages(&[FOR_PROGRAMS, FOR_DEMO, FOR_STORAGE, FOR_TESTS])?;
    toolchain()
}

/// Installs what is missing.
fn packages(needed: &[&[Need]]) -> Result<()> {
    let missing: Vec<&str> = needed
        .iter()
        .copied()
        .flatten()
        .filter(|(_, shown)| !shown.here())
        .map(|(package, _)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    ensure!(
        rustix::process::geteuid().is_root() && process::exists("apt-get"),
        "this machine lacks packages; install them as root: apt-get install {list}"
    );
    eprintln!("installing {list}");
    let apt = |args: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(args);
        process::output(&mut apt).map(drop)
    };
    // The lists may be old: they are fetched when a package of theirs is not to be had, or there are none.
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&missing);
    apt(&install)
        .or_else(|_| apt(&["update"]).and_then(|()| apt(&install)))
        .with_context(|| format!("cannot install {list}"))
}

/// The targets that `rust-toolchain.toml` names.
fn toolchain() -> Result<()> {
    if !process::exists("rustup") {
        // Then the compiler came from elsewhere, and will say itself what it lacks.
        return Ok(());
    }
    let installed = process::output(rustup().args(["target", "list", "--installed"]))?;
    for target in [programs::TARGET, crate::guests::TARGET] {
        if !installed.lines().any(|line| line == target) {
            process::run(rustup().args(["target", "add", target]))?;
        }
    }
    Ok(())
}

fn rustup() -> Command {
    let mut rustup = Command::new("rustup");
    rustup.current_dir(workspace::root());
    rustup
}
