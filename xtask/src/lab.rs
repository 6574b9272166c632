//! The lab: a Debian host with a `/dev/kvm` like real hardware's, emulated, that runs commands for us.

mod stream;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::images::{self, Debian, Guest};
use crate::interrupt::Scratch;
use crate::process::Guarded;
use crate::qemu::{self, Machine};
use crate::{programs, workspace};
pub(crate) use stream::Stream;
use stream::{Event, Splitter};

/// How long a lab may take to come up; it takes five seconds on an idle machine.
const BOOT_TIME: Duration = Duration::from_secs(120);

/// How long the lab may take to switch itself off.
const OFF_TIME: Duration = Duration::from_secs(20);

/// Options of `cargo xtask lab`.
#[derive(Debug, Args)]
pub(crate) struct LabArgs {
    /// The Debian release that the lab runs.
    #[arg(long, value_enum, default_value_t = Debian::Debian12)]
    host: Debian,
    /// Gives up after this many seconds (exit code 124); 0 waits for ever.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    timeout: u64,
    /// MiB of memory of the lab.
    #[arg(long, default_value_t = 2048, value_name = "MIB")]
    memory: u32,
    /// CPUs of the lab.
    #[arg(long, default_value_t = 2, value_name = "N")]
    cpus: u32,
    /// A raw image to be seen as /dev/vda, the next as /dev/vdb, and so on.
    #[arg(long, value_name = "FILE")]
    disk: Vec<PathBuf>,
    /// A (static) program to be put into the lab's PATH besides the workspace's own.
    #[arg(long, value_name = "FILE")]
    with: Vec<PathBuf>,
    /// Takes the workspace's programs as they were last built.
    #[arg(long)]
    no_build: bool,
    /// The command reads this program's standard input; it has none otherwise.
    #[arg(long)]
    input: bool,
    /// The command, looked up in the lab's PATH; runs in /share (target/lab/share).
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// `cargo xtask lab`.
pub(crate) fn main(args: &LabArgs) -> Result<ExitCode> {
    if !args.no_build {
        programs::build()?;
    }
    let mut found: Vec<PathBuf> = programs::built()
        .into_iter()
        .filter(|p| p.exists())
        .collect();
    found.extend(args.with.iter().cloned());
    let mut lab = Lab::boot(&Setup {
        host: args.host,
        memory: args.memory,
        cpus: args.cpus,
        disks: &args.disk,
        programs: &found,
    })?;
    if args.input {
        lab.connect_input(std::io::stdin())?;
    }
    let deadline = (args.timeout > 0).then(|| Instant::now() + Duration::from_secs(args.timeout));
    let code = lab.run(&quoted(&args.command), deadline, &mut |stream, bytes| {
        let shown = match stream {
            Stream::Out => passed_on(&mut std::io::stdout().lock(), bytes),
            Stream::Err => passed_on(&mut std::io::stderr().lock(), bytes),
        };
        shown.context("cannot write the command's output")
    })?;
    let Some(code) = code else {
        eprintln!("xtask: no end after {} s; gave up", args.timeout);
        return Ok(ExitCode::from(124));
    };
    lab.off()?;
    Ok(ExitCode::from(code))
}

fn passed_on(to: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// The words as one line of shell that runs them as they are.
pub(crate) fn quoted(words: &[String]) -> String {
    let quoted: Vec<String> = words
        .iter()
        .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
        .collect();
    quoted.join(" ")
}

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
        anyhow::anyhow!(
            "the lab died (the emulator: {how}); the end of its console ({}):\n{}\n{}",
            self.console.display(),
            tail(&self.console, 25),
            tail(&self.said, 5)
        )
    }
}

/// The last lines of a text file.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let _ = file.read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes).replace('\r', "");
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..)
        .unwrap_or_default()
        .join("\n")
}

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
