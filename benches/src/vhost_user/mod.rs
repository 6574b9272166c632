//! The peer of the block back end: `qemu-storage-daemon` with a file as a vhost-user-blk export, and a driver of it.
//!
//! ```ignore
//! let options = Options { direct: true, queues: 1, iothread: true };
//! let mut disk = Disk::start(path, &options)?; // the daemon lives until `disk` is dropped
//! let took = disk.random(Op::Read, 4096, 32, count, seed)?; // 32 in flight in each queue
//! let took = disk.sequential(Op::Read, 1 << 20, 2, count)?;
//! let before = disk.cpu_time()?; // of the daemon alone
//! let took = disk.random(Op::Read, 4096, 32, count, seed)?;
//! let per_cpu_second = count as f64 / (disk.cpu_time()? - before).as_secs_f64();
//! ```
//!
//! The driver does what Linux's virtio-blk does, without a guest around it: rings of 256 entries, a request is one entry with a table
//! of three descriptors (header, data, status), and both sides' notifications are suppressed by `VIRTIO_RING_F_EVENT_IDX`.
//! The data of a request is one piece of memory, which is the kindest case: a guest's is often scattered.
//!
//! For what the daemon itself costs, take a file of a disk's file system in the page cache (`direct: false`), whose reads io_uring does at
//! once. Those of a tmpfs it hands to worker threads: their wake-ups are then most of the cost, and depend on how busy the machine is.

mod daemon;
mod net;
mod queue;
mod session;
#[cfg(test)]
mod tests;
mod virtqueue;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cantle_blkback::test_utils::Random;

use crate::disk_op::Op;
use daemon::Daemon;
pub(crate) use net::Nic;
use queue::Queue;
use session::Session;

/// How the daemon serves the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// With `O_DIRECT`.
    pub(crate) direct: bool,
    /// Virtqueues. The daemon serves all of them in one thread.
    pub(crate) queues: usize,
    /// In a thread of its own instead of the daemon's main loop.
    pub(crate) iothread: bool,
}

/// A disk that `qemu-storage-daemon` serves. After an error it is not to be used again.
#[derive(Debug)]
pub(crate) struct Disk {
    queues: Vec<Queue>,
    session: Session,
    /// The last to go.
    daemon: Daemon,
}

impl Disk {
    /// Starts a daemon for a file, which is to be writable, and connects to it.
    ///
    /// The daemon dies with the thread that calls this, if not before.
    ///
    /// # Errors
    ///
    /// The daemon is not installed or refuses the file, with what it said; or it lacks a feature that the driver needs.
    pub(crate) fn start(path: &Path, options: &Options) -> Result<Self> {
        let (daemon, stream) = Daemon::start(path, options)?;
        let (session, queues) = Session::open(stream, options.queues)?;
        Ok(Self {
            queues,
            session,
            daemon,
        })
    }

    /// `count` requests of `bytes` at random places, as many as `depth` at a time in each queue: how long they took. Each queue has
    /// a thread of its own where there are several.
    ///
    /// # Errors
    ///
    /// The daemon fails a request or does not answer; `depth` or `depth * bytes` is more than a queue has room for.
    pub(crate) fn random(
        &mut self,
        op: Op,
        bytes: usize,
        depth: usize,
        count: u64,
        seed: u64,
    ) -> Result<Duration> {
        let blocks = self.blocks(bytes)?;
        self.on_all(count, |queue, n, count| {
            let mut random = Random::new(seed.wrapping_add(n << 32));
            queue.drive(op, bytes, depth, count, || {
                random.below(blocks) * bytes as u64
            })
        })
    }

    /// `count` requests of `bytes`, one after the other from the disk's beginning on and again from there at its end, `depth` at a
    /// time in each queue: how long they took. The second of two queues begins in the middle, and so on.
    ///
    /// # Errors
    ///
    /// As [`random`](Self::random).
    pub(crate) fn sequential(
        &mut self,
        op: Op,
        bytes: usize,
        depth: usize,
        count: u64,
    ) -> Result<Duration> {
        let blocks = self.blocks(bytes)?;
        let apart = blocks / self.queues.len() as u64;
        self.on_all(count, |queue, n, count| {
            let mut places = (n * apart..blocks).chain((0..blocks).cycle());
            queue.drive(op, bytes, depth, count, || {
                places.next().unwrap_or(0) * bytes as u64
            })
        })
    }

    /// The CPU time that the daemon has used since its start, the kernel's work for it included.
    ///
    /// # Errors
    ///
    /// The daemon is gone.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        self.daemon.cpu_time()
    }

    /// How many requests of so many bytes the disk has room for.
    fn blocks(&self, bytes: usize) -> Result<u64> {
        let blocks = self.session.capacity() / (bytes as u64).max(1);
        ensure!(
            blocks > 0,
            "a request of {bytes} bytes is larger than the disk"
        );
        Ok(blocks)
    }

    /// Divides `count` requests among the queues; `load` is given a queue, its number and its share.
    fn on_all(
        &mut self,
        count: u64,
        load: impl Fn(&mut Queue, u64, u64) -> Result<()> + Sync,
    ) -> Result<Duration> {
        let begun = Instant::now();
        if let [queue] = &mut self.queues[..] {
            load(queue, 0, count)?;
            return Ok(begun.elapsed());
        }
        let queues = self.queues.len() as u64;
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for (n, queue) in (0..).zip(&mut self.queues) {
                let share = count / queues + u64::from(n < count % queues);
                let load = &load;
                threads.push(scope.spawn(move || load(queue, n, share)));
            }
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("a load does not panic"))
        })?;
        Ok(begun.elapsed())
    }
}
