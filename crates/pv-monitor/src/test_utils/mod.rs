//! A machine for tests: memory in a `Vec`, page tables that are walked as the processor would, and a list of what was asked of it.
//!
//! It asserts what the code above has to keep: only the guest's frames and the windows are written, and only inside what the traits' contracts allow.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use zerocopy::FromZeros;

use crate::hardware::{Fault, Flush, VcpuSet};
use crate::hypercall::address_is_canonical;
use crate::interface::{BootInfo, Frames, HYPERVISOR_SLOTS, MAGIC, MONITOR_SLOTS, VERSION};
use crate::tables::{PRESENT, frame_of};
use crate::vcpu::Vcpu;

mod traits;

/// The guest's first frame.
pub const FIRST: u64 = 16;
/// A hole in its memory.
pub const HOLE: Frames = Frames {
    start: 128,
    end: 136,
};
/// The frame behind its memory.
pub const END: u64 = 200;
/// Frames that it may map besides.
pub const SPECIAL: Frames = Frames {
    start: 200,
    end: 208,
};
/// The frame of its first level-4 table, and the frames that [`TestMachine::map`] takes for others are those that follow.
pub const L4: u64 = FIRST;
/// vCPUs.
pub const VCPUS: u32 = 20;

/// The monitor's frames.
const MONITOR_L4: u64 = 1;
const WINDOW_TABLES: u64 = 2;
const SHARED_INFO: u64 = 12;
const TABLE_MARKS: u64 = 13;

/// Something that was asked of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the trait's method of that name")]
pub enum Asked {
    LoadTables(u64),
    Flush(VcpuSet, Flush),
    GdtChanged,
    LoadLdt(u32),
    WriteMsr(u32, u64),
    LoadUserGs(u16),
    SetTaskSwitched(bool),
    SetCr4(u64),
    SetDebug(u8, u64),
    SetXcr0(u64),
    Initialise(u32),
    Up(u32),
    Down(u32),
    VcpuInfoMoved(u32, u64),
    Block,
    Forward(u32, [u64; 5]),
}

/// The machine.
#[derive(Debug)]
pub struct TestMachine {
    /// What the host has said.
    pub boot: BootInfo,
    /// Memory, 512 words for each frame.
    pub words: Vec<u64>,
    /// The machine-to-physical table.
    pub m2p: Vec<u64>,
    /// The table that is loaded.
    pub loaded: u64,
    /// What was asked, in order.
    pub asked: Vec<Asked>,
    /// Registers that there are.
    pub msrs: BTreeMap<u32, u64>,
    /// What `cpuid` says of each leaf.
    pub cpuid: [u32; 4],
    /// vCPUs that are up.
    pub up: VcpuSet,
    /// What the host answers.
    pub answer: u64,
    /// Changes of the word that [`Memory::exchange`](crate::hardware::Memory::exchange) is asked to change, before it does: as another processor makes them.
    pub interference: Vec<u64>,
    next_table: u64,
}

impl Default for TestMachine {
    fn default() -> Self {
        Self::new()
    }
}

impl TestMachine {
    /// A machine with an empty level-4 table at [`L4`], which is loaded; only vCPU 0 is up.
    #[must_use]
    pub fn new() -> Self {
        let boot = BootInfo {
            magic: MAGIC,
            version: VERSION,
            vcpus: VCPUS,
            xen_version: 0x4_0011,
            first_guest_mfn: FIRST,
            max_mfn: END,
            ram: [
                Frames {
                    start: FIRST,
                    end: HOLE.start,
                },
                Frames {
                    start: HOLE.end,
                    end: END,
                },
            ],
            special: SPECIAL,
            monitor_l4: MONITOR_L4,
            window_tables: WINDOW_TABLES,
            table_marks: TABLE_MARKS,
            shared_info: SHARED_INFO,
            start_l4: L4,
            ..BootInfo::new_zeroed()
        };
        let frames = usize::try_from(SPECIAL.end).expect("a small number");
        let mut machine = Self {
            boot,
            words: vec![0; frames * 512],
            m2p: vec![u64::MAX; frames],
            loaded: L4,
            asked: Vec::new(),
            msrs: BTreeMap::new(),
            cpuid: [0; 4],
            up: VcpuSet::of(0),
            answer: 0,
            interference: Vec::new(),
            next_table: L4 + 1,
        };
        for slot in MONITOR_SLOTS {
            let index = word((MONITOR_L4 << 12) + slot as u64 * 8);
            machine.words[index] = 0x3_0063 + ((slot as u64) << 12);
        }
        machine
    }

    /// A vCPU 0 whose kernel runs on [`L4`].
    #[must_use]
    pub fn vcpu() -> Vcpu {
        let mut vcpu = Vcpu::new(0);
        vcpu.kernel_l4 = L4;
        vcpu
    }

    /// Maps a page for reading and writing on the table at [`L4`], with tables in the frames behind it. Says where the level-1 entry is.
    pub fn map(&mut self, address: u64, mfn: u64) -> u64 {
        let mut table = L4;
        for level in [4, 3, 2] {
            let at = word(slot(table, level, address));
            if self.words[at] & PRESENT == 0 {
                self.words[at] = self.next_table << 12 | 0x67;
                self.next_table += 1;
            }
            table = frame_of(self.words[at]);
        }
        let at = slot(table, 1, address);
        self.words[word(at)] = mfn << 12 | 0x63;
        at
    }

    /// The first frame that [`TestMachine::map`] has not taken.
    #[must_use]
    pub fn free_frame(&self) -> u64 {
        self.next_table
    }

    /// Writes words to consecutive machine addresses.
    pub fn put(&mut self, address: u64, words: &[u64]) {
        let start = word(address);
        self.words[start..start + words.len()].copy_from_slice(words);
    }

    /// The level-1 entry of a vCPU's window.
    #[must_use]
    pub fn window_entry(&self, vcpu: u32, page: u64) -> u64 {
        self.words[word((WINDOW_TABLES << 12) + (u64::from(vcpu) * 32 + page) * 8)]
    }

    /// What was asked since the last time.
    pub fn take_asked(&mut self) -> Vec<Asked> {
        core::mem::take(&mut self.asked)
    }

    /// The machine address of an address on the table that is loaded.
    fn translate(&self, address: u64, write: bool) -> Result<u64, Fault> {
        let slots = usize::try_from(address >> 39 & 0x1ff).map_err(|_| Fault)?;
        if !address_is_canonical(address) || HYPERVISOR_SLOTS.contains(&slots) {
            return Err(Fault);
        }
        let mut table = self.loaded;
        for level in [4, 3, 2, 1] {
            let entry = *self
                .words
                .get(word(slot(table, level, address)))
                .ok_or(Fault)?;
            if entry & PRESENT == 0 || write && entry & 2 == 0 || level > 1 && entry & 0x80 != 0 {
                return Err(Fault);
            }
            table = frame_of(entry);
        }
        Ok((table << 12) + (address & 0xfff))
    }

    fn copy(
        &mut self,
        address: u64,
        bytes: usize,
        write: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), Fault> {
        for index in 0..bytes {
            let address = address.checked_add(index as u64).ok_or(Fault)?;
            let at = self.translate(address, write.is_some())?;
            let word = self.words.get_mut(word(at)).ok_or(Fault)?;
            let mut le = word.to_le_bytes();
            let byte = &mut le[usize::try_from(at & 7).expect("below 8")];
            match write {
                Some(from) => *byte = from[index],
                None => out[index] = *byte,
            }
            *word = u64::from_le_bytes(le);
        }
        Ok(())
    }

    /// What [`Memory::store`] may write: the guest's memory, the windows' tables, and which frames are tables.
    fn may_store(&self, address: u64) -> bool {
        let mfn = address >> 12;
        address.is_multiple_of(8)
            && (self.boot.is_ram(mfn)
                || (WINDOW_TABLES..WINDOW_TABLES + 8).contains(&mfn)
                || mfn == TABLE_MARKS)
    }
}

/// The index of a machine address's word.
fn word(address: u64) -> usize {
    usize::try_from(address / 8).expect("a 64-bit machine")
}

/// Where the entry of an address is in a table of a level.
fn slot(table: u64, level: u32, address: u64) -> u64 {
    (table << 12) + (address >> (12 + 9 * (level - 1)) & 0x1ff) * 8
}
