//! Debian packages, fetched by `apt-get download` and unpacked below `target/lab`; nothing is installed.
//!
//! The mirror is the one that the machine's own apt uses, or `CANTLE_LAB_MIRROR`. Package lists are kept below
//! `target/lab` too, so the machine's apt does not notice. What was fetched is checked by apt against the archive's signature,
//! and again by SHA-256 before it is unpacked. A set that is there is used without asking the network.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{process, workspace};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A Debian release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl Release {
    fn codename(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// What belongs to a set.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content {
    /// These packages and everything they depend on, down to the C library.
    Closure(&'static [&'static str]),
    /// These packages alone.
    Packages(&'static [&'static str]),
    /// What these metapackages depend on, one step.
    BehindMeta(&'static [&'static str]),
}

/// Packages that are fetched and unpacked together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Set {
    /// The set's folder name.
    pub(crate) name: &'static str,
    /// Where it comes from.
    pub(crate) release: Release,
    /// What it is made of.
    pub(crate) content: Content,
}

/// The folder that the set is unpacked in; fetches it first when it is not there.
pub(crate) fn unpacked(set: &Set) -> Result<PathBuf> {
    let ready = workspace::lab("root")?.join(set.name);
    if ready.join(".complete").exists() {
        return Ok(ready);
    }
    let archives = workspace::lab("packages")?.join(set.name);
    if !archives.join("SHA256SUMS").exists() {
        fetch(set, &archives)?;
    }
    unpack(set, &archives, &ready)
        .with_context(|| format!("cannot unpack the {} packages", set.name))?;
    Ok(ready)
}

fn fetch(set: &Set, archives: &Path) -> Result<()> {
    eprintln!(
        "fetching {} ({})",
        set.name,
        set.release.codename().to_owned()
    );
    let apt = Apt::new(set.release)?;
    // A half-fetched set of an interrupted run is not to be trusted.
    if archives.exists() {
        fs::remove_dir_all(archives)?;
    }
    workspace::make(&archives.join("partial"))?;
    match set.content {
        Content::Closure(names) => {
            let mut install = apt.command("apt-get");
            install
                .arg("-o")
                .arg(format!("Dir::Cache::archives={}", archives.display()))
                .args([
                    "install",
                    "--yes",
                    "--download-only",
                    "--no-install-recommends",
                ])
                .args(names);
            process::output(&mut install)?;
        }
        Content::Packages(names) => apt.download(names, archives)?,
        Content::BehindMeta(names) => {
            let listed = process::output(apt.command("apt-cache").arg("depends").args(names))?;
            let behind: Vec<&str> = listed
                .lines()
                .filter_map(|line| line.trim().strip_prefix("Depends: "))
                .collect();
            ensure!(
                behind.len() >= names.len(),
                "{} of {} have no package behind them",
                names.join(" "),
                set.release.codename()
            );
            apt.download(&behind, archives)?;
        }
    }
    let debs = archives_in(archives)?;
    let sums = process::output(
        Command::new("sha256sum")
            .current_dir(archives)
            .arg("--")
            .args(&debs),
    )?;
    write(&archives.join("SHA256SUMS"), &sums)
}

fn unpack(set: &Set, archives: &Path, ready: &Path) -> Result<()> {
    process::output(
        Command::new("sha256sum")
            .args(["--check", "--strict", "--quiet", "SHA256SUMS"])
            .current_dir(archives),
    )?;
    let fresh = ready.with_extension("new");
    for old in [&fresh, &ready.to_path_buf()] {
        if old.exists() {
            fs::remove_dir_all(old)?;
        }
    }
    for deb in archives_in(archives)? {
        process::output(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(archives.join(deb))
                .arg(&fresh),
        )?;
    }
    write(&fresh.join(".complete"), set.name)?;
    fs::rename(&fresh, ready)?;
    Ok(())
}

/// The names of the package files in a folder, sorted.
fn archives_in(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".deb") {
            names.push(name);
        }
    }
    ensure!(!names.is_empty(), "apt fetched nothing");
    names.sort();
    Ok(names)
}

/// apt with lists, state and cache of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Writes the sources and fetches the package lists.
    fn new(release: Release) -> Result<Self> {
        for program in ["apt-get", "dpkg-deb", "sha256sum"] {
            ensure!(
                process::exists(program),
                "the lab needs {program}, which this machine has not"
            );
        }
        let folder = workspace::lab("apt")?.join(release.codename());
        for below in ["lists/partial", "state", "cache"] {
            workspace::make(&folder.join(below))?;
        }
        write(&folder.join("empty-status"), "")?;
        write(&folder.join("sources.list"), &sources(release)?)?;
        let apt = Self { folder };
        process::output(apt.command("apt-get").args(["update", "--error-on=any"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let options = [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::sourceparts", "none"),
            ("Dir::Etc::preferences", "none"),
            ("Dir::Etc::preferencesparts", "none"),
            ("Dir::State", "state"),
            ("Dir::State::lists", "lists"),
            // No package counts as installed, so that a closure is complete.
            ("Dir::State::status", "empty-status"),
            ("Dir::Cache", "cache"),
        ];
        for (option, below) in options {
            command.arg("-o");
            command.arg(format!("{option}={}", self.folder.join(below).display()));
        }
        command.args([
            "-o",
            "APT::Architecture=amd64",
            "-o",
            "APT::Architectures=amd64",
        ]);
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"]);
        command.env("LC_ALL", "C");
        command
    }

    fn download(&self, names: &[&str], archives: &Path) -> Result<()> {
        let mut download = self.command("apt-get");
        download.arg("download").args(names).current_dir(archives);
        process::output(&mut download).map(drop)
    }
}

/// The release's sources, from the mirrors that the machine itself uses.
fn sources(release: Release) -> Result<String> {
    let codename = release.codename();
    let signed = if Path::new(KEYRING).exists() {
        format!("[signed-by={KEYRING}] ")
    } else {
        String::new()
    };
    let mut mirrors = Vec::new();
    if let Ok(mirror) = env::var("CANTLE_LAB_MIRROR") {
        mirrors.push((mirror, String::new()));
    } else {
        mirrors.extend(own_mirrors()?);
    }
    let mut text = String::new();
    for (mirror, pocket) in mirrors {
        text.push_str(&format!("deb {signed}{mirror} {codename}{pocket} main\n"));
    }
    Ok(text)
}

/// The machine's own Debian mirrors, each with what follows the codename there (`""`, `-updates`, `-security`).
fn own_mirrors() -> Result<Vec<(String, String)>> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let own = release
        .lines()
        .find_map(|l| l.strip_prefix("VERSION_CODENAME="))
        .map_or("", |name| name.trim_matches('"'));
    let debian = release.lines().any(|l| l == "ID=debian");
    let listed = process::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    ]))?;
    let mut mirrors = Vec::new();
    for line in listed.lines().filter(|_| debian && !own.is_empty()) {
        let mut words = line.split_whitespace();
        let (Some(uri), Some(suite), Some("main")) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let Some(pocket @ ("" | "-updates" | "-security")) = suite.strip_prefix(own) else {
            continue;
        };
        let mirror = (uri.to_owned(), pocket.to_owned());
        if !mirrors.contains(&mirror) {
            mirrors.push(mirror);
        }
    }
    if !mirrors.iter().any(|(_, pocket)| pocket.is_empty()) {
        bail!(
            "this machine's apt has no Debian mirror; name one in CANTLE_LAB_MIRROR (http://HOST/debian)"
        );
    }
    Ok(mirrors)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
