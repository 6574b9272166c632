//! The whole: `cantle run` from the start of its process to its guest's first instruction, and the memory that it takes.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::measure::Unit;
use crate::raw_kvm;
use crate::report::Report;

/// The guest's memory in MiB.
const MEMORY: u64 = 512;
/// Where the guest is loaded, and started.
const ENTRY: u32 = 0x10_0000;
/// Where its first instruction writes a 1.
const MARKER: u32 = ENTRY + 0x800;
/// How long a guest may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn run(report: &mut Report, scratch: &Path) -> Result<()> {
    let kernel = scratch.join("first-instruction.elf");
    fs::write(&kernel, kernel_image()).context("cannot write the guest")?;
    let cantle = cantle();
    first_instruction(report, &cantle, &kernel);
    overhead(report, &cantle, &kernel);
    fs::remove_file(&kernel)?;
    Ok(())
}

fn first_instruction(report: &mut Report, cantle: &Path, kernel: &Path) {
    let milliseconds = |mut command: Command, marker| {
        let guest = Guest::start(&mut command, marker)?;
        Ok(guest.took.as_secs_f64() * 1e3)
    };
    report.contest(
        "vmm/first_instruction",
        Unit::Milliseconds,
        &mut || milliseconds(ours(cantle, kernel), MARKER.into()),
        Some(&mut || milliseconds(bare()?, raw_kvm::MARKER)),
    );
}

/// What the process has resident beyond its guest's memory, a page that several processes share being divided among them.
fn overhead(report: &mut Report, cantle: &Path, kernel: &Path) {
    let mebibytes = |mut command: Command, marker| {
        let guest = Guest::start(&mut command, marker)?;
        // Threads that start after the guest are to be counted.
        std::thread::sleep(Duration::from_millis(100));
        let maps = fs::read_to_string(format!("/proc/{}/smaps", guest.child.id()))?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        Ok(beyond_ram_kib(&maps) as f64 / 1024.0)
    };
    report.contest(
        "vmm/overhead_mib",
        Unit::Mebibytes,
        &mut || mebibytes(ours(cantle, kernel), MARKER.into()),
        Some(&mut || mebibytes(bare()?, raw_kvm::MARKER)),
    );
}

/// `cantle`, built beside this program.
fn cantle() -> PathBuf {
    std::env::current_exe()
        .unwrap_or_default()
        .with_file_name("cantle")
}

fn ours(cantle: &Path, kernel: &Path) -> Command {
    let mut command = Command::new(cantle);
    command
        .args(["run", "--vcpus", "1", "--memory"])
        .arg(format!("{MEMORY}M"))
        // The guest makes no hypercalls.
        .args(["--transport", "page", "--kernel"])
        .arg(kernel);
    command
}

fn bare() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(raw_kvm::ROLE).arg((MEMORY << 20).to_string());
    command.stdin(Stdio::null());
    Ok(command)
}

/// A process whose guest has run its first instruction. Killed when dropped.
struct Guest {
    child: Child,
    /// From the process's start to that instruction.
    took: Duration,
}

impl Guest {
    /// Starts the process and waits until its guest has written to `marker`, an address in its memory.
    fn start(command: &mut Command, marker: u64) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let begun = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {name}"))?;
        let mut guest = Self {
            child,
            took: Duration::ZERO,
        };
        let mut ram = None;
        let mut byte = [0];
        while byte == [0] {
            if guest.child.try_wait()?.is_some() {
                bail!("{name}: {}", guest.last_words());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "{name}: the guest does not start"
            );
            match &ram {
                None => ram = guest.ram(),
                // Nothing is read where the file has no length yet.
                Some(ram) => drop(ram.read_at(&mut byte, marker)?),
            }
            std::thread::yield_now();
        }
        guest.took = begun.elapsed();
        Ok(guest)
    }

    /// The file that is the guest's memory, once there is one.
    fn ram(&self) -> Option<File> {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.child.id())).ok()?;
        let found = descriptors.flatten().find(|descriptor| {
            fs::read_link(descriptor.path())
                .is_ok_and(|file| file.to_string_lossy().starts_with("/memfd:guest-ram"))
        })?;
        File::open(found.path()).ok()
    }

    fn last_words(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            // What cannot be read is not said.
            let _ = stderr.read_to_string(&mut text);
        }
        text.lines().last().unwrap_or("no reason given").to_owned()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sums what is resident (`Pss`) over the mappings in `smaps`, but for those of the guest's memory. KiB.
fn beyond_ram_kib(smaps: &str) -> u64 {
    let mut ram = false;
    let mut sum = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Pss:") if !ram => {
                sum += words.next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
            }
            // Fields end in a colon; a mapping begins with its addresses.
            Some(word) if !word.ends_with(':') => ram = line.contains("/memfd:guest-ram"),
            _ => {}
        }
    }
    sum
}

/// An ELF file with a PVH entry, at which the first instruction writes to [`MARKER`]; then the vCPU halts for good.
fn kernel_image() -> Vec<u8> {
    const HEADER: u16 = 64;
    const PROGRAM: u16 = 56;
    let [a, b, c, d] = MARKER.to_le_bytes();
    // movb $1, MARKER; cli; 1: hlt; jmp 1b
    let code = [0xc6, 0x05, a, b, c, d, 1, 0xfa, 0xf4, 0xeb, 0xfd, 0];
    let mut note = Vec::new();
    for word in [4_u32, 4, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(ENTRY.to_le_bytes());

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2_u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for long in [u64::from(ENTRY), u64::from(HEADER), 0] {
        file.extend(long.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [HEADER, PROGRAM, 2, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let data = u64::from(HEADER + 2 * PROGRAM);
    let (code_len, note_len) = (code.len() as u64, note.len() as u64);
    // Kind, flags, offset, address, sizes in the file and in memory.
    let load = (1_u32, 5_u32, data, u64::from(ENTRY), code_len, 0x1000_u64);
    let notes = (4, 4, data + code_len, 0, note_len, note_len);
    for (kind, flags, offset, address, in_file, in_memory) in [load, notes] {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        for long in [offset, address, address, in_file, in_memory, 4] {
            file.extend(long.to_le_bytes());
        }
    }
    file.extend(code);
    file.extend(note);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_is_left_out() {
        let smaps = "\
55d0-55e0 r-xp 00000000 08:01 12   /usr/bin/cantle
Size:                 64 kB
Rss:                  60 kB
Pss:                  50 kB
VmFlags: rd ex
7f00-7f80 rw-s 00000000 00:01 77   /memfd:guest-ram (deleted)
Rss:                 900 kB
Pss:                 900 kB
7f80-7f90 rw-s 00000000 00:01 78   /memfd:guest-heap (deleted)
Pss:                   8 kB
7f90-7fa0 rw-p 00000000 00:00 0
Pss:                   4 kB
Pss_Dirty:             4 kB
";
        assert_eq!(beyond_ram_kib(smaps), 62);
    }

    #[test]
    fn the_image_is_where_its_headers_say() {
        let file = kernel_image();
        let long = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        let code = usize::try_from(long(64 + 8)).unwrap();
        assert_eq!(file[code], 0xc6);
        let note = usize::try_from(long(64 + 56 + 8)).unwrap();
        assert_eq!(&file[note + 12..note + 16], b"Xen\0");
        assert_eq!(note as u64 + long(64 + 56 + 32), file.len() as u64);
    }
}
