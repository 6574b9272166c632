//! The peers: Xen's own xenstored and oxenstored, from Debian, in a folder of their own below `target/peers`.
//!
//! Nothing is installed and no Xen is needed: `cantle-xen-standin` answers in Xen's stead. A daemon is started in a folder that
//! becomes its root, since oxenstored's paths cannot be told otherwise; the script `target/peers/start` does all of it, for
//! tests, benchmarks and people.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::packages::{self, Content, Release, Set};
use crate::{process, programs, workspace};

const PACKAGES: Set = Set {
    name: "xenstore-peers",
    release: Release::Trixie,
    content: Content::Packages(&[
        "xen-utils-4.20",
        "xenstore-utils",
        "libxenmisc4.20",
        "libxenstore4",
        "libxenevtchn1",
        "libxengnttab1",
        "libxentoolcore1",
        "libxentoollog1",
        "libxencall1",
        "libxenforeignmemory1",
        "libxendevicemodel1",
        "libxenhypfs1",
        "libc6",
        "libgcc-s1",
        "zlib1g",
        "libbz2-1.0",
        "liblzma5",
        "liblzo2-2",
        "libzstd1",
        "libgcrypt20",
        "libgpg-error0",
        "libnl-3-200",
        "libnl-route-3-200",
        "libuuid1",
        "libyajl2",
    ]),
};

/// Prepares the peers and tells how to start them.
pub(crate) fn main() -> Result<ExitCode> {
    prepare()?;
    let start = workspace::target().join("peers/start");
    println!("start one of them in a folder of its own, in the foreground:");
    for peer in ["xenstored", "oxenstored"] {
        println!("  {} /tmp/{peer} {peer}", start.display());
    }
    println!("and speak to it at /tmp/xenstored/run/xenstored/socket");
    Ok(ExitCode::SUCCESS)
}

/// Makes `target/peers` ready. What is there already is left alone.
pub(crate) fn prepare() -> Result<()> {
    let peers = workspace::target().join("peers");
    let root = peers.join("root");
    let unpacked = packages::unpacked(&PACKAGES)?;
    workspace::make(&peers)?;
    if !root.join(".complete").exists() {
        // A copy of its own: the daemons write below it.
        process::output(
            Command::new("cp")
                .args(["-a", "--no-target-directory", "--"])
                .arg(&unpacked)
                .arg(&root),
        )?;
    }
    furnish(&root)?;
    stand_in(&root)?;
    let start = peers.join("start");
    fs::copy(workspace::asset("peers-start"), &start)
        .with_context(|| format!("cannot write {}", start.display()))?;
    fs::set_permissions(&start, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// What a root needs that no package of these brings.
fn furnish(root: &Path) -> Result<()> {
    workspace::make(&root.join("var"))?;
    for (link, to) in [
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
        ("bin", "usr/bin"),
        ("var/run", "../run"),
    ] {
        if fs::symlink_metadata(root.join(link)).is_err() {
            symlink(to, root.join(link)).context("cannot make the peers' root")?;
        }
    }
    for folder in [
        "run/xenstored",
        "run/xen",
        "var/log/xen",
        "etc/xen",
        "dev",
        "tmp",
    ] {
        workspace::make(&root.join(folder))?;
    }
    fs::write(root.join("dev/null"), "")?;
    Ok(())
}

/// Builds the library that stands in for Xen's.
fn stand_in(root: &Path) -> Result<()> {
    programs::build_native(&["cantle-xen-standin"])?;
    let library = workspace::target().join("release/libcantle_xen_standin.so");
    fs::copy(&library, root.join("standin.so"))
        .with_context(|| format!("cannot copy {}", library.display()))?;
    Ok(())
}
