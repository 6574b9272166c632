//! What the kernel tells and moves by files: memory files, `/proc`, pipes.

// UNSAFETY: system calls, through the C library.
#![expect(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use crate::digest::{Digest, Random};
use crate::region::{READ, Region, WRITE};
use crate::sys::{self, Ended, Outcome, PAGE};

/// A file in memory.
pub(crate) struct MemoryFile(File);

impl MemoryFile {
    pub(crate) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// As the file has it.
    pub(crate) fn word(&self, page: usize, word: usize) -> Outcome<u64> {
        let mut bytes = [0; 8];
        let at = (page * PAGE + word * 8) as u64;
        self.0
            .read_exact_at(&mut bytes, at)
            .map_err(|error| format!("reading the file: {error}"))?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// One of so many bytes.
pub(crate) fn memory_file(bytes: usize) -> Outcome<MemoryFile> {
    // SAFETY: the name ends in a zero.
    let number = unsafe { libc::memfd_create(c"stress".as_ptr(), 0) };
    sys::checked("memfd_create", number)?;
    // SAFETY: it was just made and is nobody else's.
    let file = unsafe { File::from_raw_fd(number) };
    file.set_len(bytes as u64)
        .map_err(|error| format!("ftruncate: {error}"))?;
    Ok(MemoryFile(file))
}

/// Several MiB through a pipe, in pieces of all sizes, by two processes.
pub(crate) fn pipe(digest: &mut Digest) -> Outcome {
    const BYTES: usize = 6 << 20;
    let (mut reader, mut writer) = std::io::pipe().map_err(|error| format!("pipe: {error}"))?;
    let content = |len: usize| {
        let mut random = Random::new(5);
        let mut bytes: Vec<u8> = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(random.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    };
    let child = sys::forked(|| {
        let bytes = content(BYTES);
        let mut random = Random::new(6);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(1 + random.below(70_000)));
            if writer.write_all(piece).is_err() {
                return 1;
            }
            rest = after;
        }
        0
    })?;
    drop(writer);
    let mut got = Vec::new();
    reader
        .read_to_end(&mut got)
        .map_err(|error| format!("reading the pipe: {error}"))?;
    let ended = sys::wait(child)?;
    if ended != Ended::Exit(0) || got != content(BYTES) {
        return Err(format!("{} bytes came, the writer {ended:?}", got.len()));
    }
    digest.bytes(&got[..PAGE]);
    Ok(())
}

/// What `/proc` says of this process is so, and what is written to its memory there is there.
pub(crate) fn proc_files(digest: &mut Digest) -> Outcome {
    let region = Region::private(5, WRITE)?;
    region.protect(3..4, READ)?;
    region.write(1, 0, 0x1234_5678);
    let maps = read("/proc/self/maps")?;
    let line = |page: usize| {
        let start = format!("{:x}-", region.at(page));
        maps.lines()
            .find(|line| line.starts_with(&start))
            .and_then(|line| line.split_whitespace().nth(1))
    };
    if line(3) != Some("r--p") || line(4) != Some("rw-p") {
        return Err(format!("maps has {:?} and {:?}", line(3), line(4)));
    }
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/proc/self/mem")
        .map_err(|error| format!("/proc/self/mem: {error}"))?;
    let mut word = [0; 8];
    memory
        .read_exact_at(&mut word, region.at(1) as u64)
        .map_err(|error| format!("reading /proc/self/mem: {error}"))?;
    // A page that we may only read is written to all the same.
    memory
        .write_all_at(&word, region.at(3) as u64 + 16)
        .map_err(|error| format!("writing /proc/self/mem: {error}"))?;
    if region.read(3, 2) != 0x1234_5678 {
        return Err("what was written to /proc/self/mem is not there".to_owned());
    }
    let page_map = File::open("/proc/self/pagemap").map_err(|error| format!("pagemap: {error}"))?;
    for (page, there) in [(1, true), (2, false), (3, true), (4, false)] {
        page_map
            .read_exact_at(&mut word, (region.at(page) / PAGE * 8) as u64)
            .map_err(|error| format!("reading pagemap: {error}"))?;
        let present = u64::from_le_bytes(word) >> 63 == 1;
        if present != there {
            return Err(format!("pagemap has page {page} present: {present}"));
        }
    }
    let stat = read("/proc/self/stat")?;
    if !stat.starts_with(&format!("{} (stress)", std::process::id())) {
        return Err(format!("stat: {stat}"));
    }
    for name in [
        "cpuinfo",
        "meminfo",
        "interrupts",
        "self/smaps",
        "self/auxv",
    ] {
        if fs::read(format!("/proc/{name}")).map_or(0, |bytes| bytes.len()) == 0 {
            return Err(format!("/proc/{name} is empty"));
        }
    }
    digest.add(region.read(3, 2));
    Ok(())
}

fn read(path: &str) -> Outcome<String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}
