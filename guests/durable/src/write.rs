//! Writing: batch after batch, each made durable and then said to be.

use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::thread;

use crate::content::{self, SECTOR};
use crate::disk::{self, Buffer, Way};
use crate::plan::{self, LENGTH_MAX, Lane};
use crate::{Disk, broken};

/// Writes to all lanes of the disks at once, until `batches` of each are done, or for ever.
pub(crate) fn run(run: u64, disks: &[Disk], batches: Option<u64>) -> Result<(), String> {
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for disk in disks {
            let size = disk::open(&disk.path, false, Way::Cached)
                .and_then(|file| disk::size(&file))
                .map_err(broken(disk))?;
            for lane in plan::lanes(size) {
                threads.push(scope.spawn(move || {
                    one(run, disk, lane, batches.unwrap_or(u64::MAX)).map_err(broken(disk))
                }));
            }
        }
        for thread in threads {
            thread
                .join()
                .map_err(|_| "a writer panicked".to_owned())??;
        }
        Ok(())
    })
}

/// The last lane writes through the page cache, so that what is made durable comes in other sizes and orders than it was written in.
fn one(run: u64, disk: &Disk, lane: Lane, batches: u64) -> io::Result<()> {
    let way = if lane.number + 1 == plan::LANES {
        Way::Cached
    } else {
        Way::Direct
    };
    let file = disk::open(&disk.path, true, way)?;
    let mut buffer = Buffer::new(LENGTH_MAX);
    for n in 1..=batches {
        let batch = plan::batch(run, n);
        for extent in lane.writes(batch) {
            let len = usize::try_from(extent.len).map_err(|_| io::ErrorKind::InvalidInput)?;
            let bytes = buffer.first(len)?;
            content::fill(bytes, disk.tag, extent.offset / SECTOR as u64, batch);
            file.write_all_at(bytes, extent.offset)?;
        }
        file.sync_data()?;
        // One write for the whole line: the lanes share the console.
        let line = format!("durable {} {} {n}\n", disk.name, lane.number);
        io::stdout().lock().write_all(line.as_bytes())?;
    }
    Ok(())
}
