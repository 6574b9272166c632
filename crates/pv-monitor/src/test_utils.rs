//! A machine for tests: memory in a `Vec`, page tables that are walked as the processor would, and a list of what was asked of it.
//!
//! It asserts what the code above has to keep: only the guest's frames and the windows are written, and only inside what the traits' contracts allow.

use std::collections::BTreeMap;
use std::vec::Vec;
use std::{assert, assert_eq, vec};

use cantle_abi::Errno;
use cantle_abi::pv::VcpuGuestContext;
use zerocopy::FromZeros;

use crate::hardware::{Fault, Flush, Host, Memory, Processor, VcpuSet, Vcpus};
use crate::hypercall::address_is_canonical;
use crate::interface::{BootInfo, Frames, HYPERVISOR_SLOTS, MAGIC, MONITOR_SLOTS, VERSION};
use crate::tables::{PRESENT, frame_of};
use crate::vcpu::Vcpu;

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
    /// Changes of the word that [`Memory::exchange`] is asked to change, before it does: as another processor makes them.
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
        vcpu.down = false;
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

    /// What [`Memory::store`] may write: the guest's memory, and the windows' tables.
    fn may_store(&self, address: u64) -> bool {
        let mfn = address >> 12;
        address.is_multiple_of(8)
            && (self.boot.is_ram(mfn) || (WINDOW_TABLES..WINDOW_TABLES + 8).contains(&mfn))
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

impl Memory for TestMachine {
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.copy(address, into.len(), None, into)
    }

    fn write(&mut self, address: u64, from: &[u8]) -> Result<(), Fault> {
        self.copy(address, from.len(), Some(from), &mut [])
    }

    fn load(&self, address: u64) -> u64 {
        assert!(
            address.is_multiple_of(8) && address >> 12 < self.boot.max_mfn,
            "{address:#x}"
        );
        self.words[word(address)]
    }

    fn store(&mut self, address: u64, value: u64) {
        assert!(self.may_store(address), "{address:#x}");
        self.words[word(address)] = value;
    }

    fn exchange(&mut self, address: u64, old: u64, new: u64) -> Result<(), u64> {
        assert!(self.may_store(address), "{address:#x}");
        let word = &mut self.words[word(address)];
        if let Some(other) = self.interference.pop() {
            *word = other;
        }
        if *word == old {
            *word = new;
            Ok(())
        } else {
            Err(*word)
        }
    }

    fn clear_frame(&mut self, mfn: u64) {
        assert!(self.boot.is_ram(mfn), "{mfn:#x}");
        self.words[word(mfn << 12)..][..512].fill(0);
    }

    fn copy_frame(&mut self, to: u64, from: u64) {
        assert!(
            self.boot.is_ram(to) && self.boot.is_ram(from),
            "{to:#x} {from:#x}"
        );
        let from = word(from << 12);
        self.words.copy_within(from..from + 512, word(to << 12));
    }

    fn set_m2p(&mut self, mfn: u64, pfn: u64) {
        assert!(mfn < self.boot.max_mfn);
        self.m2p[usize::try_from(mfn).expect("small")] = pfn;
    }
}

impl Processor for TestMachine {
    fn load_tables(&mut self, l4: u64) {
        assert!(self.boot.is_ram(l4));
        for slot in MONITOR_SLOTS {
            let at = |mfn: u64| word((mfn << 12) + slot as u64 * 8);
            assert_eq!(
                self.words[at(l4)],
                self.words[at(MONITOR_L4)],
                "slot {slot}"
            );
        }
        self.loaded = l4;
        self.asked.push(Asked::LoadTables(l4));
    }

    fn flush(&mut self, vcpus: VcpuSet, what: Flush) {
        assert_eq!(
            vcpus.0 & !VcpuSet::all(VCPUS).0,
            0,
            "vCPUs that there are not"
        );
        self.asked.push(Asked::Flush(vcpus, what));
    }

    fn gdt_changed(&mut self) {
        self.asked.push(Asked::GdtChanged);
    }

    fn load_ldt(&mut self, entries: u32) {
        self.asked.push(Asked::LoadLdt(entries));
    }

    fn read_msr(&mut self, msr: u32) -> Option<u64> {
        self.msrs.get(&msr).copied()
    }

    fn write_msr(&mut self, msr: u32, value: u64) -> Option<()> {
        *self.msrs.get_mut(&msr)? = value;
        self.asked.push(Asked::WriteMsr(msr, value));
        Some(())
    }

    fn load_user_gs(&mut self, selector: u16) {
        self.asked.push(Asked::LoadUserGs(selector));
    }

    fn cpuid(&mut self, _leaf: u32, _subleaf: u32) -> [u32; 4] {
        self.cpuid
    }

    fn set_task_switched(&mut self, on: bool) {
        self.asked.push(Asked::SetTaskSwitched(on));
    }

    fn set_cr4(&mut self, guest_bits: u64) {
        assert_eq!(guest_bits & !crate::emulate::GUEST_CR4, 0);
        self.asked.push(Asked::SetCr4(guest_bits));
    }

    fn set_debug(&mut self, register: u8, value: u64) {
        assert!(matches!(register, 0..=3 | 6 | 7));
        self.asked.push(Asked::SetDebug(register, value));
    }

    fn xcr0(&mut self) -> u64 {
        1
    }

    fn set_xcr0(&mut self, value: u64) -> Option<()> {
        self.asked.push(Asked::SetXcr0(value));
        // x87 cannot be switched off.
        (value & 1 != 0).then_some(())
    }
}

impl Vcpus for TestMachine {
    fn initialise(&mut self, vcpu: u32, context: &VcpuGuestContext) -> Result<(), Errno> {
        crate::start::check(context, &self.boot)?;
        self.asked.push(Asked::Initialise(vcpu));
        Ok(())
    }

    fn up(&mut self, vcpu: u32) -> Result<(), Errno> {
        assert!(vcpu < VCPUS);
        self.up.0 |= VcpuSet::of(vcpu).0;
        self.asked.push(Asked::Up(vcpu));
        Ok(())
    }

    fn down(&mut self, _current: &mut Vcpu, vcpu: u32) {
        assert!(vcpu < VCPUS);
        self.up.0 &= !VcpuSet::of(vcpu).0;
        self.asked.push(Asked::Down(vcpu));
    }

    fn is_up(&self, vcpu: u32) -> bool {
        self.up.contains(vcpu)
    }

    fn vcpu_info_moved(&mut self, _current: &mut Vcpu, vcpu: u32, address: u64) {
        assert!(self.boot.is_ram(address >> 12) && address & 0xfff <= 4096 - 64);
        self.asked.push(Asked::VcpuInfoMoved(vcpu, address));
    }

    fn block(&mut self, _current: &mut Vcpu) {
        self.asked.push(Asked::Block);
    }
}

impl Host for TestMachine {
    fn boot(&self) -> &BootInfo {
        &self.boot
    }

    fn forward(&mut self, number: u32, arguments: [u64; 5]) -> u64 {
        self.asked.push(Asked::Forward(number, arguments));
        self.answer
    }
}
