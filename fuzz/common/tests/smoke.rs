//! Each target for a second: on the seeds of `fuzz/corpus-seeds`, then on made-up inputs, the same ones at each run.
//!
//! `CANTLE_SMOKE_SECONDS` makes it longer. An input that fails is left in `target/tmp`, to be put under `corpus-seeds` once the fault is
//! repaired.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use fuzz_common::targets;

/// xorshift64*, from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Mostly short, sometimes of some thousand bytes; some with many zeros, which is what small numbers are made of.
    fn input(&mut self) -> Vec<u8> {
        let shift = self.next() % 12;
        let len = self.next() % (2 << shift);
        let sparse = self.next().is_multiple_of(2);
        (0..len)
            .map(|_| {
                let [byte, zero, ..] = self.next().to_be_bytes();
                if sparse && zero > 100 { 0 } else { byte }
            })
            .collect()
    }

    /// A seed with some bytes changed, cut or doubled.
    fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.next() % 8 {
            if bytes.is_empty() {
                break;
            }
            let [value, at @ ..] = self.next().to_be_bytes();
            let at = usize::from(u16::from_be_bytes([at[0], at[1]])) % bytes.len();
            match value % 8 {
                0 => bytes.truncate(at),
                1 => bytes.extend_from_within(at..),
                _ => bytes[at] = value,
            }
        }
        bytes
    }
}

fn smoke(name: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus-seeds");
    let mut seeds = Vec::new();
    for entry in fs::read_dir(folder.join(name)).into_iter().flatten() {
        let path = entry.expect("a folder's entry").path();
        seeds.push(fs::read(path).expect("a seed can be read"));
    }
    let attempt = |input: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(input))) {
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}"));
            fs::write(&file, input).expect("the input can be kept");
            eprintln!("the input is in {}", file.display());
            resume_unwind(panic);
        }
    };
    seeds.iter().for_each(|seed| attempt(seed));
    let seconds = std::env::var("CANTLE_SMOKE_SECONDS");
    let seconds = seconds.ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut runs = 0_u64;
    while Instant::now() < end {
        let input = match usize::try_from(random.next()).unwrap_or(0) % (2 * seeds.len() + 1) {
            n if n < seeds.len() => random.mutate(&seeds[n]),
            _ => random.input(),
        };
        attempt(&input);
        runs += 1;
    }
    println!("{name}: {} seeds, {runs} inputs", seeds.len());
    assert!(runs > 0, "not even one input in time");
}

macro_rules! smoke_tests {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            smoke(stringify!($name), targets::$name::run);
        })*

        /// Each file of `fuzz_targets` is here, and the other way round.
        #[test]
        fn every_target_is_here() {
            let mut here = vec![$(stringify!($name).to_owned()),*];
            here.sort();
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz_targets");
            let mut there: Vec<String> = fs::read_dir(folder)
                .expect("the targets' folder")
                .filter_map(|entry| {
                    let path = entry.ok()?.path();
                    Some(path.file_stem()?.to_str()?.to_owned())
                })
                .collect();
            there.sort();
            assert_eq!(here, there);
        }
    };
}

smoke_tests!(
    ring_back,
    evtchn_fifo,
    evtchn_ops,
    grant_ops,
    grant_process_protocol,
    xenstore_wire,
    xenstore_server,
    xenstore_client,
    xenstore_state,
    xenstore_journal,
    xenstore_ring,
    blkback_ring,
    netback_tx,
    netback_ctrl,
    netback_extra,
    netback_rx,
    net_switch,
    net_packets,
    boot_image,
    hypercall,
    pv_hypercalls,
    image_vhd,
    image_qcow2,
    image_vmdk,
    image_layers,
);
