//! Any calls at all, from four vCPUs, while somebody else changes their arguments and the page tables.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cantle_abi::PAGE_SIZE;
use cantle_abi::xen::{__HYPERVISOR_memory_op, __HYPERVISOR_xen_version};
use cantle_vmm_core::test_utils::{ARGS, ARGS_LEN, Harness, MEMORY, small_grants};

/// A small generator (xorshift): the same calls for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self) -> Vec<u8> {
        (0..64).flat_map(|_| self.next().to_le_bytes()).collect()
    }
}

/// Changes arguments and page tables until it is told to stop.
fn scribble(harness: &Harness, seed: u64, stop: &AtomicBool) {
    let mut random = Random(seed);
    while !stop.load(Ordering::Relaxed) {
        let at = (ARGS + random.next() % ARGS_LEN) & !7;
        match random.next() % 64 {
            0 => harness.put(Harness::pte(at), &random.next()),
            1 => {
                let tables = Harness::tables();
                let at = (tables.start + random.next() % (tables.end - tables.start)) & !7;
                harness.put(at, &((random.next() % MEMORY) | 3));
            }
            2..5 => harness.map_memory(),
            n if n % 2 == 0 => harness.put(at, &(random.next() % 16)),
            _ => harness.put(at, &random.next()),
        }
        if random.next().is_multiple_of(64) {
            std::thread::yield_now();
        }
    }
}

/// The process's memory, in bytes: what is its own, without the guest's files.
fn own_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok())
        .expect("a number of KiB")
        << 10
}

fn storm(seed: u64, time: Duration) -> Option<u64> {
    let mut random = Random(seed);
    let began = Instant::now();
    let (mut succeeded, mut domains) = (0, 0);
    let before = own_memory();
    while began.elapsed() < time {
        let harness = Harness::with_grants(&small_grants(2))?;
        let stop = AtomicBool::new(false);
        let seeds: [u64; 5] = std::array::from_fn(|_| random.next() | 1);
        std::thread::scope(|scope| {
            scope.spawn(|| scribble(&harness, seeds[0], &stop));
            let others: Vec<_> = seeds[1..]
                .iter()
                .map(|seed| {
                    let mut random = Random(*seed);
                    let harness = &harness;
                    scope.spawn(move || {
                        let until = Instant::now() + Duration::from_millis(500);
                        let mut succeeded = 0;
                        while Instant::now() < until && !harness.has_ended() {
                            succeeded += harness.drive(&random.bytes());
                        }
                        succeeded
                    })
                })
                .collect();
            let done = others.into_iter().map(|other| other.join());
            let done: Vec<Result<u64, _>> = done.collect();
            stop.store(true, Ordering::Relaxed);
            succeeded += done
                .into_iter()
                .map(|calls| calls.expect("no call panics"))
                .sum::<u64>();
        });
        domains += 1;
        harness.map_memory();
        assert_eq!(
            harness.call(0, __HYPERVISOR_xen_version, &[0, 0]),
            4 << 16 | 17
        );
        harness.put(ARGS, &0x7ff0_u64);
        let pages = harness.call(0, __HYPERVISOR_memory_op, &[3, ARGS]);
        assert!((0..=(MEMORY / PAGE_SIZE as u64).cast_signed()).contains(&pages));
    }
    let grown = own_memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more than before");
    println!("{domains} domains, {succeeded} calls that succeeded, seed {seed:#x}");
    Some(succeeded)
}

#[test]
fn kvm_no_call_panics_hangs_or_hoards() {
    let seed = 0x5eed_ca11;
    if let Some(succeeded) = storm(seed, Duration::from_secs(6)) {
        assert!(succeeded > 1000, "only {succeeded} calls succeeded");
    }
}
