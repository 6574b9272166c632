//! What goes to the new program besides the state: which descriptor is what.
//!
//! It is JSON in a memory file, since an older or a newer program may have to read it: unknown fields are ignored, and a field that is
//! added later has a default. A connection is found in the state by its socket's descriptor or by its ring's domain.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};

use crate::guests::descriptor_path;

/// The format of [`Table`], raised where an older program could not go on from a newer table.
const FORMAT: u32 = 1;

/// A descriptor's number, the same in the old program and in the new one.
pub(super) type Fd = i32;

/// The hand-over.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Table {
    format: u32,
    /// The migration stream.
    pub(super) stream: Fd,
    /// The program that hands over, and how it was called: to go back to where the new one fails.
    pub(super) previous: Fd,
    pub(super) previous_args: Vec<String>,
    /// Why the program that was to take over did not: the previous one is called with it.
    #[serde(default)]
    pub(super) failure: Option<String>,
    /// Who asked for the update and waits for its answer.
    pub(super) asked: Asked,
    /// Monotonic nanoseconds at which the last batch was served.
    pub(super) paused_at: u64,
    /// The socket that clients connect to, and the one for VMMs.
    pub(super) listener: Fd,
    #[serde(default)]
    pub(super) domains: Option<Fd>,
    #[serde(default)]
    pub(super) sockets: Vec<Socket>,
    #[serde(default)]
    pub(super) vmms: Vec<Vmm>,
    /// Paths that are removed at the end.
    #[serde(default)]
    pub(super) files: Vec<String>,
    /// The journal's folder, as an absolute path.
    #[serde(default)]
    pub(super) journal: Option<String>,
    /// The file that is logged to, where an operator has changed it.
    #[serde(default)]
    pub(super) log_file: Option<String>,
}

/// The request that is to be answered, and by which connection.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) by: By,
    pub(super) req_id: u32,
    pub(super) tx_id: u32,
}

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum By {
    Socket(Fd),
    Ring(u16),
}

/// A client's socket.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Socket {
    pub(super) fd: Fd,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) unsent: Vec<u8>,
}

/// A VMM's connection, and the rings that it introduced.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Vmm {
    pub(super) fd: Fd,
    #[serde(default)]
    pub(super) rings: Vec<Ring>,
}

/// A guest's ring.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ring {
    pub(super) domid: u16,
    pub(super) port: u32,
    pub(super) features: u32,
    pub(super) offset: u64,
    pub(super) memory: Fd,
    pub(super) wake: Fd,
    pub(super) notify: Fd,
    /// It is not served until the guest reconnects.
    #[serde(default)]
    pub(super) broken: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) unsent: Vec<u8>,
}

impl Table {
    pub(super) fn new(stream: Fd, previous: Fd, listener: Fd, asked: Asked) -> Self {
        Self {
            format: FORMAT,
            stream,
            previous,
            previous_args: Vec::new(),
            failure: None,
            asked,
            paused_at: now(),
            listener,
            domains: None,
            sockets: Vec::new(),
            vmms: Vec::new(),
            files: Vec::new(),
            journal: None,
            log_file: None,
        }
    }

    /// Puts it into a memory file.
    pub(super) fn write(&self) -> Result<File> {
        let text = serde_json::to_vec(self).context("the table cannot be written")?;
        sealed("cantle-xenstored table", &text)
    }

    /// Reads it from a descriptor, which stays as it is.
    pub(super) fn read(fd: Fd) -> Result<Self> {
        let table: Self =
            serde_json::from_slice(&content(fd)?).context("the table is not understood")?;
        ensure!(
            table.format <= FORMAT,
            "the table is of a later format: {}",
            table.format
        );
        Ok(table)
    }
}

/// Monotonic nanoseconds.
pub(super) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let [seconds, rest] = [time.tv_sec, time.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

/// What an inherited memory file holds.
pub(super) fn content(fd: Fd) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(descriptor_path(fd))
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .with_context(|| format!("descriptor {fd} cannot be read"))?;
    Ok(bytes)
}

/// A memory file with this content, which nobody changes any more.
pub(super) fn sealed(name: &str, content: &[u8]) -> Result<File> {
    let make = || -> std::io::Result<File> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(rustix::fs::memfd_create(name, flags)?);
        file.write_all(content)?;
        file.seek(SeekFrom::Start(0))?;
        let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, all)?;
        Ok(file)
    };
    make().with_context(|| format!("no memory file for the {name}"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn table() -> Table {
        let asked = Asked {
            by: By::Socket(9),
            req_id: 1,
            tx_id: 0,
        };
        let mut table = Table::new(3, 4, 5, asked);
        table.sockets.push(Socket {
            fd: 9,
            unsent: vec![1, 0, 255],
        });
        table
    }

    #[test]
    fn a_table_is_read_as_it_was_written_and_cannot_be_changed() {
        let mut file = table().write().unwrap();
        let read = Table::read(file.as_raw_fd()).unwrap();
        assert_eq!(
            format!("{read:?}"),
            format!("{:?}", table().with_time_of(&read))
        );
        assert!(file.write_all(b"x").is_err());
    }

    impl Table {
        fn with_time_of(mut self, other: &Self) -> Self {
            self.paused_at = other.paused_at;
            self
        }
    }

    #[test]
    fn fields_that_are_not_known_are_ignored_and_later_formats_refused() {
        let mut value = serde_json::to_value(table()).unwrap();
        value["of-a-later-version"] = 1.into();
        let file = sealed("t", value.to_string().as_bytes()).unwrap();
        Table::read(file.as_raw_fd()).unwrap();
        value["format"] = (FORMAT + 1).into();
        let file = sealed("t", value.to_string().as_bytes()).unwrap();
        assert!(Table::read(file.as_raw_fd()).is_err());
    }
}
