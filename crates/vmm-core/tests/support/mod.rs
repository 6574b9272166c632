//! The probe guest, its console, and the things that tests give it.

#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "some test programs use only a part of it, others all"
)]

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use cantle_vmm_core::{
    Console, End, GrantConfig, GuestConfig, GuestKind, MAX_EVENT_CHANNELS, Machine, Outcome,
    TransportChoice,
};

/// Whether a KVM is here; where not, the test says so and passes (in CI, it fails).
pub(crate) fn have_kvm() -> bool {
    have("/dev/kvm", "no KVM here")
}

/// Whether a path is here that a test cannot do without.
pub(crate) fn have(path: &str, otherwise: &str) -> bool {
    if Path::new(path).exists() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{path}: {otherwise}, and this is CI"
    );
    eprintln!("SKIPPED: {path}: {otherwise}");
    false
}

/// The probe guest's ELF file, built once where nobody has.
pub(crate) fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| {
        if let Some(path) = std::env::var_os("CANTLE_PROBE") {
            return path.into();
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let target = root.join("target/guests");
        let built = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--release",
                "--target",
                "x86_64-unknown-none",
                "--target-dir",
            ])
            .arg(&target)
            .current_dir(root.join("guests"))
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the probe guest does not build");
        target.join("x86_64-unknown-none/release/probe")
    })
}

/// A small guest that runs the probe with these options.
pub(crate) fn guest(cmdline: &str) -> GuestConfig {
    GuestConfig {
        name: "probe".into(),
        kind: GuestKind::Pvh,
        kernel: probe().to_owned(),
        initrd: None,
        cmdline: cmdline.to_owned(),
        memory: 64 << 20,
        vcpus: 1,
        max_event_channels: MAX_EVENT_CHANNELS,
        max_event_rate: None,
        disks: vec![],
        nets: vec![],
        grants: GrantConfig::default(),
        transport: TransportChoice::Page,
        xenstore_socket: None,
    }
}

/// A console without input, whose output goes to a file.
pub(crate) fn console() -> (Console, File) {
    let output = tempfile::tempfile().expect("a temporary file");
    let console = Console {
        input: OwnedFd::from(File::open("/dev/null").expect("/dev/null")),
        output: OwnedFd::from(output.try_clone().expect("one more descriptor")),
    };
    (console, output)
}

pub(crate) fn text(output: &mut File) -> String {
    output.rewind().expect("a file");
    let mut text = String::new();
    output.read_to_string(&mut text).expect("text");
    text
}

/// Runs a guest to its end, and returns that with what it printed.
pub(crate) fn run(config: GuestConfig) -> (Outcome, String) {
    let (console, mut output) = console();
    let outcome = Machine::new(config, console)
        .expect("set up")
        .run()
        .expect("run");
    (outcome, text(&mut output))
}

/// Checks that every test of the probe passed, at least `least` of them, and that it powered off.
pub(crate) fn assert_passed(outcome: &Outcome, text: &str, least: u32) {
    let done = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("probe: done "));
    let passed = done
        .and_then(|done| done.split_once(" ok, 0 failed"))
        .and_then(|(n, _)| n.parse::<u32>().ok());
    assert!(
        passed.is_some_and(|n| n >= least),
        "the probe is not content:\n{text}"
    );
    assert_eq!(outcome.end, End::PowerOff);
}
