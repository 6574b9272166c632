//! The traits of a machine, over a `Vec`.

use std::{assert, assert_eq};

use cantle_abi::Errno;
use cantle_abi::pv::VcpuGuestContext;

use super::{Asked, MONITOR_L4, TestMachine, VCPUS, word};
use crate::hardware::{Fault, Flush, Host, Memory, Processor, VcpuSet, Vcpus};
use crate::interface::{BootInfo, MONITOR_SLOTS};
use crate::vcpu::Vcpu;

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
