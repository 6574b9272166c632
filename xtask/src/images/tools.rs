//! Debian's own programs for guests: those of each release with the libraries that they run on, as archives.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Debian;
use crate::cpio::Archive;
use crate::elf;
use crate::packages::{self, Content, Release, Set};
use crate::qemu;
use crate::xen;

/// Programs that go into a guest together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tools {
    /// xenstore's clients.
    Xenstore,
    /// `fio`, and the makers and checkers of ext4.
    Storage,
    /// `iperf3`, `ethtool`, `tcpdump` and iproute2's `ip`: for guests, and for hosts.
    Network,
    /// The emulator, of the same release everywhere: as a peer, for hosts.
    Emulator,
    /// What a host of Xen's runs, of the same release everywhere.
    Xen,
}

/// By release.
type Sets = [Set; 2];

const XENSTORE: Sets = sets(
    ["xenstore-tools-debian12", "xenstore-tools-debian13"],
    Content::Packages(&[
        "xenstore-utils",
        "libxenstore4",
        "libxentoolcore1",
        "libc6",
        "libgcc-s1",
    ]),
);

const STORAGE: Sets = sets(
    ["storage-tools-debian12", "storage-tools-debian13"],
    Content::Closure(&["fio", "e2fsprogs"]),
);

const NETWORK: Sets = sets(
    ["network-tools-debian12", "network-tools-debian13"],
    Content::Closure(&["iperf3", "ethtool", "tcpdump", "iproute2"]),
);

const fn sets([twelve, thirteen]: [&'static str; 2], content: Content) -> Sets {
    [
        Set {
            name: twelve,
            release: Release::Bookworm,
            content,
        },
        Set {
            name: thirteen,
            release: Release::Trixie,
            content,
        },
    ]
}

const LOADER: &str = "ld-linux-x86-64.so.2";

/// What programs load without being linked with it, when a thread is cancelled.
const UNWINDER: &str = "libgcc_s.so.1";

/// Where the releases have their libraries.
const LIBRARIES: [&str; 5] = [
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/ceph",
    "usr/lib64",
    "lib64",
];

/// What the emulator starts a kernel with.
const FIRMWARE: [&str; 4] = [
    "usr/share/seabios/bios-256k.bin",
    "usr/share/qemu/kvmvapic.bin",
    "usr/share/qemu/linuxboot_dma.bin",
    "usr/share/qemu/pvh.bin",
];

/// Where they have their programs; links between these are absolute, and lead from the latter to the former.
const PROGRAMS: [&str; 5] = [xen::PROGRAMS, "usr/bin", "usr/sbin", "bin", "sbin"];

impl Tools {
    /// The name for files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Xenstore => "xenstore-tools",
            Self::Storage => "storage-tools",
            Self::Network => "network-tools",
            Self::Emulator => "emulator",
            Self::Xen => "xen",
        }
    }

    /// The folder that a release's packages are unpacked in.
    pub(super) fn unpacked(self, debian: Debian) -> Result<PathBuf> {
        let [twelve, thirteen] = match self {
            Self::Xenstore => &XENSTORE,
            Self::Storage => &STORAGE,
            Self::Network => &NETWORK,
            Self::Emulator => &[qemu::SET, qemu::SET],
            Self::Xen => &[xen::SET, xen::SET],
        };
        packages::unpacked(match debian {
            Debian::Debian12 => twelve,
            Debian::Debian13 => thirteen,
        })
    }

    /// A release's program as a command for this machine, with the libraries of that release.
    pub(crate) fn command(self, debian: Debian, program: &str) -> Result<Command> {
        let root = self.unpacked(debian)?;
        let mut command = Command::new(found(&root, &LIBRARIES, LOADER)?);
        let folders: OsString = env::join_paths(LIBRARIES.map(|folder| root.join(folder)))?;
        command
            .arg("--library-path")
            .arg(folders)
            .arg(found(&root, &PROGRAMS, program)?);
        Ok(command)
    }

    /// Packs what was unpacked in `root`. The kernel puts it beside what is in the other archive's folders.
    pub(super) fn pack(self, root: &Path, out: impl Write) -> Result<()> {
        let mut packed = Packed {
            root,
            archive: Archive::new(out),
            libraries: BTreeSet::new(),
        };
        for folder in ["lib", "lib/x86_64-linux-gnu", "lib64"] {
            packed.archive.folder(folder)?;
        }
        let loader = read(&found(root, &LIBRARIES, LOADER)?)?;
        packed
            .archive
            .file(&format!("lib64/{LOADER}"), 0o755, &loader)?;
        packed.library(UNWINDER)?;
        match self {
            Self::Xenstore => packed.xenstore()?,
            Self::Storage => packed.storage()?,
            Self::Network => packed.network()?,
            Self::Emulator => packed.emulator()?,
            Self::Xen => packed.xen()?,
        }
        packed.archive.finish()?;
        Ok(())
    }
}

/// An archive that is being made.
struct Packed<'a, W> {
    root: &'a Path,
    archive: Archive<W>,
    /// Those that are in it.
    libraries: BTreeSet<String>,
}

impl<W: Write> Packed<'_, W> {
    /// The tools are one program, which goes by the name it is called with; a wrapper for Xen's own hosts is left out.
    fn xenstore(&mut self) -> Result<()> {
        self.program("xenstore", "usr/bin/xenstore")?;
        let folder = self.root.join("usr/bin");
        let mut tools = 0;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("xenstore-") && entry.file_type()?.is_file() {
                self.archive.link(&format!("usr/bin/{name}"), "xenstore")?;
                tools += 1;
            }
        }
        ensure!(tools > 0, "{} has no tools in it", folder.display());
        Ok(())
    }

    fn storage(&mut self) -> Result<()> {
        self.program("fio", "usr/bin/fio")?;
        self.program("mke2fs", "usr/sbin/mkfs.ext4")?;
        self.program("e2fsck", "usr/sbin/e2fsck")?;
        let conf = read(&self.root.join("etc/mke2fs.conf"))?;
        self.archive.file("etc/mke2fs.conf", 0o644, &conf)?;
        Ok(())
    }

    fn network(&mut self) -> Result<()> {
        for (name, place) in [
            ("iperf3", "usr/bin/iperf3"),
            ("tcpdump", "usr/bin/tcpdump"),
            ("ethtool", "usr/sbin/ethtool"),
            ("ip", "usr/sbin/ip"),
        ] {
            self.program(name, place)?;
        }
        Ok(())
    }

    fn emulator(&mut self) -> Result<()> {
        self.program("qemu-system-x86_64", "usr/bin/qemu-system-x86_64")?;
        for folder in ["usr/share", "usr/share/qemu", "usr/share/seabios"] {
            self.archive.folder(folder)?;
        }
        for name in FIRMWARE {
            let firmware = read(&self.root.join(name))?;
            self.archive.file(name, 0o644, &firmware)?;
        }
        Ok(())
    }

    /// The daemons and the tool that makes guests, where they look for each other.
    fn xen(&mut self) -> Result<()> {
        for folder in ["usr/lib", "usr/lib/xen-4.20", xen::PROGRAMS] {
            self.archive.folder(folder)?;
        }
        for name in [
            "xenstored",
            "xenconsoled",
            "xenconsole",
            "xen-init-dom0",
            "xl",
        ] {
            self.program(name, &format!("{}/{name}", xen::PROGRAMS))?;
        }
        Ok(())
    }

    /// A program, and what it is linked with.
    fn program(&mut self, name: &str, place: &str) -> Result<()> {
        let program = read(&found(self.root, &PROGRAMS, name)?)?;
        self.archive.file(place, 0o755, &program)?;
        self.linked(&program)
    }

    fn linked(&mut self, file: &[u8]) -> Result<()> {
        for library in elf::needed(file)? {
            self.library(&library)?;
        }
        Ok(())
    }

    /// A library, and what it is linked with.
    fn library(&mut self, name: &str) -> Result<()> {
        if name == LOADER || !self.libraries.insert(name.to_owned()) {
            return Ok(());
        }
        let library = read(&found(self.root, &LIBRARIES, name)?)?;
        let place = format!("lib/x86_64-linux-gnu/{name}");
        self.archive.file(&place, 0o755, &library)?;
        self.linked(&library)
    }
}

fn found(root: &Path, folders: &[&str], name: &str) -> Result<PathBuf> {
    folders
        .iter()
        .map(|folder| root.join(folder).join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{} has no {name}", root.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
