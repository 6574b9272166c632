//! A running lab.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::stream::{self, Event, Splitter, Stream};
use super::tail;
use crate::images::{self, Debian, Guest};
use crate::interrupt::Scratch;
use crate::process::Guarded;
use crate::qemu::{self, Machine};
use crate::workspace;

/// How long a lab may take to come up; it takes five seconds on an idle machine.
const BOOT_TIME: Duration = Duration::from_secs(120);

/// How long the lab may take to switch itself off.
const OFF_TIME: Duration = Duration::from_secs(20);

/// What kind of lab is wanted.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    /// The release.
    pub(crate) host: Debian,
    /// MiB.
    pub(crate) memory: u32,
    /// Number of CPUs.
    pub(crate) cpus: u32,
    /// Raw images, `/dev/vda` and on.
    pub(crate) disks: &'a [PathBuf],
    /// Static programs for the lab's `PATH`.
    pub(crate) programs: &'a [PathBuf],
}

/// A running lab. Dropping it ends the emulator.
#[derive(Debug)]
pub(crate) struct Lab {
    emulator: Guarded,
    ctl: BufReader<UnixStream>,
    input: Option<UnixStream>,
    events: Receiver<Event>,
    console: PathBuf,
    said: PathBuf,
    jobs: u32,
    busy: bool,
    _sockets: Scratch,
}

impl Lab {
    /// Boots a lab and waits until it takes commands.
    pub(crate) fn boot(setup: &Setup<'_>) -> Result<Self> {
        let image = images::host(setup.host)?;
        for guest in Guest::ALL {
            images::guest(guest)?;
        }
        let scratch = Scratch::new("lab")?;
        let initrd = scratch.path().join("initrd");
        let mut out = BufWriter::new(File::create(&initrd)?);
        std::io::copy(&mut File::open(&image.initrd)?, &mut out)?;
        images::overlay(&workspace::asset("lab-init.sh"), setup.programs, &mut out)?;
        out.into_inner()?;

        let ports = ["ctl", "in", "out", "err"].map(|name| (name, scratch.path().join(name)));
        let mut listeners = Vec::new();
        for (_, path) in &ports {
            listeners.push(UnixListener::bind(path)?);
        }
        let console = format!("{}-console-{}.log", setup.host.name(), std::process::id());
        let console = workspace::lab("logs")?.join(console);
        let folders = [
            ("share", workspace::share()?, false),
            ("guests", workspace::lab("guests")?, true),
        ];
        let mut command = qemu::command(&Machine {
            kernel: &image.kernel,
            initrd: &initrd,
            cmdline: "",
            memory: setup.memory,
            cpus: setup.cpus,
            console: &console,
            ports: &ports,
            folders: &folders,
            disks: setup.disks,
        })?;
        let said = console.with_extension("emulator.log");
        command.stderr(File::create(&said)?);
        let deadline = Instant::now() + BOOT_TIME;
        let mut emulator = Guarded::spawn(&mut command)?;
        let mut streams = Vec::new();
        for listener in &listeners {
            let stream = accept(listener, &mut emulator, deadline)
                .with_context(|| format!("the lab did not start: {}", tail(&said, 3)))?;
            streams.push(stream);
        }
        let Ok([ctl, input, out, err]) = <[UnixStream; 4]>::try_from(streams) else {
            bail!("the emulator did not connect");
        };
        let (sender, events) = mpsc::channel();
        for (stream, from) in [(Stream::Out, out), (Stream::Err, err)] {
            let sender = sender.clone();
            thread::spawn(move || stream::read(stream, from, &sender));
        }
        let mut lab = Self {
            emulator,
            ctl: BufReader::new(ctl),
            input: Some(input),
            events,
            console,
            said,
            jobs: 0,
            busy: false,
            _sockets: scratch,
        };
        lab.wait_ready(deadline)
            .with_context(|| format!("the {} lab did not come up", setup.host.name()))?;
        Ok(lab)
    }

    /// From now on, jobs read what comes from here.
    pub(crate) fn connect_input(&mut self, mut from: impl Read + Send + 'static) -> Result<()> {
        let mut input = self
            .input
            .take()
            .context("the input is connected already")?;
        // The thread ends with its source, or with this process; its socket's end is the job's end of file.
        thread::spawn(move || std::io::copy(&mut from, &mut input));
        Ok(())
    }

    /// Runs a shell script; `sink` gets the output as it comes. The exit code, or `None` when the deadline came first.
    pub(crate) fn run(
        &mut self,
        script: &str,
        deadline: Option<Instant>,
        sink: &mut dyn FnMut(Stream, &[u8]) -> Result<()>,
    ) -> Result<Option<u8>> {
        self.jobs += 1;
        let token = format!("{}-{}", std::process::id(), self.jobs);
        self.busy = true;
        let ctl = self.ctl.get_mut();
        let word = if self.input.is_none() {
            "job-with-input"
        } else {
            "job"
        };
        write!(ctl, "{word} {token} {}\n{script}", script.len())
            .context("the lab takes no jobs")?;
        let mut splitters = [Stream::Out, Stream::Err].map(|s| (s, Splitter::new(&token)));
        let mut codes = Vec::new();
        while codes.len() < splitters.len() {
            let event = match deadline {
                Some(at) => self
                    .events
                    .recv_timeout(at.saturating_duration_since(Instant::now())),
                None => self.events.recv().map_err(RecvTimeoutError::from),
            };
            let (from, bytes) = match event {
                Ok(Event::Data(stream, bytes)) => (stream, bytes),
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => return Err(self.died()),
            };
            for (stream, splitter) in &mut splitters {
                if *stream == from {
                    let (output, code) = splitter.push(&bytes);
                    if !output.is_empty() {
                        sink(from, &output)?;
                    }
                    codes.extend(code);
                }
            }
        }
        self.busy = false;
        Ok(codes.first().copied())
    }

    /// Whether it takes another job: not when it has died, or still runs one that was given up.
    pub(crate) fn is_free(&self) -> bool {
        !self.busy
    }

    /// Switches the lab off, so that its disks are whole; one that is not free is just ended.
    pub(crate) fn off(mut self) -> Result<()> {
        if !self.is_free() {
            return Ok(());
        }
        let _ = writeln!(self.ctl.get_mut(), "off");
        let deadline = Instant::now() + OFF_TIME;
        ensure!(
            self.emulator.wait_until(deadline)?.is_some(),
            "the lab did not switch itself off"
        );
        // These are of interest only when something went wrong.
        for log in [&self.console, &self.said] {
            let _ = fs::remove_file(log);
        }
        Ok(())
    }

    fn wait_ready(&mut self, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.ctl.get_ref().set_read_timeout(Some(left))?;
        let mut line = String::new();
        match self.ctl.read_line(&mut line) {
            Ok(0) => Err(self.died()),
            Ok(_) if line.starts_with("ready ") => Ok(()),
            Ok(_) => bail!("unexpected greeting {line:?}"),
            Err(error) => Err(error).with_context(|| {
                format!("not ready in time; its console: {}", self.console.display())
            }),
        }
    }

    fn died(&mut self) -> anyhow::Error {
        let deadline = Instant::now() + Duration::from_secs(2);
        let how = match self.emulator.wait_until(deadline) {
            Ok(Some(status)) => status.to_string(),
            _ => "it still runs".to_owned(),
        };
        LabLost(format!(
            "the lab died (the emulator: {how}); the end of its console ({}):\n{}\n{}",
            self.console.display(),
            tail(&self.console, 25),
            tail(&self.said, 5)
        ))
        .into()
    }
}

/// The emulated host itself is gone, whatever ran in it: what it ran has neither passed nor failed.
#[derive(Debug)]
pub(crate) struct LabLost(pub(crate) String);

impl fmt::Display for LabLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LabLost {}

fn accept(
    listener: &UnixListener,
    emulator: &mut Guarded,
    deadline: Instant,
) -> Result<UnixStream> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("cannot accept the emulator's connection"),
        }
        if let Some(status) = emulator.status()? {
            bail!("the emulator ended at once: {status}");
        }
        ensure!(Instant::now() < deadline, "the emulator did not connect");
        thread::sleep(Duration::from_millis(10));
    }
}
