//! Kernels and initial file systems: for the lab's hosts and for the guests that run on them.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::cpio::Archive;
use crate::modules::Modules;
use crate::packages::{self, Content, Release, Set};
use crate::workspace;

mod tools;

pub(crate) use tools::Tools;

/// The kernels of one Debian release: the cloud flavour for guests, the full one for hosts (and as a guest).
const KERNEL_SETS: [Set; 2] = [
    Set {
        name: "kernels-debian12",
        release: Release::Bookworm,
        content: Content::BehindMeta(&["linux-image-amd64", "linux-image-cloud-amd64"]),
    },
    Set {
        name: "kernels-debian13",
        release: Release::Trixie,
        content: Content::BehindMeta(&["linux-image-amd64", "linux-image-cloud-amd64"]),
    },
];

const BUSYBOX_SET: Set = Set {
    name: "busybox",
    release: Release::Trixie,
    content: Content::Packages(&["busybox-static"]),
};

const GRUB_SET: Set = Set {
    name: "grub",
    release: Release::Trixie,
    content: Content::Packages(&["grub-xen-host"]),
};

/// What a lab host needs beyond its kernel, in this order.
const HOST_MODULES: [&str; 14] = [
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "9pnet_virtio",
    "9p",
    "irqbypass",
    "kvm",
    "kvm_amd",
    "tun",
    "bridge",
    "veth",
    "loop",
    "crc32c_generic",
    "ext4",
];

/// What a host of Xen's needs beyond its kernel, in this order.
const XEN_HOST_MODULES: [&str; 5] = [
    "xen_privcmd",
    "xenfs",
    "xen_evtchn",
    "xen_gntdev",
    "xen_gntalloc",
];

/// What a guest needs beyond its kernel, in this order.
const GUEST_MODULES: [&str; 5] = [
    "crc32c_generic",
    "ext4",
    "xen_blkfront",
    "xen_netfront",
    "xen_evtchn",
];

/// Raised when an image's layout changes, so that images of an older layout are built anew.
const LAYOUT: u32 = 1;

/// A Debian release, as a lab's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Debian {
    /// Debian 12, Linux 6.1: KVM without Xen support.
    Debian12,
    /// Debian 13, Linux 6.12: KVM with Xen support.
    Debian13,
}

impl Debian {
    /// The name used on the command line and for folders.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Debian12 => "debian12",
            Self::Debian13 => "debian13",
        }
    }

    fn kernels(self) -> &'static Set {
        let [twelve, thirteen] = &KERNEL_SETS;
        match self {
            Self::Debian12 => twelve,
            Self::Debian13 => thirteen,
        }
    }
}

/// Which of a release's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    /// For virtual machines; lacks modules that a lab host needs.
    Cloud,
    /// For real ones.
    Generic,
}

/// A guest: a release and one of its kernels. Their payloads differ in how they are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Guest {
    /// Debian 12's cloud kernel, 6.1 (LZ4).
    Debian12,
    /// Debian 13's cloud kernel, 6.12 (Zstandard).
    Debian13,
    /// Debian 12's full kernel (XZ).
    Debian12Generic,
    /// Debian 13's full kernel (Zstandard).
    Debian13Generic,
}

impl Guest {
    /// Each release's usual guest.
    pub(crate) const USUAL: [Self; 2] = [Self::Debian12, Self::Debian13];

    /// All there are.
    pub(crate) const ALL: [Self; 4] = [
        Self::Debian12,
        Self::Debian13,
        Self::Debian12Generic,
        Self::Debian13Generic,
    ];

    /// The name used on the command line and for folders.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Debian12 => "debian12",
            Self::Debian13 => "debian13",
            Self::Debian12Generic => "debian12-generic",
            Self::Debian13Generic => "debian13-generic",
        }
    }

    fn parts(self) -> (Debian, Flavour) {
        match self {
            Self::Debian12 => (Debian::Debian12, Flavour::Cloud),
            Self::Debian13 => (Debian::Debian13, Flavour::Cloud),
            Self::Debian12Generic => (Debian::Debian12, Flavour::Generic),
            Self::Debian13Generic => (Debian::Debian13, Flavour::Generic),
        }
    }
}

/// A kernel and its initial file system.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// A bzImage.
    pub(crate) kernel: PathBuf,
    /// An uncompressed cpio archive; more archives may be appended.
    pub(crate) initrd: PathBuf,
}

/// The static busybox.
pub(crate) fn busybox() -> Result<PathBuf> {
    let root = packages::unpacked(&BUSYBOX_SET)?;
    Ok(root.join("usr/bin/busybox"))
}

/// A lab host's kernel and initial file system, without the programs and the init script, which [`overlay`] adds.
pub(crate) fn host(debian: Debian) -> Result<Image> {
    let folder = workspace::lab("hosts")?.join(debian.name());
    build(debian, Flavour::Generic, &HOST_MODULES, None, &folder)
}

/// The kernel and the initial file system of a host of Xen's, a Debian 13, without what it is to run.
pub(crate) fn xen_host() -> Result<Image> {
    let folder = workspace::lab("hosts")?.join("xen");
    let init = workspace::asset("xen-init.sh");
    build(
        Debian::Debian13,
        Flavour::Generic,
        &XEN_HOST_MODULES,
        Some(&init),
        &folder,
    )
}

/// A guest's kernel and initial file system; below `target/lab/guests`, which a lab host sees as `/guests`.
pub(crate) fn guest(guest: Guest) -> Result<Image> {
    let (debian, flavour) = guest.parts();
    let folder = workspace::lab("guests")?.join(guest.name());
    let init = workspace::asset("guest-init.sh");
    build(debian, flavour, &GUEST_MODULES, Some(&init), &folder)
}

/// GRUB as a PV guest's kernel, as Debian has it for hosts: it looks for `/boot/grub/grub.cfg` on the guest's disks. In a folder of guests, as [`guest()`].
pub(crate) fn grub() -> Result<PathBuf> {
    let folder = workspace::lab("guests")?.join("grub");
    let file = folder.join("grub-x86_64-xen.bin");
    if !file.exists() {
        let root = packages::unpacked(&GRUB_SET)?;
        workspace::make(&folder)?;
        let fresh = file.with_extension("new");
        let packed = root.join("usr/lib/grub-xen/grub-x86_64-xen.bin");
        fs::copy(&packed, &fresh).with_context(|| format!("no {}", packed.display()))?;
        fs::rename(&fresh, &file)?;
    }
    Ok(file)
}

/// The archive with some of a guest's own release's tools, to be appended to its initial file system; beside that one.
pub(crate) fn tools(guest: Guest, tools: Tools) -> Result<PathBuf> {
    let (debian, _) = guest.parts();
    let folder = workspace::lab("guests")?.join(guest.name());
    let archive = folder.join(format!("{}.cpio", tools.name()));
    if archive.exists() {
        return Ok(archive);
    }
    let root = tools.unpacked(debian)?;
    workspace::make(&folder)?;
    let fresh = archive.with_extension("new");
    let out = BufWriter::new(
        File::create(&fresh).with_context(|| format!("cannot write {}", fresh.display()))?,
    );
    tools.pack(&root, out)?;
    fs::rename(&fresh, &archive)?;
    Ok(archive)
}

/// The release that a guest is of.
pub(crate) fn release(guest: Guest) -> Debian {
    guest.parts().0
}

/// Writes the archive that is appended to a host's: its init script and the programs, in `/usr/local/bin`.
pub(crate) fn overlay(init: &Path, programs: &[PathBuf], out: impl Write) -> Result<()> {
    let mut archive = Archive::new(out);
    archive.file("init", 0o755, &read(init)?)?;
    for folder in ["usr/local", "usr/local/bin"] {
        archive.folder(folder)?;
    }
    for program in programs {
        let Some(name) = program.file_name().and_then(|n| n.to_str()) else {
            bail!("{} has no usable file name", program.display());
        };
        archive.file(&format!("usr/local/bin/{name}"), 0o755, &read(program)?)?;
    }
    archive.finish()?;
    Ok(())
}

fn build(
    debian: Debian,
    flavour: Flavour,
    modules: &[&str],
    init: Option<&Path>,
    folder: &Path,
) -> Result<Image> {
    let image = Image {
        kernel: folder.join("vmlinuz"),
        initrd: folder.join("initrd"),
    };
    let root = packages::unpacked(debian.kernels())?;
    let busybox = busybox()?;
    let version = version(&root, flavour)?;
    let init = init.map(read).transpose()?;
    let key = format!(
        "layout {LAYOUT}\nkernel {version}\nmodules {}\n\n{}",
        modules.join(" "),
        String::from_utf8_lossy(init.as_deref().unwrap_or_default())
    );
    let key_file = folder.join("built-from");
    if fs::read_to_string(&key_file).is_ok_and(|built| built == key) {
        return Ok(image);
    }
    workspace::make(folder)?;
    let kernel = root.join("boot").join(format!("vmlinuz-{version}"));
    fs::copy(&kernel, &image.kernel)
        .with_context(|| format!("cannot copy {}", kernel.display()))?;
    let modules = Modules::scan(&modules_folder(&root)?.join(&version))?
        .load_order(modules)
        .with_context(|| format!("modules of kernel {version}"))?;
    // Put in its place when it is whole: a lab may be reading the old one.
    let fresh = folder.join("initrd.new");
    let out = BufWriter::new(
        File::create(&fresh).with_context(|| format!("cannot write {}", fresh.display()))?,
    );
    let mut archive = base(out, &read(&busybox)?)?;
    let mut names = String::new();
    for module in &modules {
        archive.file(
            &format!("modules/{}.ko", module.name),
            0o644,
            &module.object,
        )?;
        names.push_str(&module.name);
        names.push('\n');
    }
    archive.file("modules/order", 0o644, names.as_bytes())?;
    if let Some(init) = init {
        archive.file("init", 0o755, &init)?;
    }
    archive.finish()?;
    fs::rename(&fresh, &image.initrd)?;
    fs::write(&key_file, key)?;
    Ok(image)
}

/// The folders that every initial file system has, a console and busybox.
fn base<W: Write>(out: W, busybox: &[u8]) -> io::Result<Archive<W>> {
    let mut archive = Archive::new(out);
    let folders = [
        "bin", "dev", "etc", "guests", "mnt", "modules", "proc", "root", "run", "sbin", "share",
        "sys", "tmp", "usr", "usr/bin", "usr/sbin",
    ];
    for folder in folders {
        archive.folder(folder)?;
    }
    archive.device("dev/console", 5, 1)?;
    archive.device("dev/null", 1, 3)?;
    archive.file("bin/busybox", 0o755, busybox)?;
    archive.link("bin/sh", "busybox")?;
    Ok(archive)
}

/// The version of the one kernel of this flavour in an unpacked set.
fn version(root: &Path, flavour: Flavour) -> Result<String> {
    let folder = modules_folder(root)?;
    for entry in fs::read_dir(&folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.contains("-cloud-") == (flavour == Flavour::Cloud) {
            return Ok(name);
        }
    }
    bail!("{} has no {flavour:?} kernel", root.display())
}

/// Debian 12 has its modules in `/lib`, Debian 13 in `/usr/lib`.
fn modules_folder(root: &Path) -> Result<PathBuf> {
    let candidates = [root.join("lib/modules"), root.join("usr/lib/modules")];
    match candidates.into_iter().find(|folder| folder.is_dir()) {
        Some(folder) => Ok(folder),
        None => bail!("{} has no kernel modules", root.display()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
