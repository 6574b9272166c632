//! A disk in memory whose calls are counted, and of which some are not done, or half.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::journal::disk::{Disk, Output};

/// What becomes of a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// Nothing works from then on; of a write, so many bytes are done.
    Stop { torn: usize },
    /// It fails, and the next one works again.
    Fail { torn: usize },
}

/// What is there when the machine starts again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Left {
    /// All that was written: it was only the process that died.
    All,
    /// Nothing but what was waited for.
    WaitedFor,
    /// All names, but only those bytes that were waited for.
    Names,
    /// As `Names`, and zeroes where the other bytes were.
    Zeroes,
    /// All bytes of the files whose names were waited for.
    Bytes,
}

impl Left {
    pub(super) const EACH: [Self; 5] = [
        Self::All,
        Self::WaitedFor,
        Self::Names,
        Self::Zeroes,
        Self::Bytes,
    ];
}

#[derive(Debug, Default, Clone)]
struct Bytes {
    now: Vec<u8>,
    waited_for: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    /// Names, and the place of what they name.
    names: BTreeMap<String, usize>,
    waited_for: BTreeMap<String, usize>,
    files: Vec<Bytes>,
    /// Each call so far, with the length of what was to be written.
    calls: Vec<usize>,
    renames: usize,
    faults: BTreeMap<usize, Fault>,
    stopped: bool,
}

/// The disk. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Faulty(Arc<Mutex<State>>);

impl Faulty {
    pub(super) fn with(faults: impl IntoIterator<Item = (usize, Fault)>) -> Self {
        let disk = Self::default();
        disk.state().faults = faults.into_iter().collect();
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn stopped(&self) -> bool {
        self.state().stopped
    }

    pub(super) fn calls(&self) -> Vec<usize> {
        self.state().calls.clone()
    }

    pub(super) fn renames(&self) -> usize {
        self.state().renames
    }

    /// Works again, without faults.
    pub(super) fn start_again(&self, left: Left) {
        let mut state = self.state();
        state.faults.clear();
        state.stopped = false;
        if matches!(left, Left::WaitedFor | Left::Bytes) {
            state.names = state.waited_for.clone();
        }
        for file in &mut state.files {
            match left {
                Left::All | Left::Bytes => {}
                Left::WaitedFor | Left::Names => file.now.clone_from(&file.waited_for),
                Left::Zeroes => {
                    let len = file.now.len().max(file.waited_for.len());
                    file.now.clone_from(&file.waited_for);
                    file.now.resize(len, 0);
                }
            }
            file.waited_for.clone_from(&file.now);
        }
        state.waited_for = state.names.clone();
    }
}

impl State {
    /// Counts a call that writes `len` bytes: how many of them are done, and what is said.
    fn call(&mut self, len: usize) -> (usize, io::Result<()>) {
        let error = || Err(io::Error::other("a fault"));
        if self.stopped {
            return (0, error());
        }
        let fault = self.faults.get(&self.calls.len()).copied();
        self.calls.push(len);
        match fault {
            None => (len, Ok(())),
            Some(Fault::Stop { torn }) => {
                self.stopped = true;
                (torn, error())
            }
            Some(Fault::Fail { torn }) => (torn, error()),
        }
    }

    /// A call that is done or not.
    fn one(&mut self) -> io::Result<()> {
        self.call(0).1
    }

    fn file(&mut self, name: &str) -> io::Result<usize> {
        let found = self.names.get(name).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for Faulty {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        let at = state.file(name)?;
        Ok(state.files[at].now.clone())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Output>> {
        let mut state = self.state();
        state.one()?;
        let at = match state.file(name) {
            Ok(at) => at,
            Err(_) => {
                state.files.push(Bytes::default());
                state.files.len() - 1
            }
        };
        state.files[at].now.clear();
        state.names.insert(name.to_owned(), at);
        Ok(Box::new(Open(self.clone(), at)))
    }

    fn open(&self, name: &str, len: u64) -> io::Result<Box<dyn Output>> {
        let mut state = self.state();
        let at = state.file(name)?;
        state.one()?;
        state.files[at].now.resize(usize::try_from(len).unwrap(), 0);
        Ok(Box::new(Open(self.clone(), at)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let at = state.file(from)?;
        state.one()?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), at);
        state.renames += 1;
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.file(name)?;
        state.one()?;
        state.names.remove(name);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.one()?;
        state.waited_for = state.names.clone();
        Ok(())
    }
}

/// A file that is open: its place.
struct Open(Faulty, usize);

impl Output for Open {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.0.state();
        let (done, result) = state.call(bytes.len());
        state.files[self.1].now.extend_from_slice(&bytes[..done]);
        result
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        let mut state = self.0.state();
        state.one()?;
        state.files[self.1]
            .now
            .truncate(usize::try_from(len).unwrap());
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.0.state();
        state.one()?;
        let file = &mut state.files[self.1];
        file.waited_for.clone_from(&file.now);
        Ok(())
    }
}
