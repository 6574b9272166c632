//! Measures what a Linux kernel takes for what programs do all the time, on one CPU: prints `pace_NAME=FIGURE` for each, the median of several slices.
//!
//! | | |
//! |---|---|
//! | `getpid_ns` | a system call that does nothing |
//! | `page_fault_ns` | the first write to a page of memory of its own |
//! | `fork_exec_ns` | a process that is made, runs this program anew, ends and is waited for |
//! | `context_switch_ns` | half of a byte's way to another process and back, by pipes |
//! | `pipe_MiBps` | what goes through a pipe from one process to another, 64 KiB at a time |

mod sys;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use sys::{Outcome, Pages, Pipe};

/// The word with which this program ends at once.
const NOTHING: &str = "nothing";

/// How often each is measured, and for how long.
const SLICES: usize = 7;
const SLICE: Duration = Duration::from_millis(200);

/// Pages that are written to before they are given back.
const PAGES: usize = 512;
/// Bytes that go through a pipe at a time.
const CHUNK: usize = 64 << 10;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(NOTHING) {
        return ExitCode::SUCCESS;
    }
    match all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("pace: failed: {why}");
            ExitCode::FAILURE
        }
    }
}

fn all() -> Outcome {
    sys::pin()?;
    let getpid = median(|| {
        per(1000, || {
            sys::getpid();
            Ok(())
        })
    })?;
    println!("pace_getpid_ns={getpid:.1}");
    println!("pace_page_fault_ns={:.1}", median(page_faults)?);
    let fork_exec = median(|| per(1, || sys::run(c"/proc/self/exe", c"nothing")))?;
    println!("pace_fork_exec_ns={fork_exec:.0}");
    println!("pace_context_switch_ns={:.1}", switches()?);
    println!("pace_pipe_MiBps={:.1}", throughput()?);
    Ok(())
}

/// The middle one of several slices' figures; a slice before them warms up.
fn median(mut slice: impl FnMut() -> Outcome<f64>) -> Outcome<f64> {
    slice()?;
    let mut figures = (0..SLICES)
        .map(|_| slice())
        .collect::<Outcome<Vec<f64>>>()?;
    figures.sort_by(f64::total_cmp);
    figures
        .get(SLICES / 2)
        .copied()
        .ok_or_else(|| "no slice".to_owned())
}

/// Nanoseconds for each, while a slice lasts; the clock is looked at after so many.
fn per(batch: u32, mut each: impl FnMut() -> Outcome) -> Outcome<f64> {
    let begun = Instant::now();
    let mut done = 0.0;
    loop {
        for _ in 0..batch {
            each()?;
        }
        done += f64::from(batch);
        let took = begun.elapsed();
        if took >= SLICE {
            return Ok(took.as_secs_f64() * 1e9 / done);
        }
    }
}

/// Without the time for mapping and unmapping.
fn page_faults() -> Outcome<f64> {
    let mut took = Duration::ZERO;
    let mut pages = 0.0;
    while took < SLICE {
        let memory = Pages::new(PAGES)?;
        let begun = Instant::now();
        for page in 0..PAGES {
            memory.touch(page);
        }
        took += begun.elapsed();
        pages += PAGES as f64;
    }
    Ok(took.as_secs_f64() * 1e9 / pages)
}

fn switches() -> Outcome<f64> {
    let (there, back) = (Pipe::new()?, Pipe::new()?);
    let mut byte = [1_u8];
    let child = sys::forked(|| {
        let mut byte = [0];
        while there.read(&mut byte).is_ok() && byte == [1] {
            if back.write(&byte).is_err() {
                return 1;
            }
        }
        0
    })?;
    let round = median(|| {
        per(20, || {
            there.write(&byte)?;
            back.read(&mut byte).map(drop)
        })
    })?;
    there.write(&[0])?;
    sys::wait(child)?;
    Ok(round / 2.0)
}

fn throughput() -> Outcome<f64> {
    let pipe = Pipe::new()?;
    let child = sys::forked(|| {
        let mut bytes = vec![0; CHUNK];
        loop {
            match pipe.read(&mut bytes) {
                // The byte that it ends with.
                Ok(count) if count > 0 && bytes.get(count - 1) == Some(&1) => return 0,
                Ok(_) => {}
                Err(_) => return 1,
            }
        }
    })?;
    let zeros = vec![0; CHUNK];
    let chunk = median(|| per(1, || pipe.write(&zeros)))?;
    pipe.write(&[1])?;
    sys::wait(child)?;
    Ok(CHUNK as f64 / f64::from(1 << 20) / (chunk / 1e9))
}
