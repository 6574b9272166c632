//! The log: to the standard error, or to a file that can be exchanged while the daemon runs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The environment's word on what is logged; `--log-level` has the last.
pub(crate) const LEVEL: &str = "CANTLE_LOG";

/// Where lines go. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Log(Arc<Mutex<Target>>);

#[derive(Debug)]
enum Target {
    Stderr,
    File(PathBuf, File),
}

impl Log {
    /// Logs from now on: to the end of `path`, or to the standard error.
    pub(crate) fn start(path: Option<&Path>, level: Option<&str>) -> Result<Self> {
        let target = match path {
            None => Target::Stderr,
            Some(path) => Target::File(path.to_owned(), append_to(path)?),
        };
        let log = Self(Arc::new(Mutex::new(target)));
        let filter = match level {
            Some(level) => EnvFilter::try_new(level).context("--log-level")?,
            None => EnvFilter::try_from_env(LEVEL).unwrap_or_else(|_| EnvFilter::new("info")),
        };
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(log.clone())
            .with_ansi(false)
            .with_target(false)
            .compact()
            .init();
        Ok(log)
    }

    /// Logs to another file from now on.
    pub(crate) fn switch(&self, path: &Path) -> Result<()> {
        let file = append_to(path)?;
        *self.target() = Target::File(path.to_owned(), file);
        Ok(())
    }

    /// Opens the file anew, after it was moved away. Where that fails, the old one is kept.
    pub(crate) fn reopen(&self) -> Result<()> {
        let path = self.path();
        path.map_or(Ok(()), |path| self.switch(&path))
    }

    /// The file, if it is one.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        match &*self.target() {
            Target::Stderr => None,
            Target::File(path, _) => Some(path.clone()),
        }
    }

    fn target(&self) -> MutexGuard<'_, Target> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn append_to(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot log to {}", path.display()))
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self.target())
    }
}

/// One line on its way.
#[derive(Debug)]
pub(crate) struct Line<'a>(MutexGuard<'a, Target>);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *self.0 {
            Target::Stderr => io::stderr().write(bytes),
            Target::File(_, file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
