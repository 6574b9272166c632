//! Tests against a model, QEMU's tools, crashes and lies.

mod chain;
mod crash;
mod cut;
mod features;
mod hostile;
mod interop;
mod model;
mod speed;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use cantle_image::{Format, Storage};

use crate::{Backing, CreateOptions, Options, Qcow2};

/// Whether QEMU's tools are here. Where they have to be, their absence is a failure.
fn qemu() -> bool {
    let there = Command::new("qemu-img").arg("--version").output().is_ok();
    if !there {
        assert!(
            std::env::var_os("CI").is_none(),
            "qemu-img is not installed"
        );
        eprintln!("NOT TESTED: qemu-img is not installed");
    }
    there
}

fn run(tool: &str, args: &[&str]) -> Output {
    Command::new(tool).args(args).output().unwrap()
}

fn must(tool: &str, args: &[&str]) -> String {
    let output = run(tool, args);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{tool} {args:?}: {text}");
    text
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What `qemu-img check` says: 0 is fine, 3 is leaks, anything else is damage.
fn qemu_check(path: &Path) -> (i32, String) {
    let output = run("qemu-img", &["check", "-f", "qcow2", text(path)]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), said)
}

fn qemu_fine(path: &Path) {
    let (code, said) = qemu_check(path);
    assert_eq!(code, 0, "{said}");
}

fn opened(storage: Arc<dyn Storage>) -> Qcow2 {
    let options = Options {
        backing: Backing::Absent,
        ..Options::default()
    };
    Qcow2::open(storage, &options).unwrap()
}

fn made(options: &CreateOptions) -> (Arc<std::fs::File>, Qcow2) {
    let file = Arc::new(tempfile::tempfile().unwrap());
    crate::create(Arc::new(Arc::clone(&file)), options).unwrap();
    let image = opened(Arc::new(Arc::clone(&file)));
    (file, image)
}

fn all(format: &dyn Format) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(format.geometry().bytes()).unwrap()];
    format.read(0, &mut bytes).unwrap();
    bytes
}

/// The same, by what `map` says.
fn all_mapped(format: &dyn Format) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(format.geometry().bytes()).unwrap()];
    cantle_image::format::read_mapped(format, 0, &mut bytes).unwrap();
    bytes
}

/// Bytes that differ from place to place and from `seed` to `seed`.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            u8::try_from(state >> 56).unwrap()
        })
        .collect()
}
