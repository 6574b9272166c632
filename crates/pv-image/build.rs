//! Builds the monitor for `x86_64-unknown-none`, in a target folder of this script's own so that no lock is waited for.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const TARGET: &str = "x86_64-unknown-none";
const PACKAGE: &str = "cantle-pv-monitor";

fn main() {
    let out = PathBuf::from(variable("OUT_DIR"));
    let crates = Path::new(&variable("CARGO_MANIFEST_DIR")).join("..");
    let monitor = crates.join("pv-monitor");
    for sources in [&monitor, &crates.join("abi")] {
        for part in ["Cargo.toml", "build.rs", "link.ld", "src"] {
            let part = sources.join(part);
            if part.exists() {
                println!("cargo:rerun-if-changed={}", part.display());
            }
        }
    }
    println!("cargo:rerun-if-changed=build.rs");

    let target = out.join("monitor");
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .args(["build", "--quiet", "--release", "--locked"])
        .args(["--package", PACKAGE, "--bin", PACKAGE])
        .args(["--target", TARGET])
        .arg("--target-dir")
        .arg(&target)
        .arg("--manifest-path")
        .arg(monitor.join("Cargo.toml"));
    // What the build outside is told of its own target, tools and flags is not meant for this one.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if is_of_the_other_build(&name) {
            cargo.env_remove(&*name);
        }
    }
    cargo
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "none")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(_) => fail(&format!(
            "the monitor does not build for {TARGET}; where the target is missing: rustup target add {TARGET}"
        )),
        Err(error) => fail(&format!("cargo cannot be started: {error}")),
    }
    let built = target.join(TARGET).join("release").join(PACKAGE);
    if let Err(error) = std::fs::copy(&built, out.join("monitor.elf")) {
        fail(&format!("{}: {error}", built.display()));
    }
}

fn is_of_the_other_build(name: &str) -> bool {
    const PREFIXES: [&str; 6] = [
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_PROFILE_",
        "CARGO_BUILD_",
        "CARGO_TARGET_",
        "CLIPPY_",
    ];
    const NAMES: [&str; 6] = [
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "TARGET",
        "CARGO_MAKEFLAGS",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || NAMES.contains(&name)
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| fail(&format!("cargo has not set {name}")))
}

fn fail(why: &str) -> ! {
    println!("cargo:warning={why}");
    eprintln!("{why}");
    exit(1)
}
