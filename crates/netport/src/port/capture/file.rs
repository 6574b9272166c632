//! The file, and the thread that writes it.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};
use tracing::warn;

use super::queue::{Batch, Direction, Next, Queue, Record};
use crate::Part;

/// What was captured is in the file after so long at most.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Nanoseconds (`if_tsresol`).
const NANOSECONDS: u8 = 9;
/// The direction in a packet's flags (`epb_flags`).
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// How frames are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureOptions {
    /// As many bytes of each frame are written.
    pub snaplen: u32,
    /// As many bytes of frames may wait to be written; those beyond are lost to the file. Twice as many may be in memory: what waits, and
    /// what is being written.
    pub waiting_max: usize,
}

impl Default for CaptureOptions {
    /// Whole frames (262144 bytes, as tcpdump has it), and 16 MiB.
    fn default() -> Self {
        Self {
            snaplen: 262_144,
            waiting_max: 16 << 20,
        }
    }
}

/// A pcapng file that is being written. All clones write to the same one; with the last, the rest is written and the file is closed.
///
/// Whoever captures copies a frame under a lock and goes on: a thread of the file's own does the writing. A file that cannot be written any
/// more is given up, which is logged, and costs the frames nothing.
#[derive(Clone, Debug)]
pub struct CaptureFile(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Arc<Queue>,
    writer: Option<JoinHandle<()>>,
}

impl CaptureFile {
    /// Creates the file, or empties it, readable by its owner only. `interface` is a name for whoever reads it.
    ///
    /// # Errors
    ///
    /// It cannot be created or written, or no thread can be started.
    pub fn create(path: &Path, interface: &str, options: CaptureOptions) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        let mut out = PcapNgWriter::new(BufWriter::new(file)).map_err(plain)?;
        let description = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: options.snaplen,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(interface.to_owned())),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        out.write_pcapng_block(description).map_err(plain)?;
        out.get_mut().flush()?;
        let snaplen = usize::try_from(options.snaplen).unwrap_or(usize::MAX);
        let queue = Arc::new(Queue::new(options.waiting_max, snaplen));
        let theirs = queue.clone();
        let thread = std::thread::Builder::new().name("pcap".to_owned());
        let writer = thread.spawn(move || write(&theirs, out))?;
        Ok(Self(Arc::new(Shared {
            queue,
            writer: Some(writer),
        })))
    }

    /// Captures one frame of `len` bytes that lies in the parts, in order.
    pub fn take<'a>(
        &self,
        direction: Direction,
        len: usize,
        parts: impl IntoIterator<Item = Part<'a>>,
    ) {
        self.0.queue.push(direction, len, parts.into_iter());
    }

    /// How many frames are not in the file since there was no room or it was given up.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.queue.lost_in_all()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            warn!("the writer of a capture file has failed");
        }
    }
}

/// Writes until nobody captures any more.
fn write(queue: &Queue, mut out: PcapNgWriter<BufWriter<File>>) {
    let mut batch = Batch::default();
    // When what was written last is to be flushed.
    let mut due: Option<Instant> = None;
    loop {
        let patience = due.map(|due| due.saturating_duration_since(Instant::now()));
        batch.clear();
        let next = queue.next(&mut batch, patience);
        let mut result = match next {
            Next::Write => write_batch(&batch, &mut out).map_err(plain),
            Next::Flush | Next::End => out.get_mut().flush(),
        };
        if next == Next::Write {
            let now = Instant::now();
            if due.is_some_and(|due| due <= now) {
                result = result.and_then(|()| out.get_mut().flush());
                due = None;
            } else {
                due = due.or_else(|| now.checked_add(FLUSH_EVERY));
            }
        } else {
            due = None;
        }
        if let Err(error) = result {
            warn!(%error, "a capture file is given up");
            queue.give_up(batch.records.len());
            // It would be tried again when it is dropped, and fail again.
            let _ = out.into_inner().into_parts();
            return;
        }
        if next == Next::End {
            return;
        }
    }
}

fn write_batch(batch: &Batch, out: &mut PcapNgWriter<BufWriter<File>>) -> Result<(), PcapError> {
    let mut bytes = batch.bytes.as_slice();
    for record in &batch.records {
        let Some((data, rest)) = bytes.split_at_checked(record.captured) else {
            break;
        };
        bytes = rest;
        out.write_pcapng_block(packet(record, data))?;
    }
    Ok(())
}

fn packet<'a>(record: &Record, data: &'a [u8]) -> EnhancedPacketBlock<'a> {
    let mut options = vec![EnhancedPacketOption::Flags(match record.direction {
        Direction::Sent => OUTBOUND,
        Direction::Received => INBOUND,
    })];
    if record.lost > 0 {
        options.push(EnhancedPacketOption::DropCount(record.lost));
    }
    EnhancedPacketBlock {
        interface_id: 0,
        timestamp: record.time,
        original_len: u32::try_from(record.len).unwrap_or(u32::MAX),
        data: Cow::Borrowed(data),
        options,
    }
}

fn plain(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other.to_string()),
    }
}
