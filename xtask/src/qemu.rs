//! The emulator: Debian 13's QEMU, run from where it was unpacked, through the C library it came with.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use crate::packages::{self, Content, Release, Set};
use crate::process;

/// Debian 12's own QEMU has faults in its emulation that guests with two vCPUs run into; this one has not.
pub(crate) const SET: Set = Set {
    name: "emulator",
    release: Release::Trixie,
    content: Content::Closure(&["qemu-system-x86"]),
};

/// A machine to emulate.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    /// A bzImage.
    pub(crate) kernel: &'a Path,
    /// Its initial file system.
    pub(crate) initrd: &'a Path,
    /// Its command line, after `console=ttyS0`.
    pub(crate) cmdline: &'a str,
    /// MiB of RAM.
    pub(crate) memory: u32,
    /// Number of CPUs.
    pub(crate) cpus: u32,
    /// The file that the serial console goes to.
    pub(crate) console: &'a Path,
    /// Virtio-serial ports: name, Unix socket that is listened on.
    pub(crate) ports: &'a [(&'a str, PathBuf)],
    /// Shared folders: 9p tag, folder, read-only.
    pub(crate) folders: &'a [(&'a str, PathBuf, bool)],
    /// Raw images, as virtio disks in this order.
    pub(crate) disks: &'a [PathBuf],
}

/// The emulated processor: AMD's virtualisation with nested paging, and little else. With all that TCG knows (`max`), about
/// one guest in four is lost to the emulation (see the demo's `lost`); with this one, one in fourteen.
/// Without vGIF (`max` has it, this has not) and NRIPS, guests of Linux 6.12's KVM no longer take one interrupt twice.
const CPU: &str = "EPYC,+svm,+npt,-nrip-save";

/// The command that emulates `machine`; it has an AMD CPU with virtualisation and nested paging.
pub(crate) fn command(machine: &Machine<'_>) -> Result<Command> {
    let root = packages::unpacked(&SET)?;
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let loader = root.join("usr/lib64/ld-linux-x86-64.so.2");
    ensure!(loader.exists(), "{} is missing", loader.display());
    // The emulator must not outlive this process, however that ends.
    let mut qemu = if process::exists("setpriv") {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--pdeathsig", "KILL"]).arg(loader);
        setpriv
    } else {
        Command::new(loader)
    };
    qemu.arg("--library-path")
        .arg(&libraries)
        .arg(root.join("usr/bin/qemu-system-x86_64"))
        .env("QEMU_MODULE_DIR", libraries.join("qemu"));
    for data in ["usr/share/qemu", "usr/share/seabios"] {
        qemu.arg("-L").arg(root.join(data));
    }
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ])
    .args(["-machine", "q35", "-accel", "tcg,thread=multi"])
    .args(["-cpu", CPU])
    .args(["-smp", &machine.cpus.to_string()])
    .args(["-m", &machine.memory.to_string()])
    .args(["-serial", &option("file:", machine.console)?])
    .arg("-kernel")
    .arg(machine.kernel)
    .arg("-initrd")
    .arg(machine.initrd)
    .arg("-append")
    .arg(format!("console=ttyS0 panic=-1 quiet {}", machine.cmdline));
    for (index, disk) in machine.disks.iter().enumerate() {
        let file = option(&format!("if=none,id=disk{index},format=raw,file="), disk)?;
        qemu.args(["-drive", &file]);
        qemu.args(["-device", &format!("virtio-blk-pci,drive=disk{index}")]);
    }
    for (tag, folder, read_only) in machine.folders {
        let access = if *read_only { ",readonly=on" } else { "" };
        let start =
            format!("local,security_model=none,multidevs=remap,mount_tag={tag}{access},path=");
        qemu.args(["-virtfs", &option(&start, folder)?]);
    }
    qemu.args(["-device", "virtio-serial-pci"]);
    for (name, socket) in machine.ports {
        let chardev = option(&format!("socket,id={name},path="), socket)?;
        qemu.args(["-chardev", &chardev]);
        qemu.args([
            "-device",
            &format!("virtserialport,chardev={name},name={name}"),
        ]);
    }
    qemu.stdin(Stdio::null());
    Ok(qemu)
}

/// `start` and a path as one of QEMU's comma-separated options.
fn option(start: &str, path: &Path) -> Result<String> {
    let path = OsString::from(path);
    let Some(path) = path.to_str() else {
        anyhow::bail!("{} is not UTF-8", path.display());
    };
    Ok(format!("{start}{}", path.replace(',', ",,")))
}
