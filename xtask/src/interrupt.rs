//! Ctrl-C, SIGTERM and SIGHUP: children die, scratch folders go, exit code 130.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

/// What must not outlive this process.
static LIVE: Mutex<Live> = Mutex::new(Live {
    groups: Vec::new(),
    folders: Vec::new(),
});

/// How long a process group may take to tidy up after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

struct Live {
    groups: Vec<Pid>,
    folders: Vec<PathBuf>,
}

fn live() -> MutexGuard<'static, Live> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Installs the handler; called once, at the start.
pub(crate) fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        let (groups, folders) = {
            let live = live();
            (live.groups.clone(), live.folders.clone())
        };
        eprintln!("\nxtask: interrupted");
        for group in &groups {
            stop_group(*group);
        }
        for folder in folders {
            let _ = fs::remove_dir_all(folder);
        }
        process::exit(130);
    })
    .context("cannot install the signal handler")
}

/// Ends a process group: SIGTERM, a moment to tidy up, SIGKILL.
pub(crate) fn stop_group(group: Pid) {
    let step = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    let _ = kill_process_group(group, Signal::TERM);
    while waited < GRACE && rustix::process::test_kill_process_group(group).is_ok() {
        thread::sleep(step);
        waited += step;
    }
    let _ = kill_process_group(group, Signal::KILL);
}

/// Registers a process group to be ended with this process.
pub(crate) fn add_group(group: Pid) {
    live().groups.push(group);
}

/// Forgets a process group that has ended.
pub(crate) fn remove_group(group: Pid) {
    live().groups.retain(|g| *g != group);
}

/// A folder that is removed when this goes out of scope, and on an interrupt.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes a fresh folder in the system's folder for temporary files.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let path = tempfile::Builder::new()
            .prefix(&format!("cantle-{name}-"))
            .tempdir()
            .context("cannot make a temporary folder")?
            .keep();
        live().folders.push(path.clone());
        Ok(Self(path))
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        live().folders.retain(|f| *f != self.0);
    }
}
