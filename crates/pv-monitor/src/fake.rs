//! A machine for the tests of entries: a page of stack, and notes of what was done to the processor.

use std::vec::Vec;

use cantle_abi::Errno;
use cantle_abi::pv::VcpuGuestContext;
use cantle_abi::xen::VcpuInfo;
use zerocopy::{FromZeros, IntoBytes};

use crate::hardware::{Fault, Flush, Host, Memory, Processor, VcpuSet, Vcpus};
use crate::interface::BootInfo;
use crate::mode::Mode;
use crate::vcpu::Vcpu;

/// Where the page is.
pub(crate) const PAGE: u64 = 0xffff_c900_0000_0000;

pub(crate) struct Fake {
    pub(crate) page: [u8; 4096],
    pub(crate) swaps: u32,
    pub(crate) tables: Vec<u64>,
    pub(crate) fault_address: u64,
    pub(crate) debug_status: u64,
    pub(crate) task_switched: bool,
    boot: BootInfo,
}

/// A vCPU whose event bytes are in `info`, which outlives it.
pub(crate) fn vcpu_with(info: &mut VcpuInfo) -> Vcpu {
    let mut vcpu = Vcpu::new(0);
    vcpu.vcpu_info = core::ptr::from_mut(info).expose_provenance() as u64;
    vcpu
}

impl Fake {
    pub(crate) fn new() -> Self {
        Self {
            page: [0xee; 4096],
            swaps: 0,
            tables: Vec::new(),
            fault_address: 0,
            debug_status: 0,
            task_switched: true,
            boot: BootInfo::new_zeroed(),
        }
    }

    /// Words of the page, from an address on.
    pub(crate) fn words<const N: usize>(&mut self, address: u64) -> [u64; N] {
        let mut words = [0; N];
        self.read(address, words.as_mut_bytes()).unwrap();
        words
    }

    fn range(address: u64, bytes: usize) -> Result<core::ops::Range<usize>, Fault> {
        let start = usize::try_from(address.wrapping_sub(PAGE)).map_err(|_| Fault)?;
        let end = start.checked_add(bytes).ok_or(Fault)?;
        if end > 4096 {
            return Err(Fault);
        }
        Ok(start..end)
    }
}

impl Memory for Fake {
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        into.copy_from_slice(&self.page[Self::range(address, into.len())?]);
        Ok(())
    }
    fn write(&mut self, address: u64, from: &[u8]) -> Result<(), Fault> {
        self.page[Self::range(address, from.len())?].copy_from_slice(from);
        Ok(())
    }
    fn load(&self, _address: u64) -> u64 {
        0
    }
    fn store(&mut self, _address: u64, _value: u64) {}
    fn exchange(&mut self, _address: u64, _old: u64, _new: u64) -> Result<(), u64> {
        Err(0)
    }
    fn clear_frame(&mut self, _mfn: u64) {}
    fn copy_frame(&mut self, _to: u64, _from: u64) {}
    fn set_m2p(&mut self, _mfn: u64, _pfn: u64) {}
}

impl Processor for Fake {
    fn load_tables(&mut self, l4: u64) {
        self.tables.push(l4);
    }
    fn flush(&mut self, _vcpus: VcpuSet, _what: Flush) {}
    fn gdt_changed(&mut self) {}
    fn load_ldt(&mut self, _entries: u32) {}
    fn read_msr(&mut self, _msr: u32) -> Option<u64> {
        None
    }
    fn write_msr(&mut self, _msr: u32, _value: u64) -> Option<()> {
        None
    }
    fn load_user_gs(&mut self, _selector: u16) {}
    fn cpuid(&mut self, _leaf: u32, _subleaf: u32) -> [u32; 4] {
        [0; 4]
    }
    fn set_task_switched(&mut self, on: bool) {
        self.task_switched = on;
    }
    fn set_cr4(&mut self, _guest_bits: u64) {}
    fn set_debug(&mut self, _register: u8, _value: u64) {}
    fn set_xcr0(&mut self, _value: u64) -> Option<()> {
        None
    }
}

impl Mode for Fake {
    fn swap_gs(&mut self) {
        self.swaps += 1;
    }
    fn fault_address(&mut self) -> u64 {
        self.fault_address
    }
    fn take_debug_status(&mut self) -> u64 {
        core::mem::take(&mut self.debug_status)
    }
    fn data_segments(&mut self) -> [u64; 4] {
        [0xd5, 0xe5, 0xf5, 0x65]
    }
}

impl Vcpus for Fake {
    fn initialise(&mut self, _vcpu: u32, _context: &VcpuGuestContext) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }
    fn up(&mut self, _vcpu: u32) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }
    fn down(&mut self, _current: &mut Vcpu, _vcpu: u32) {}
    fn is_up(&self, vcpu: u32) -> bool {
        vcpu == 0
    }
    fn vcpu_info_moved(&mut self, _current: &mut Vcpu, _vcpu: u32, _address: u64) {}
    fn block(&mut self, _current: &mut Vcpu) {}
}

impl Host for Fake {
    fn boot(&self) -> &BootInfo {
        &self.boot
    }
    fn forward(&mut self, _number: u32, _arguments: [u64; 5]) -> u64 {
        0
    }
}
