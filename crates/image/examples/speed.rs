//! Random reads of 4 KiB, 32 at a time, from a file in the page cache: through the engine and straight. For profilers.
//!
//! `cargo run --release -p cantle-image --example speed --features test-utils -- FILE raw|format SECONDS`

use std::sync::Arc;
use std::time::{Duration, Instant};

use cantle_abi::ring::HeapPages;
use cantle_image::{
    Disk, FormatDisk, FormatOptions, Io, IoOp, Pages, RawDisk, RawFormat, RawOptions,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, path, way, seconds] = args.as_slice() else {
        return Err("speed FILE raw|format SECONDS".into());
    };
    let options = RawOptions::default();
    let disk: Arc<dyn Disk> = match way.as_str() {
        "raw" => Arc::new(RawDisk::open(path.as_ref(), &options)?),
        _ => {
            let format = Arc::new(RawFormat::open(path.as_ref(), &options)?);
            Arc::new(FormatDisk::new(format, FormatOptions::default())?)
        }
    };
    let mut queue = disk.open_queue()?;
    let blocks = disk.geometry().sectors / 8;
    let memory = Arc::new(HeapPages::new(32));
    let mut free: Vec<Io> = (0..32).map(|_| Io::new()).collect();
    let (mut done, mut count, mut seed) = (Vec::new(), 0_u64, 1_u64);
    let (begun, time) = (Instant::now(), Duration::from_secs(seconds.parse()?));
    while begun.elapsed() < time {
        for _ in 0..64 {
            while let Some(mut io) = free.pop() {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let slot = free.len();
                io.begin(slot as u64, IoOp::Read, (seed >> 20) % blocks * 8);
                io.push(Pages::Shared(memory.clone()), slot * 4096, 4096)?;
                queue.queue(io);
            }
            queue.wait(None)?;
            queue.completions(&mut done);
            for completion in done.drain(..) {
                completion.result?;
                count += 1;
                free.push(completion.io);
            }
        }
    }
    println!(
        "{way}: {} ns",
        begun.elapsed().as_nanos() / u128::from(count)
    );
    Ok(())
}
