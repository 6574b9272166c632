use super::*;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use tempfile::NamedTempFile;
use vm_memory::{Bytes, VolatileMemory};

use crate::fio::{Fio, Job};
use crate::measure::Samples;
use crate::raw_disk::RawDisk;
use crate::rounds::Pace;

const BLOCK: usize = 4096;
const MIB: usize = 1 << 20;

fn options() -> Options {
    Options {
        direct: false,
        queues: 2,
        iothread: true,
    }
}

/// A disk on a file of so many blocks, each filled with its number; `None` where there is no daemon.
fn disk(blocks: u8) -> Option<(Disk, NamedTempFile)> {
    let mut file = NamedTempFile::new().unwrap();
    for n in 0..blocks {
        file.write_all(&[n; BLOCK]).unwrap();
    }
    match Disk::start(file.path(), &options()) {
        Ok(disk) => Some((disk, file)),
        Err(error) if error.to_string().contains("not installed") => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error:#}"),
    }
}

#[test]
fn what_is_read_is_what_the_file_holds() {
    let Some((mut disk, _file)) = disk(64) else {
        return;
    };
    for queue in &mut disk.queues {
        for n in [0, 63, 17] {
            let offset = u64::from(n) * BLOCK as u64;
            queue.drive(Op::Read, BLOCK, 1, 1, || offset).unwrap();
            let mut data = [0; BLOCK];
            let memory = queue.memory();
            memory
                .as_volatile_slice()
                .read_slice(&mut data, queue.data())
                .unwrap();
            assert_eq!(data, [n; BLOCK]);
        }
    }
}

#[test]
fn what_is_written_is_in_the_file() {
    let Some((mut disk, file)) = disk(64) else {
        return;
    };
    let queue = &mut disk.queues[1];
    let memory = queue.memory().as_volatile_slice();
    memory.write_slice(&[0xa5; BLOCK], queue.data()).unwrap();
    let offset = 5 * BLOCK as u64;
    queue.drive(Op::Write, BLOCK, 1, 1, || offset).unwrap();
    let mut data = [0; 3 * BLOCK];
    file.as_file()
        .read_exact_at(&mut data, offset - BLOCK as u64)
        .unwrap();
    assert_eq!(data[..BLOCK], [4; BLOCK]);
    assert_eq!(data[BLOCK..2 * BLOCK], [0xa5; BLOCK]);
    assert_eq!(data[2 * BLOCK..], [6; BLOCK]);
}

/// Indices of 16 bits go round, on both queues.
#[test]
fn a_long_load_ends() {
    let Some((mut disk, _file)) = disk(64) else {
        return;
    };
    disk.random(Op::Read, BLOCK, 256, 140_000, 1).unwrap();
    disk.sequential(Op::Read, BLOCK, 3, 1_001).unwrap();
    assert!(disk.cpu_time().unwrap() > Duration::from_millis(1));
}

#[test]
fn more_than_there_is_room_for_is_refused() {
    let Some((mut disk, _file)) = disk(64) else {
        return;
    };
    for (bytes, depth) in [(BLOCK, 257), (BLOCK, 0), (65 * BLOCK, 1)] {
        assert!(disk.random(Op::Read, bytes, depth, 1, 1).is_err());
    }
}

#[test]
fn a_file_that_is_missing_is_said_to_be() {
    match Disk::start(Path::new("/nowhere/disk"), &options()) {
        Err(error) if error.to_string().contains("not installed") => eprintln!("skipped: {error}"),
        outcome => {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains("No such file"), "{error}");
        }
    }
}

/// `cargo test --release -p cantle-benches -- --ignored --nocapture figures_of_the_peers`
#[test]
#[ignore = "prints figures, of which nothing can be asserted"]
fn figures_of_the_peers() {
    let program = std::env::current_exe().unwrap();
    for folder in [Path::new("/dev/shm"), program.parent().unwrap()] {
        let mut file = NamedTempFile::new_in(folder).unwrap();
        std::io::copy(&mut std::io::repeat(7).take(256 << 20), &mut file).unwrap();
        file.as_file().sync_all().unwrap();
        println!("{}: requests a second, and a CPU second", folder.display());
        println!(
            "queues direct   KiB depth    main loop           iothread          io_uring       fio"
        );
        for (queues, direct) in [(1, true), (1, false), (2, true)] {
            for (bytes, depth) in [(BLOCK, 1), (BLOCK, 32), (BLOCK, 128), (MIB, 2)] {
                let job = Job {
                    op: Op::Read,
                    random: bytes == BLOCK,
                    direct,
                    bytes,
                    depth,
                    threads: queues,
                    slice: Duration::from_secs(1),
                };
                print!("{queues:<6} {direct:<6} {:>5} {depth:>5}", bytes >> 10);
                sides(file.path(), &job);
            }
        }
    }
}

/// Does a job by both kinds of daemon and by a bare loop (which has one queue), in turns, and by fio; prints the middle of seven.
fn sides(path: &Path, job: &Job) {
    let mut disks = [false, true].map(|iothread| {
        let options = Options {
            direct: job.direct,
            queues: job.threads,
            iothread,
        };
        Disk::start(path, &options).unwrap()
    });
    let mut bare = RawDisk::open(path, job.direct, job.depth, job.bytes / BLOCK).unwrap();
    let blocks = (256 << 20) / job.bytes as u64;
    let slice = Duration::from_millis(100);
    let mut paces = [Pace::new(64), Pace::new(64), Pace::new(64)];
    let mut figures: [(Samples, Samples); 3] = Default::default();
    for round in 0..8 {
        for (n, (pace, (rates, per_cpu))) in paces.iter_mut().zip(&mut figures).enumerate() {
            let mut cpu = 0.0;
            let rate = pace.rate(slice, |count| {
                let Some(disk) = disks.get_mut(n) else {
                    let (mut random, mut at) = (Random::new(round + 1), 0);
                    return bare.run(Op::Read, count, || {
                        at = if job.random {
                            random.below(blocks)
                        } else {
                            (at + 1) % blocks
                        };
                        at * job.bytes as u64
                    });
                };
                let before = disk.cpu_time()?;
                let took = match job.random {
                    true => disk.random(job.op, job.bytes, job.depth, count, round + 1),
                    false => disk.sequential(job.op, job.bytes, job.depth, count),
                };
                #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
                let count = count as f64;
                cpu = count / (disk.cpu_time()? - before).as_secs_f64();
                took
            });
            if round > 0 {
                rates.push(rate.unwrap());
                per_cpu.push(cpu);
            }
        }
    }
    let [main, thread, bare] = figures.map(|(rates, per_cpu)| {
        format!(
            "{:>9.0} {:>9.0}",
            rates.median().unwrap(),
            per_cpu.median().unwrap()
        )
    });
    print!("{main} {thread} {}", &bare[..9]);
    match Fio::on(path).and_then(|fio| fio.run(job)) {
        Ok(fio) => println!("{:>9.0} {:>9.0}", fio.per_second, fio.per_cpu_second),
        Err(error) => println!("  {error:#}"),
    }
}
