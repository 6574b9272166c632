//! Who takes part: the back end with its front end, the bare loop, the peer, fio.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use cantle_blkback::image::{Caching, Disk, RawDisk as RawImageDisk, RawOptions};
use cantle_blkback::test_utils::{BlkFront, Random, Served, World};

use super::case::{Case, Place};
use super::{FILE_MIB, MIB};
use crate::cpu_clock::{CpuClock, thread_time};
use crate::fio::{Fio, Job};
use crate::raw_disk::RawDisk;
use crate::rounds::Pace;
use crate::vhost_user;

/// The guest's memory: the requests in flight and the rings, 256 MiB.
const GUEST_PAGES: usize = 1 << 16;

/// Ours: a world with a disk and a front end.
pub(super) struct Ours {
    front: BlkFront,
    _served: Served,
    _world: World,
    case: Case,
    seed: u64,
}

impl Ours {
    pub(super) fn start(case: &Case, disk: Arc<dyn Disk>) -> Result<Self> {
        let world = World::with_memory(GUEST_PAGES);
        let served = world.serve(world.backend_of(disk, case.back())?);
        Ok(Self {
            front: world.front_with(case.front())?,
            _served: served,
            _world: world,
            case: *case,
            seed: 1,
        })
    }

    /// `count` requests, on all queues together: how long they took.
    pub(super) fn drive(&mut self, count: u64) -> Result<Duration> {
        let (load, depth) = (self.case.load, self.case.front_depth());
        let op = load.op().of_ring();
        self.seed += 1;
        let seed = self.seed;
        let each = count.div_ceil(self.case.queues.into());
        let run = |n: u64, queue: &mut cantle_blkback::test_utils::FrontQueue| {
            let seed = seed + (n << 32);
            match load.is_random() {
                true => queue.random(op, load.bytes(), depth, each, seed),
                false => queue.sequential(op, load.bytes(), depth, each),
            }
        };
        if self.case.queues == 1 {
            let queue = self.front.queue(0).context("no queue")?;
            return Ok(run(0, queue)?);
        }
        let begun = std::time::Instant::now();
        std::thread::scope(|scope| {
            let queues = (0_u64..).zip(self.front.queues_mut());
            let threads: Vec<_> = queues
                .map(|(n, queue)| scope.spawn(move || run(n, queue)))
                .collect();
            for thread in threads {
                thread
                    .join()
                    .map_err(|_| anyhow!("a front end panicked"))??;
            }
            anyhow::Ok(())
        })?;
        Ok(begun.elapsed())
    }
}

pub(super) struct Sides {
    case: Case,
    place: (PathBuf, bool),
    ours: Ours,
    bare: RawDisk,
    peer: Result<vhost_user::Disk>,
    fio: Result<Fio>,
    paces: [Pace; 3],
    seed: u64,
}

impl Sides {
    pub(super) fn start(case: &Case, place: &Place) -> Result<Self> {
        let options = RawOptions {
            caching: match place.direct {
                true => Caching::DirectIfPossible,
                false => Caching::Buffered,
            },
            ..RawOptions::default()
        };
        let disk = RawImageDisk::open(&place.path, &options)?;
        let direct = disk.is_direct();
        let load = case.load;
        let bare = RawDisk::open(&place.path, direct, load.depth(), load.bytes() / 4096)?;
        let peer = vhost_user::Disk::start(
            &place.path,
            &vhost_user::Options {
                direct,
                queues: case.queues.into(),
                iothread: true,
            },
        );
        let first = if load.is_random() { 256 } else { 16 };
        Ok(Self {
            case: *case,
            place: (place.path.clone(), direct),
            ours: Ours::start(case, Arc::new(disk))?,
            bare,
            peer,
            fio: Fio::on(&place.path),
            paces: [Pace::new(first), Pace::new(first), Pace::new(first)],
            seed: 1,
        })
    }

    pub(super) fn ours(&mut self, slice: Duration) -> Result<f64> {
        let ours = &mut self.ours;
        let [pace, ..] = &mut self.paces;
        pace.rate(slice, |count| ours.drive(count))
    }

    pub(super) fn limit(&mut self, slice: Duration) -> Result<f64> {
        let (bare, load, seed) = (&mut self.bare, self.case.load, &mut self.seed);
        let [_, pace, _] = &mut self.paces;
        pace.rate(slice, |count| {
            *seed += 1;
            bare_loop(bare, load, count, *seed)
        })
    }

    pub(super) fn peer(&mut self, slice: Duration) -> Result<f64> {
        let (load, seed) = (self.case.load, &mut self.seed);
        let peer = match &mut self.peer {
            Ok(peer) => peer,
            Err(error) => return Err(anyhow!("{error:#}")),
        };
        let [.., pace] = &mut self.paces;
        pace.rate(slice, |count| {
            *seed += 1;
            peer_loop(peer, load, count, *seed)
        })
    }

    pub(super) fn fio(&mut self, slice: Duration) -> Result<f64> {
        let fio = self.fio.as_ref().map_err(|error| anyhow!("{error:#}"))?;
        let load = self.case.load;
        let figures = fio.run(&Job {
            op: load.op(),
            random: load.is_random(),
            direct: self.place.1,
            bytes: load.bytes(),
            depth: load.depth(),
            threads: self.case.queues.into(),
            slice: slice.max(Duration::from_millis(300)),
        })?;
        Ok(match load.is_random() {
            true => figures.per_second,
            false => figures.mebibytes_per_second,
        })
    }

    /// CPU nanoseconds that the back end takes for a request: all of this process's but the front end's own.
    pub(super) fn our_cpu(&mut self, slice: Duration) -> Result<f64> {
        let process = CpuClock::of(std::process::id())?;
        let ours = &mut self.ours;
        let [pace, ..] = &mut self.paces;
        let mut per_request = 0.0;
        pace.rate(slice, |count| {
            let before = (process.now()?, thread_time()?);
            let took = ours.drive(count)?;
            let after = (process.now()?, thread_time()?);
            per_request = nanoseconds(
                (after.0 - before.0).saturating_sub(after.1 - before.1),
                count,
            );
            Ok(took)
        })?;
        Ok(per_request)
    }

    /// The same of the loop: all that it takes, since it is nothing else.
    pub(super) fn limit_cpu(&mut self, slice: Duration) -> Result<f64> {
        let process = CpuClock::of(std::process::id())?;
        let (bare, load, seed) = (&mut self.bare, self.case.load, &mut self.seed);
        let [_, pace, _] = &mut self.paces;
        let mut per_request = 0.0;
        pace.rate(slice, |count| {
            *seed += 1;
            let before = process.now()?;
            let took = bare_loop(bare, load, count, *seed)?;
            per_request = nanoseconds(process.now()? - before, count);
            Ok(took)
        })?;
        Ok(per_request)
    }

    /// The same of the peer's daemon.
    pub(super) fn peer_cpu(&mut self, slice: Duration) -> Result<f64> {
        let (load, seed) = (self.case.load, &mut self.seed);
        let peer = match &mut self.peer {
            Ok(peer) => peer,
            Err(error) => return Err(anyhow!("{error:#}")),
        };
        let [.., pace] = &mut self.paces;
        let mut per_request = 0.0;
        pace.rate(slice, |count| {
            *seed += 1;
            let before = peer.cpu_time()?;
            let took = peer_loop(peer, load, count, *seed)?;
            per_request = nanoseconds(peer.cpu_time()? - before, count);
            Ok(took)
        })?;
        Ok(per_request)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn nanoseconds(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e9 / count as f64
}

pub(super) fn bare_loop(
    bare: &mut RawDisk,
    load: super::case::Load,
    count: u64,
    seed: u64,
) -> Result<Duration> {
    let bytes = load.bytes() as u64;
    let blocks = (FILE_MIB * MIB) as u64 / bytes;
    let mut random = Random::new(seed);
    let mut at = 0;
    bare.run(load.op(), count, || {
        at += 1;
        match load.is_random() {
            true => random.below(blocks) * bytes,
            false => at % blocks * bytes,
        }
    })
}

fn peer_loop(
    peer: &mut vhost_user::Disk,
    load: super::case::Load,
    count: u64,
    seed: u64,
) -> Result<Duration> {
    match load.is_random() {
        true => peer.random(load.op(), load.bytes(), load.depth(), count, seed),
        false => peer.sequential(load.op(), load.bytes(), load.depth(), count),
    }
}
