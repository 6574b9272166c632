//! Write barriers: all that came before is done, then the barrier, then what came after.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cantle_abi::io::blkif::{
    BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER, BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
};
use cantle_blkback::BackendOptions;
use cantle_blkback::image::{ImageError, IoOp, RawDisk, RawOptions};
use cantle_blkback::test_utils::{
    BlkFront, Fault, FaultDisk, FrontOptions, Served, Transfer, World, wait_until,
};
use tempfile::NamedTempFile;

const SECTORS: u64 = 2048;

/// What the image was given, in order.
type Log = Arc<Mutex<Vec<(IoOp, u64)>>>;

struct Setup {
    world: World,
    served: Served,
    front: BlkFront,
    faults: Arc<FaultDisk>,
    log: Log,
    file: NamedTempFile,
}

fn setup(options: BackendOptions) -> Setup {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(SECTORS * 512).unwrap();
    let faults = FaultDisk::new(RawDisk::open(file.path(), &RawOptions::default()).unwrap());
    let world = World::new();
    let served = world.serve(world.backend_of(faults.clone(), options).unwrap());
    let front = world.front_with(FrontOptions::default()).unwrap();
    served.come_to_rest(&front).unwrap();
    Setup {
        world,
        served,
        front,
        faults,
        log: Log::default(),
        file,
    }
}

impl Setup {
    /// Logs every request, and does with it what `plan` says.
    fn plan(&self, plan: impl Fn(IoOp, u64) -> Fault + Send + Sync + 'static) {
        let log = Arc::clone(&self.log);
        self.faults.plan(move |io| {
            log.lock().unwrap().push((io.op(), io.sector()));
            plan(io.op(), io.sector())
        });
    }

    fn log(&self) -> Vec<(IoOp, u64)> {
        self.log.lock().unwrap().clone()
    }

    fn push(&mut self, slot: usize, operation: u8, sector: u64, bytes: usize) {
        let transfer = Transfer {
            operation,
            sector,
            bytes,
        };
        let request = self.front.request(slot, &transfer);
        self.front.push(&request).unwrap();
    }

    fn answers(&mut self, count: usize) -> Vec<(u64, i16)> {
        (0..count)
            .map(|_| {
                let answer = self.front.wait_response().unwrap();
                (answer.id, answer.status)
            })
            .collect()
    }
}

fn pause() {
    std::thread::sleep(Duration::from_millis(60));
}

#[test]
fn what_came_before_is_done_first() {
    let mut it = setup(BackendOptions::default());
    assert_eq!(it.front.backend_key("feature-barrier").unwrap(), "1");
    it.plan(|op, _| match op {
        IoOp::Write => Fault::Hold,
        _ => Fault::Pass,
    });
    it.front.put_into(1, &[0xba; 4096]);
    it.push(0, BLKIF_OP_WRITE, 0, 4096);
    it.push(1, BLKIF_OP_WRITE_BARRIER, 8, 4096);
    it.front.kick().unwrap();
    wait_until(|| it.faults.held() == 1);
    pause();
    assert_eq!(
        it.log(),
        [(IoOp::Write, 0)],
        "neither its flush nor its data"
    );
    let log = Arc::clone(&it.log);
    it.faults.release();
    it.plan(|_, _| Fault::Pass);
    let mut answers = it.answers(2);
    assert_eq!(answers.remove(0), (0, BLKIF_RSP_OKAY));
    assert_eq!(answers, [(1, BLKIF_RSP_OKAY)]);
    let log = log.lock().unwrap();
    // Until there is a plan again, the release lets requests pass without a word.
    let steps = [(IoOp::Flush, 8), (IoOp::Write, 8), (IoOp::Flush, 8)];
    assert!(steps.ends_with(&log[1..]), "{log:?}");
    let on_disk = std::fs::read(it.file.path()).unwrap();
    assert_eq!(on_disk[4096..8192], [0xba; 4096]);
    assert_eq!(it.served.stats().snapshot().flushes, 1);
}

/// "All writes issued after the barrier request must not execute until after the completion of the barrier request" (`io/blkif.h`).
#[test]
fn what_came_after_waits_for_its_last_step() {
    for bytes in [4096, 0] {
        for step in 0..if bytes == 0 { 1 } else { 3 } {
            let mut it = setup(BackendOptions::default());
            let seen = Mutex::new(0);
            it.plan(move |_, _| {
                let mut seen = seen.lock().unwrap();
                *seen += 1;
                if *seen == step + 1 {
                    Fault::Hold
                } else {
                    Fault::Pass
                }
            });
            it.push(1, BLKIF_OP_WRITE_BARRIER, 8, bytes);
            it.push(2, BLKIF_OP_WRITE, 16, 4096);
            it.front.kick().unwrap();
            wait_until(|| it.faults.held() == 1);
            pause();
            // And one that comes while the barrier is under way.
            it.push(3, BLKIF_OP_WRITE, 24, 4096);
            it.front.kick().unwrap();
            it.front.notify().unwrap();
            pause();
            let started = it.log();
            assert!(
                !started.iter().any(|(_, sector)| *sector > 8),
                "step {step}: {started:?}"
            );
            it.faults.release();
            let answers = it.answers(3);
            assert_eq!(answers[0], (1, BLKIF_RSP_OKAY));
            assert!(answers.iter().all(|(_, status)| *status == BLKIF_RSP_OKAY));
        }
    }
}

#[test]
fn a_barrier_without_data_is_a_flush_in_order() {
    let mut it = setup(BackendOptions::default());
    it.plan(|_, _| Fault::Pass);
    it.push(0, BLKIF_OP_WRITE, 0, 4096);
    it.push(1, BLKIF_OP_WRITE_BARRIER, 99, 0);
    it.push(2, BLKIF_OP_WRITE, 8, 4096);
    it.front.kick().unwrap();
    assert_eq!(it.answers(3), [0, 1, 2].map(|id| (id, BLKIF_RSP_OKAY)));
    let log = it.log();
    assert_eq!(log, [(IoOp::Write, 0), (IoOp::Flush, 0), (IoOp::Write, 8)]);
}

#[test]
fn barriers_in_a_row_and_between_others_are_all_answered() {
    let mut it = setup(BackendOptions::default());
    it.plan(|_, _| Fault::Pass);
    for round in 0..50_usize {
        for slot in 0..32_usize {
            let operation = match (slot + round) % 4 {
                0 => BLKIF_OP_WRITE_BARRIER,
                1 => BLKIF_OP_READ,
                _ => BLKIF_OP_WRITE,
            };
            it.push(slot, operation, slot as u64 * 8, 4096);
        }
        it.front.kick().unwrap();
        let mut answers = it.answers(32);
        answers.sort_unstable();
        let expected: Vec<_> = (0..32).map(|id| (id, BLKIF_RSP_OKAY)).collect();
        assert_eq!(answers, expected);
    }
    // In the order of the ring: nothing passes a barrier.
    let log = it.log();
    assert_eq!(
        log.iter().filter(|(op, _)| *op == IoOp::Flush).count(),
        50 * 8 * 2
    );
}

#[test]
fn a_barrier_that_fails_says_so_and_holds_up_nobody() {
    for failing in 0..3 {
        let mut it = setup(BackendOptions::default());
        let seen = Mutex::new(0);
        it.plan(move |_, sector| {
            let mut seen = seen.lock().unwrap();
            *seen += 1;
            if sector == 8 && *seen == failing + 1 {
                Fault::Fail(ImageError::Host(5))
            } else {
                Fault::Pass
            }
        });
        it.push(1, BLKIF_OP_WRITE_BARRIER, 8, 4096);
        it.push(2, BLKIF_OP_WRITE, 16, 4096);
        it.front.kick().unwrap();
        let answers = it.answers(2);
        assert_eq!(answers, [(1, BLKIF_RSP_ERROR), (2, BLKIF_RSP_OKAY)]);
        assert_eq!(it.log().len(), failing + 2);
    }
}

#[test]
fn a_barrier_that_was_not_offered_is_refused() {
    let options = BackendOptions {
        barrier: false,
        ..BackendOptions::default()
    };
    let mut it = setup(options);
    assert_eq!(it.front.backend_key("feature-barrier").unwrap(), "0");
    it.plan(|op, _| match op {
        IoOp::Write => Fault::Hold,
        _ => Fault::Pass,
    });
    it.push(0, BLKIF_OP_WRITE, 0, 4096);
    it.push(1, BLKIF_OP_WRITE_BARRIER, 8, 4096);
    it.front.kick().unwrap();
    wait_until(|| it.faults.held() == 1);
    it.faults.release();
    let mut answers = it.answers(2);
    answers.sort_unstable();
    assert_eq!(answers, [(0, BLKIF_RSP_OKAY), (1, BLKIF_RSP_EOPNOTSUPP)]);
}

/// A barrier that waits when the front end goes away is never begun, and nothing waits for it.
#[test]
fn a_front_end_that_goes_takes_its_waiting_barrier_with_it() {
    let mut it = setup(BackendOptions::default());
    it.plan(|_, _| Fault::Hold);
    it.push(0, BLKIF_OP_WRITE, 0, 4096);
    it.push(1, BLKIF_OP_WRITE_BARRIER, 8, 4096);
    it.front.kick().unwrap();
    wait_until(|| it.faults.held() == 1);
    it.front
        .set_state(cantle_xenstore::xenbus::XenbusState::CLOSING)
        .unwrap();
    pause();
    it.faults.release();
    it.front.close().unwrap();
    assert_eq!(it.world.mapped(), 0);
    it.front = it.world.front().unwrap();
    it.plan(|_, _| Fault::Pass);
    it.front.write(0, &[1; 512]).unwrap();
    assert!(!it.log().iter().any(|(_, sector)| *sector == 8));
}
