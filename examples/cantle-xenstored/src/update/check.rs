//! Whether another program could go on from our state: it is asked before it is relied on.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// What a program prints that has read a state and found it whole; one that does not understand the question will hardly print it.
pub(super) const WHOLE: &str = "cantle-xenstored: the state is whole";
/// How long a program may take to look.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often its end is looked for.
const TICK: Duration = Duration::from_millis(5);

/// A check that is under way.
#[derive(Debug)]
pub(super) struct Check(Receiver<Result<()>>);

impl Check {
    /// Has `program`, called with `args`, look at a state. `done` is called when it has.
    pub(super) fn start(
        program: &Path,
        args: &[String],
        state: File,
        done: impl FnOnce() + Send + 'static,
    ) -> Result<Self> {
        let mut command = Command::new(program);
        command
            .args(args)
            .arg("--check-state")
            .stdin(state)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command
            .spawn()
            .with_context(|| format!("{} cannot be run", program.display()))?;
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new()
            .name("check-state".to_owned())
            .spawn(move || {
                // Nobody waits for it any more where the update was aborted.
                let _ = sender.send(outcome(child));
                done();
            })
            .context("no thread for the check")?;
        Ok(Self(receiver))
    }

    /// What came of it, once it has.
    pub(super) fn outcome(&self) -> Option<Result<()>> {
        match self.0.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(anyhow::anyhow!("the check was lost"))),
        }
    }
}

/// Waits for the program. It prints a line or two, which a pipe holds.
fn outcome(mut child: Child) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().context("the program is lost")? {
            break status;
        }
        if Instant::now() > until {
            child.kill().and_then(|()| child.wait()).ok();
            bail!(
                "the program took more than {} s to read the state",
                PATIENCE.as_secs()
            );
        }
        thread::sleep(TICK);
    };
    let said = first_line(child.stdout.take());
    let complained = first_line(child.stderr.take());
    ensure!(
        status.success(),
        "the program cannot use the state: {complained} ({status})"
    );
    ensure!(
        said.starts_with(WHOLE),
        "the program is no xenstore daemon that can take over"
    );
    Ok(())
}

fn first_line(pipe: Option<impl Read>) -> String {
    let mut text = Vec::new();
    if let Some(pipe) = pipe {
        // An error shows as too short a text.
        let _ = pipe.take(1000).read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or_default().to_owned()
}
