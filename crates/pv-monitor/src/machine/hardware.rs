//! The machine as hypercalls, emulation and entries see it.
// UNSAFETY: memory by machine address, and at the guest's addresses.
#![expect(unsafe_code)]

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::SeqCst;

use cantle_abi::Errno;
use cantle_abi::pv::VcpuGuestContext;
use cantle_pv_monitor::addresses::are_guests;
use cantle_pv_monitor::emulate::GUEST_CR4;
use cantle_pv_monitor::hardware::{Fault, Flush, Host, Memory, Processor, VcpuSet, Vcpus};
use cantle_pv_monitor::interface::{BootInfo, DIRECT_MAP, HOST_START_VCPU, M2P_BASE, vcpu_area};
use cantle_pv_monitor::mode::Mode;
use cantle_pv_monitor::start;
use cantle_pv_monitor::vcpu::Vcpu;

use super::area::{self, Shared};
use super::{boot, cpu, crash, entry, host, smp, tables};

/// The machine, on the vCPU that has it.
#[derive(Debug)]
pub(super) struct Here {
    id: u32,
    shared: &'static Shared,
}

impl Here {
    /// The machine as the vCPU of an area has it.
    pub(super) fn new(area: u64) -> Self {
        let Some(shared) = smp::own(area) else {
            crash::setup("a vCPU that the host has not told of");
        };
        // SAFETY: the number never changes once the vCPU runs.
        let id = unsafe { (&raw const (*area::vcpu(area)).id).read() };
        Self { id, shared }
    }

    /// What other vCPUs use of this one.
    pub(super) const fn shared(&self) -> &'static Shared {
        self.shared
    }
}

/// Copies, and says whether it could.
fn copy(to: u64, from: u64, bytes: usize) -> Result<(), Fault> {
    let bytes = bytes as u64;
    // SAFETY: one side is a slice of the caller's, the other one is the guest's (checked by the caller); a fault is caught.
    match unsafe { entry::copy_or_fault(to, from, bytes / 8, bytes % 8) } {
        0 => Ok(()),
        _ => Err(Fault),
    }
}

fn direct(address: u64) -> *mut AtomicU64 {
    area::pointer(DIRECT_MAP + address)
}

fn word(address: u64) -> &'static AtomicU64 {
    // SAFETY: in the direct map, and a multiple of 8, as callers of `Memory` promise; guest and monitor use it atomically.
    unsafe { &*direct(address) }
}

impl Memory for Here {
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        if !are_guests(address, into.len() as u64) {
            return Err(Fault);
        }
        copy(
            into.as_mut_ptr().expose_provenance() as u64,
            address,
            into.len(),
        )
    }

    fn write(&mut self, address: u64, from: &[u8]) -> Result<(), Fault> {
        if !are_guests(address, from.len() as u64) {
            return Err(Fault);
        }
        copy(
            address,
            from.as_ptr().expose_provenance() as u64,
            from.len(),
        )
    }

    fn load(&self, address: u64) -> u64 {
        word(address).load(SeqCst)
    }

    fn store(&mut self, address: u64, value: u64) {
        word(address).store(value, SeqCst);
    }

    fn exchange(&mut self, address: u64, old: u64, new: u64) -> Result<(), u64> {
        word(address)
            .compare_exchange(old, new, SeqCst, SeqCst)
            .map(|_| ())
    }

    fn clear_frame(&mut self, mfn: u64) {
        // SAFETY: a frame of the direct map, as the caller promises; it is the guest's.
        unsafe { direct(mfn << 12).cast::<[u8; 4096]>().write_bytes(0, 1) };
    }

    fn copy_frame(&mut self, to: u64, from: u64) {
        // SAFETY: as above; the two may be the same one.
        unsafe {
            direct(from << 12)
                .cast::<[u8; 4096]>()
                .copy_to(direct(to << 12).cast(), 1);
        }
    }

    fn set_m2p(&mut self, mfn: u64, pfn: u64) {
        // Where the guest sees it, the table is read-only, for the monitor too.
        if let Some(at) = machine_address(M2P_BASE + mfn * 8) {
            word(at).store(pfn, SeqCst);
        }
    }
}

/// Where an address of the monitor's is in the VM's memory.
fn machine_address(address: u64) -> Option<u64> {
    const PRESENT: u64 = 1;
    const LARGE: u64 = 1 << 7;
    let mut table = boot().monitor_l4 << 12;
    for level in [3, 2, 1, 0] {
        let shift = 12 + 9 * level;
        let entry = word(table + (address >> shift & 0x1ff) * 8).load(SeqCst);
        if entry & PRESENT == 0 {
            return None;
        }
        let inside = (1_u64 << shift) - 1;
        table = entry & 0x000f_ffff_ffff_f000;
        if level == 0 || level < 3 && entry & LARGE != 0 {
            return Some(table & !inside | address & inside);
        }
    }
    None
}

impl Processor for Here {
    fn load_tables(&mut self, l4: u64) {
        cpu::write_cr3(l4 << 12);
    }

    fn flush(&mut self, vcpus: VcpuSet, what: Flush) {
        smp::flush(self.shared, self.id, vcpus, what);
    }

    fn gdt_changed(&mut self) {
        // The window's page tables have changed: this processor's translations of it are old.
        cpu::write_cr3(cpu::read_cr3());
    }

    fn load_ldt(&mut self, entries: u32) {
        cpu::write_cr3(cpu::read_cr3());
        tables::load_ldt(self.id, entries);
    }

    fn read_msr(&mut self, msr: u32) -> Option<u64> {
        cpu::read_msr(msr)
    }

    fn write_msr(&mut self, msr: u32, value: u64) -> Option<()> {
        cpu::write_msr(msr, value)
    }

    fn load_user_gs(&mut self, selector: u16) {
        cpu::swap_gs();
        cpu::load_segment(cpu::Segment::Gs, selector);
        cpu::swap_gs();
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        cpu::cpuid(leaf, subleaf)
    }

    fn set_task_switched(&mut self, on: bool) {
        let cr0 = cpu::read_cr0();
        cpu::write_cr0(if on { cr0 | 8 } else { cr0 & !8 });
    }

    fn set_cr4(&mut self, guest_bits: u64) {
        cpu::write_cr4(cpu::read_cr4() & !GUEST_CR4 | guest_bits & GUEST_CR4);
    }

    fn set_debug(&mut self, register: u8, value: u64) {
        cpu::write_debug(register, value);
    }

    fn set_xcr0(&mut self, value: u64) -> Option<()> {
        cpu::write_xcr0(value)
    }
}

impl Mode for Here {
    fn swap_gs(&mut self) {
        cpu::swap_gs();
    }

    fn fault_address(&mut self) -> u64 {
        cpu::read_cr2()
    }

    fn take_debug_status(&mut self) -> u64 {
        let status = cpu::read_debug_status();
        cpu::clear_debug_status();
        status
    }

    fn data_segments(&mut self) -> [u64; 4] {
        cpu::data_segments()
    }
}

impl Vcpus for Here {
    fn initialise(&mut self, vcpu: u32, context: &VcpuGuestContext) -> Result<(), Errno> {
        let shared = area::shared(vcpu).ok_or(Errno::EINVAL)?;
        if shared.up.load(SeqCst) || shared.initialised.load(SeqCst) {
            return Err(Errno::EEXIST);
        }
        let area = vcpu_area(vcpu);
        // SAFETY: the vCPU has never run, and does not before it is up; a second caller would find it initialised, or fills it with the
        // same kind of values.
        unsafe {
            let state = &mut *area::vcpu(area);
            state.id = vcpu;
            area::start(area).write(start::apply(context, state));
        }
        shared.initialised.store(true, SeqCst);
        Ok(())
    }

    fn up(&mut self, vcpu: u32) -> Result<(), Errno> {
        let shared = area::shared(vcpu).ok_or(Errno::EINVAL)?;
        if !shared.initialised.load(SeqCst) {
            return Err(Errno::EINVAL);
        }
        shared.up.store(true, SeqCst);
        if shared.started.swap(true, SeqCst) {
            smp::wake(shared);
            return Ok(());
        }
        let result = host::call(self.shared, HOST_START_VCPU, [u64::from(vcpu), 0, 0, 0, 0]);
        if result == 0 {
            return Ok(());
        }
        shared.started.store(false, SeqCst);
        shared.up.store(false, SeqCst);
        Err(i32::try_from(result.cast_signed().wrapping_neg()).map_or(Errno::EINVAL, Errno))
    }

    fn down(&mut self, current: &mut Vcpu, vcpu: u32) {
        let Some(shared) = area::shared(vcpu) else {
            return;
        };
        shared.up.store(false, SeqCst);
        if vcpu == current.id {
            smp::sleep_until_up(shared, vcpu);
        } else if shared.started.load(SeqCst) {
            smp::wake(shared);
        }
    }

    fn is_up(&self, vcpu: u32) -> bool {
        area::shared(vcpu).is_some_and(|shared| shared.up.load(SeqCst))
    }

    fn vcpu_info_moved(&mut self, current: &mut Vcpu, vcpu: u32, address: u64) {
        let address = DIRECT_MAP + address;
        if vcpu == current.id {
            current.vcpu_info = address;
        } else if area::shared(vcpu).is_some() {
            // SAFETY: the host does this only for the vCPU itself or one that does not run.
            unsafe { (&raw mut (*area::vcpu(vcpu_area(vcpu))).vcpu_info).write(address) };
        }
    }

    fn block(&mut self, current: &mut Vcpu) {
        smp::sleep_until_event(self.shared, current);
    }
}

impl Host for Here {
    fn boot(&self) -> &BootInfo {
        boot()
    }

    fn forward(&mut self, number: u32, arguments: [u64; 5]) -> u64 {
        host::call(self.shared, u64::from(number), arguments)
    }
}
