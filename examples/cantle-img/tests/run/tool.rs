//! The program, QEMU's, and images for both.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cantle_disk::{ImageFormat, Parents, open_format};
use tempfile::TempDir;

/// A folder in which programs run.
pub(crate) struct Bench(TempDir);

impl Bench {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cantle-img"));
        command.args(args).current_dir(self.0.path());
        command
    }

    /// Runs the program; its exit code, what it printed and what it complained.
    pub(crate) fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.command(args).output().unwrap();
        let code = output.status.code();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_ne!(code, Some(101), "{args:?}: {err}");
        (code.unwrap_or(-1), out, err)
    }

    /// Runs it, and it has to work.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {out} {err}");
        out
    }

    /// Runs it, and it has to fail, with nothing on standard output, and words about why.
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        assert_eq!((code, out.as_str()), (1, ""), "{args:?}: {err}");
        let line = err
            .lines()
            .find(|line| line.starts_with("cantle-img: cannot "));
        line.unwrap_or_else(|| panic!("{args:?}: {err}")).to_owned()
    }

    /// Runs one of QEMU's programs. `None` where it is not there, which is said, and no answer where it has to be.
    pub(crate) fn qemu(&self, args: &[&str]) -> Option<Output> {
        let (program, args) = args.split_first().unwrap();
        let output = Command::new(program)
            .args(args)
            .current_dir(self.0.path())
            .output();
        match output {
            Ok(output) => Some(output),
            Err(error) => {
                let ci = std::env::var_os("CI").is_some();
                assert!(!ci, "{program}: {error}");
                eprintln!("NOT TESTED: {program} is missing ({error})");
                None
            }
        }
    }

    /// Runs one of QEMU's programs, and it has to work; false where it is not there.
    pub(crate) fn qemu_ok(&self, args: &[&str]) -> bool {
        let Some(output) = self.qemu(args) else {
            return false;
        };
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{args:?}: {out} {err}");
        true
    }

    /// The names of what is in the folder.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// Makes a raw disk with data, zeroes and holes; its bytes.
    pub(crate) fn raw(&self, name: &str, mebibytes: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; mebibytes << 20];
        let file = File::create(self.path(name)).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        let mut random = Random(seed);
        let mut at = 0;
        while at < bytes.len() {
            let sectors = 1 + usize::try_from(random.next() % 700).unwrap();
            let end = (at + 512 * sectors).min(bytes.len());
            match random.next() % 3 {
                0 => random.fill(&mut bytes[at..end]),
                1 => file.write_all_at(&bytes[at..end], at as u64).unwrap(),
                _ => {}
            }
            if bytes[at] != 0 || bytes[end - 1] != 0 {
                file.write_all_at(&bytes[at..end], at as u64).unwrap();
            }
            at = end;
        }
        bytes
    }

    /// Writes into an image as a guest does.
    pub(crate) fn write(&self, name: &str, at: u64, bytes: &[u8]) {
        let path = self.path(name);
        let format = ImageFormat::by_name(&path);
        let disk = open_format(&path, format, false, &Parents::SameFolder).unwrap();
        disk.write(at, bytes).unwrap();
        disk.flush().unwrap();
    }

    /// All that a disk has.
    pub(crate) fn contents(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        let format = ImageFormat::by_name(&path);
        let disk = open_format(&path, format, true, &Parents::SameFolder).unwrap();
        let mut bytes = vec![0; usize::try_from(disk.geometry().bytes()).unwrap()];
        disk.read(0, &mut bytes).unwrap();
        bytes
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// QEMU's name of a format.
pub(crate) fn qemus(format: &str) -> &str {
    if format == "vhd" { "vpc" } else { format }
}

pub(crate) const FORMATS: [&str; 4] = ["raw", "vhd", "qcow2", "vmdk"];

/// Numbers that come again with their seed (xorshift).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.next().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }
}

/// Changes bytes of a file.
pub(crate) fn poke(path: &Path, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

pub(crate) fn peek<const N: usize>(path: &Path, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    File::open(path)
        .unwrap()
        .read_exact_at(&mut bytes, at)
        .unwrap();
    bytes
}
