//! The broker's look at a back end before it serves it: whether it is confined, and has the memory nowhere but in its windows.
//!
//! The set-up code in the back end is trusted, so this finds mistakes, not attackers: a program that forgot to confine itself, or
//! kept a descriptor of the memory.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::process::Pid;

/// A file by device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    pub(super) dev: u64,
    pub(super) ino: u64,
}

/// What is wrong with a back end.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// `/proc/PID` cannot be read; the broker needs `CAP_SYS_PTRACE` for a process that is not dumpable.
    #[error("cannot look into the process")]
    Unseen(#[source] io::Error),
    /// A thread without a filter of system calls, or with capabilities.
    #[error("a thread is not confined: {0}")]
    Unconfined(String),
    /// A descriptor of a guest's memory is open.
    #[error("the process has a guest's memory open as descriptor {0}")]
    Open(String),
    /// A guest's memory is mapped outside of the windows.
    #[error("the process maps a guest's memory outside of its windows: {0}")]
    Mapped(String),
}

/// Whether all threads are confined, and the files are reached through the windows (address ranges) only.
pub(super) fn inspect(pid: Pid, files: &[FileId], windows: &[Range<u64>]) -> Result<(), Unfit> {
    let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    for task in fs::read_dir(proc.join("task")).map_err(Unfit::Unseen)? {
        let status = task.map_err(Unfit::Unseen)?.path().join("status");
        let status = fs::read_to_string(status).map_err(Unfit::Unseen)?;
        if let Some(wrong) = unconfined(&status) {
            return Err(Unfit::Unconfined(wrong.to_owned()));
        }
    }
    for fd in fs::read_dir(proc.join("fd")).map_err(Unfit::Unseen)? {
        let path = fd.map_err(Unfit::Unseen)?.path();
        let file = fs::metadata(&path).map_err(Unfit::Unseen)?;
        let id = FileId {
            dev: file.dev(),
            ino: file.ino(),
        };
        if files.contains(&id) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            return Err(Unfit::Open(name.into_owned()));
        }
    }
    let maps = fs::read_to_string(proc.join("maps")).map_err(Unfit::Unseen)?;
    match mapped_elsewhere(&maps, files, windows) {
        Some(line) => Err(Unfit::Mapped(line.to_owned())),
        None => Ok(()),
    }
}

/// The line of a thread's `status` that shows it unconfined, or what is missing there.
fn unconfined(status: &str) -> Option<&str> {
    let value = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        Some((line, line.split_once(':')?.1.trim()))
    };
    let wanted = [
        ("Seccomp:", 2),
        ("NoNewPrivs:", 1),
        ("CapEff:", 0),
        ("CapPrm:", 0),
    ];
    wanted
        .into_iter()
        .find_map(|(name, wanted)| match value(name) {
            Some((_, value)) if u64::from_str_radix(value, 16) == Ok(wanted) => None,
            Some((line, _)) => Some(line),
            None => Some(name),
        })
}

/// The first line of `maps` with one of the files outside of the windows.
fn mapped_elsewhere<'a>(
    maps: &'a str,
    files: &[FileId],
    windows: &[Range<u64>],
) -> Option<&'a str> {
    maps.lines().find(|line| {
        // What cannot be read counts as wrong.
        let Some((range, id)) = map_line(line) else {
            return true;
        };
        let within = |window: &Range<u64>| window.start <= range.start && range.end <= window.end;
        files.contains(&id) && !windows.iter().any(within)
    })
}

/// `start-end perms offset major:minor inode path`.
fn map_line(line: &str) -> Option<(Range<u64>, FileId)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (major, minor) = words.nth(2)?.split_once(':')?;
    let hex = |text| u32::from_str_radix(text, 16).ok();
    let address = |text| u64::from_str_radix(text, 16).ok();
    let id = FileId {
        dev: rustix::fs::makedev(hex(major)?, hex(minor)?),
        ino: words.next()?.parse().ok()?,
    };
    Some((address(start)?..address(end)?, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";

    #[test]
    fn each_word_of_a_confined_thread_counts() {
        assert_eq!(unconfined(STATUS), None);
        for (good, bad) in [
            ("CapPrm:\t0000000000000000", "CapPrm:\t0000000000000001"),
            ("CapEff:\t0000000000000000", "CapEff:\t000001ffffffffff"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("Seccomp:\t2", "Seccomp:\t0"),
            ("Seccomp:\t2", "Seccomp:\t1"),
            ("Seccomp:\t2\n", ""),
        ] {
            let status = STATUS.replace(good, bad);
            assert!(unconfined(&status).is_some(), "{bad}");
        }
    }

    #[test]
    fn memory_outside_of_its_windows_is_found() {
        let window = |end| std::array::from_fn::<Range<u64>, 1, _>(|_| 0x10000..end);
        let maps = "10000-20000 rw-s 00000000 00:01 77 /memfd:guest (deleted)\n\
                    20000-30000 r--p 00000000 00:01 78 /x\n";
        let file = |ino| FileId {
            dev: rustix::fs::makedev(0, 1),
            ino,
        };
        assert_eq!(mapped_elsewhere(maps, &[file(77)], &window(0x20000)), None);
        assert_eq!(mapped_elsewhere(maps, &[file(79)], &[]), None);
        assert!(mapped_elsewhere(maps, &[file(77)], &window(0x1f000)).is_some());
        assert!(mapped_elsewhere(maps, &[file(78)], &window(0x20000)).is_some());
        assert!(mapped_elsewhere("what is this", &[], &[]).is_some());
    }
}
