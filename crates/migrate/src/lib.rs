//! Moving, saving, checkpointing and cloning a domain: the traits between a VMM and whoever moves its guests.
//!
//! A migration reads pages and state from a [`MigrationSource`] and gives them to a [`MigrationTarget`]; between the two may be
//! a file, a socket, or nothing. Neither trait knows what carries the bytes, how many rounds there are or how fast they go: that is the
//! mover's policy, which needs no VMM to be tried. A VMM implements the traits for its domains; a benchmark
//! implements them for memory that a thread writes to.
//!
//! Pages travel as numbers and contents, device state as named, versioned pieces of bytes. What a target is given comes from
//! another host: it is as untrusted as a guest's own words, and the target checks it.
//!
//! What is here is the seam alone. Page tracking, the stream and the policy of rounds and rates build on it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;

use cantle_abi::{Gfn, PAGE_SIZE};

/// One page's contents.
pub type Page = [u8; PAGE_SIZE];

/// A piece of state that a part of the machine saved: a vCPU, an event channel table, a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRecord {
    /// Whose state, as its owner names itself (`"vcpu/0"`).
    pub name: String,
    /// The layout of `bytes`. An owner reads the versions that it knows and refuses others.
    pub version: u32,
    /// The state. Untrusted when it is restored.
    pub bytes: Vec<u8>,
}

/// A domain that is to be moved or saved. While it moves it stays whole: until the target has confirmed, it can go on here.
pub trait MigrationSource {
    /// Why something could not be done.
    type Error: core::error::Error;

    /// The number of frames in the domain's address space; pages are asked for below it.
    fn frames(&self) -> u64;

    /// Begins to note which pages are written. The first [`take_dirty`](Self::take_dirty) after it reports every page that has contents.
    ///
    /// # Errors
    ///
    /// Where the VMM cannot track its guest's writes.
    fn start_tracking(&mut self) -> Result<(), Self::Error>;

    /// Calls `dirty` for each run of frames written since the last call (first frame, frames), in rising order, and forgets them.
    ///
    /// # Errors
    ///
    /// Where the log cannot be read; what was reported so far counts as taken.
    fn take_dirty(&mut self, dirty: &mut dyn FnMut(Gfn, u64)) -> Result<(), Self::Error>;

    /// Copies a page; false where the frame has none (a hole, or given back by the guest).
    ///
    /// # Errors
    ///
    /// Where the page cannot be read.
    fn read_page(&self, gfn: Gfn, page: &mut Page) -> Result<bool, Self::Error>;

    /// Stops the vCPUs and brings the back ends to rest: from here on nothing writes to the guest's memory.
    ///
    /// # Errors
    ///
    /// Where a part does not come to rest; the domain runs on then.
    fn pause(&mut self) -> Result<(), Self::Error>;

    /// Saves everything but the pages. The domain is paused.
    ///
    /// # Errors
    ///
    /// Where a part cannot be saved.
    fn save_state(&mut self) -> Result<Vec<StateRecord>, Self::Error>;

    /// Lets the domain run on here, as if nothing had been.
    ///
    /// # Errors
    ///
    /// Where it cannot.
    fn resume(&mut self) -> Result<(), Self::Error>;
}

/// A domain to be: it is filled with pages and state, and then runs.
pub trait MigrationTarget {
    /// Why something could not be done.
    type Error: core::error::Error;

    /// Places a page; a frame may be given again, and the last contents count.
    ///
    /// # Errors
    ///
    /// Where the frame is outside of the domain.
    fn write_page(&mut self, gfn: Gfn, page: &Page) -> Result<(), Self::Error>;

    /// Takes all state at once. What is left over, missing or of an unknown version is an error.
    ///
    /// # Errors
    ///
    /// Where the state is not one that a domain here can be in; the domain is then to be thrown away.
    fn restore_state(&mut self, state: Vec<StateRecord>) -> Result<(), Self::Error>;

    /// Runs the domain here.
    ///
    /// # Errors
    ///
    /// Where it cannot; the source is then still whole.
    fn resume(&mut self) -> Result<(), Self::Error>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::{BTreeMap, BTreeSet};
    use alloc::vec;

    #[derive(Debug)]
    struct Refused;

    impl core::fmt::Display for Refused {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            f.write_str("refused")
        }
    }

    impl core::error::Error for Refused {}

    /// Memory in a map: both ends, so that the traits can be used without a VMM.
    #[derive(Default)]
    struct Memory {
        pages: BTreeMap<u64, Page>,
        dirty: BTreeSet<u64>,
        state: Vec<StateRecord>,
        paused: bool,
    }

    impl Memory {
        fn store(&mut self, gfn: u64, byte: u8) {
            assert!(!self.paused, "nothing writes to a paused domain");
            self.pages.insert(gfn, [byte; PAGE_SIZE]);
            self.dirty.insert(gfn);
        }
    }

    impl MigrationSource for Memory {
        type Error = Refused;
        fn frames(&self) -> u64 {
            16
        }
        fn start_tracking(&mut self) -> Result<(), Refused> {
            self.dirty = self.pages.keys().copied().collect();
            Ok(())
        }
        fn take_dirty(&mut self, dirty: &mut dyn FnMut(Gfn, u64)) -> Result<(), Refused> {
            core::mem::take(&mut self.dirty)
                .into_iter()
                .for_each(|gfn| dirty(Gfn(gfn), 1));
            Ok(())
        }
        fn read_page(&self, gfn: Gfn, page: &mut Page) -> Result<bool, Refused> {
            Ok(self.pages.get(&gfn.0).map(|from| *page = *from).is_some())
        }
        fn pause(&mut self) -> Result<(), Refused> {
            self.paused = true;
            Ok(())
        }
        fn save_state(&mut self) -> Result<Vec<StateRecord>, Refused> {
            Ok(self.state.clone())
        }
        fn resume(&mut self) -> Result<(), Refused> {
            self.paused = false;
            Ok(())
        }
    }

    impl MigrationTarget for Memory {
        type Error = Refused;
        fn write_page(&mut self, gfn: Gfn, page: &Page) -> Result<(), Refused> {
            if gfn.0 >= self.frames() {
                return Err(Refused);
            }
            self.pages.insert(gfn.0, *page);
            Ok(())
        }
        fn restore_state(&mut self, state: Vec<StateRecord>) -> Result<(), Refused> {
            if state.iter().any(|record| record.version != 1) {
                return Err(Refused);
            }
            self.state = state;
            Ok(())
        }
        fn resume(&mut self) -> Result<(), Refused> {
            Ok(())
        }
    }

    fn round(source: &mut Memory, target: &mut Memory) {
        let mut dirty = Vec::new();
        source
            .take_dirty(&mut |first, count| dirty.extend(first.0..first.0 + count))
            .unwrap();
        let mut page = [0; PAGE_SIZE];
        for gfn in dirty {
            if source.read_page(Gfn(gfn), &mut page).unwrap() {
                target.write_page(Gfn(gfn), &page).unwrap();
            }
        }
    }

    #[test]
    fn rounds_carry_what_was_written_between_them() {
        let (mut source, mut target) = (Memory::default(), Memory::default());
        source.state = vec![StateRecord {
            name: "vcpu/0".into(),
            version: 1,
            bytes: vec![1, 2, 3],
        }];
        source.store(1, 1);
        source.store(2, 2);
        source.start_tracking().unwrap();
        round(&mut source, &mut target);
        source.store(2, 22);
        source.store(3, 3);
        source.pause().unwrap();
        round(&mut source, &mut target);
        target.restore_state(source.save_state().unwrap()).unwrap();
        assert!(target.pages == source.pages && target.state == source.state);
    }

    #[test]
    fn a_target_refuses_what_it_does_not_know() {
        let mut target = Memory::default();
        assert!(target.write_page(Gfn(16), &[0; PAGE_SIZE]).is_err());
        let record = StateRecord {
            name: "vcpu/0".into(),
            version: 2,
            bytes: vec![],
        };
        assert!(target.restore_state(vec![record]).is_err());
    }
}
