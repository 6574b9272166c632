//! `fio`, the yardstick that everybody knows, on the same file: not a limit (it has its own costs), but a figure to compare with.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::cpu_clock::CpuClock;
use crate::disk_op::Op;

/// What fio is to do, by io_uring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// Which way.
    pub(crate) op: Op,
    /// At random places instead of one after the other.
    pub(crate) random: bool,
    /// With `O_DIRECT`.
    pub(crate) direct: bool,
    /// Bytes of a request.
    pub(crate) bytes: usize,
    /// Requests in flight, in each thread.
    pub(crate) depth: usize,
    /// Threads.
    pub(crate) threads: usize,
    /// How long; starting fio takes half a second besides.
    pub(crate) slice: Duration,
}

/// What fio has measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figures {
    /// Requests a second.
    pub(crate) per_second: f64,
    /// MiB a second.
    pub(crate) mebibytes_per_second: f64,
    /// Requests for each second of CPU time, the kernel's and its workers' included. Exact to some per cent where a job takes half a
    /// second: what starting fio takes is measured apart and left out.
    pub(crate) per_cpu_second: f64,
}

/// fio on one file.
#[derive(Debug)]
pub(crate) struct Fio {
    file: PathBuf,
    /// CPU time that every run takes before and after the job.
    start: Duration,
}

impl Fio {
    /// Runs it once, for as good as nothing.
    ///
    /// # Errors
    ///
    /// It is not installed, or it fails, with what it said.
    pub(crate) fn on(file: &Path) -> Result<Self> {
        let mut fio = Self {
            file: file.to_owned(),
            start: Duration::ZERO,
        };
        let (_, cpu) = fio.report(&Job {
            op: Op::Read,
            random: true,
            direct: false,
            bytes: 4096,
            depth: 1,
            threads: 1,
            slice: Duration::from_millis(1),
        })?;
        fio.start = cpu;
        Ok(fio)
    }

    /// Runs a job.
    ///
    /// # Errors
    ///
    /// It fails, with what it said.
    pub(crate) fn run(&self, job: &Job) -> Result<Figures> {
        let (report, cpu) = self.report(job)?;
        figures(&report, job.op, cpu.saturating_sub(self.start))
    }

    /// The report of a job, and the CPU time of all of fio.
    fn report(&self, job: &Job) -> Result<(String, Duration)> {
        let (report, said) = (NamedTempFile::new()?, NamedTempFile::new()?);
        let mut child = self
            .command(job)?
            .arg("--output")
            .arg(report.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said.reopen()?)
            .spawn()
            .map_err(|error| match error.kind() {
                ErrorKind::NotFound => anyhow!("fio is not installed"),
                _ => anyhow!(error).context("cannot run fio"),
            })?;
        // Its clock is gone once it has been waited for in earnest.
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(Pid::from_child(&child)), ended)?;
        let cpu = CpuClock::of(child.id())?.now()?;
        let status = child.wait()?;
        let said = std::fs::read_to_string(said.path())?;
        ensure!(status.success(), "fio failed: {}", said.trim());
        Ok((std::fs::read_to_string(report.path())?, cpu))
    }

    fn command(&self, job: &Job) -> Result<Command> {
        let rw = match (job.random, job.op) {
            (true, Op::Read) => "randread",
            (true, Op::Write) => "randwrite",
            (false, Op::Read) => "read",
            (false, Op::Write) => "write",
        };
        // A colon would part two names.
        let file = self.file.to_str().context("a path that is no text")?;
        let file = file.replace(':', "\\:");
        let mut command = Command::new("fio");
        command
            .args(["--name=job", "--output-format=json", "--ioengine=io_uring"])
            .args(["--thread", "--group_reporting", "--time_based"])
            .args(["--allow_file_create=0", "--invalidate=0", "--randrepeat=0"])
            // As ours: any place at any time, and no clock around each request.
            .args(["--norandommap", "--gtod_reduce=1", "--registerfiles=1"])
            .arg(format!("--filename={file}"))
            .arg(format!("--rw={rw}"))
            .arg(format!("--direct={}", u8::from(job.direct)))
            .arg(format!("--bs={}", job.bytes))
            .arg(format!("--iodepth={}", job.depth))
            .arg(format!("--numjobs={}", job.threads))
            .arg(format!("--runtime={}ms", job.slice.as_millis()));
        Ok(command)
    }
}

/// What counts in fio's report.
fn figures(report: &str, op: Op, cpu: Duration) -> Result<Figures> {
    // Notes may stand before it.
    let begin = report.find('{').context("fio reported nothing")?;
    let report: Value = serde_json::from_str(&report[begin..]).context("fio's report")?;
    let job = &report["jobs"][0];
    let side = match op {
        Op::Read => &job["read"],
        Op::Write => &job["write"],
    };
    let number = |key: &str| {
        let number = side[key].as_f64();
        number.with_context(|| format!("fio reported no {key}"))
    };
    Ok(Figures {
        per_second: number("iops")?,
        mebibytes_per_second: number("bw_bytes")? / f64::from(1 << 20),
        per_cpu_second: number("total_ios")? / cpu.as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_behind_a_note() {
        let report = r#"note: something
            {"jobs": [{"read": {"iops": 500.0, "bw_bytes": 1048576, "total_ios": 1000}}]}"#;
        let expected = Figures {
            per_second: 500.0,
            mebibytes_per_second: 1.0,
            per_cpu_second: 2000.0,
        };
        let cpu = Duration::from_millis(500);
        assert_eq!(figures(report, Op::Read, cpu).unwrap(), expected);
        assert!(figures(report, Op::Write, cpu).is_err(), "no writes");
        assert!(figures("fio: no such engine", Op::Read, cpu).is_err());
    }

    #[test]
    fn a_file_is_read_or_fio_says_why_not() {
        let mut file = NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, &[1; 64 * 1024]).unwrap();
        let fio = match Fio::on(file.path()) {
            Err(error) if error.to_string().contains("not installed") => {
                eprintln!("skipped: {error}");
                return;
            }
            fio => fio.unwrap(),
        };
        let job = Job {
            op: Op::Read,
            random: true,
            direct: false,
            bytes: 4096,
            depth: 4,
            threads: 2,
            slice: Duration::from_millis(100),
        };
        let figures = fio.run(&job).unwrap();
        assert!(figures.per_second > 0.0 && figures.per_cpu_second > 0.0);
        let error = Fio::on(Path::new("/nowhere/file")).unwrap_err().to_string();
        assert!(error.starts_with("fio failed"), "{error}");
    }
}
