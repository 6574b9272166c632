//! What hypercalls and emulated instructions need of the machine below them: the program implements it with the processor, the tests with
//! a `Vec`.
//!
//! None of it checks what the guest may do: that is the caller's, except where a line here says so.

use cantle_abi::Errno;
use cantle_abi::pv::VcpuGuestContext;

use crate::interface::{BootInfo, MAX_VCPUS};
use crate::vcpu::Vcpu;

/// An access at an address of the guest's failed: it is not mapped so, not canonical, or the hypervisor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// A set of vCPUs, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuSet(pub u128);

impl VcpuSet {
    /// One vCPU; none where there cannot be such.
    #[must_use]
    pub const fn of(vcpu: u32) -> Self {
        Self(if vcpu < MAX_VCPUS { 1 << vcpu } else { 0 })
    }

    /// The first `count`.
    #[must_use]
    pub const fn all(count: u32) -> Self {
        Self(if count < MAX_VCPUS {
            (1 << count) - 1
        } else {
            u128::MAX
        })
    }

    /// Whether a vCPU is in it.
    #[must_use]
    pub const fn contains(self, vcpu: u32) -> bool {
        self.0 & Self::of(vcpu).0 != 0
    }
}

/// What is to be forgotten, or written back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// All translations.
    All,
    /// Those of one address's page.
    Page(u64),
    /// The caches (`wbinvd`).
    Caches,
}

/// Memory: at the guest's addresses on the tables that are loaded, and by frame.
pub trait Memory {
    /// Copies from the guest; each naturally aligned word of 8 bytes is read once. Refuses [`crate::interface::HYPERVISOR_SLOTS`].
    ///
    /// # Errors
    /// [`Fault`]; part of `into` may have been written.
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), Fault>;

    /// Copies to the guest, as its kernel would write. Refuses [`crate::interface::HYPERVISOR_SLOTS`].
    ///
    /// # Errors
    /// [`Fault`]; part of it may have been written.
    fn write(&mut self, address: u64, from: &[u8]) -> Result<(), Fault>;

    /// The word at a machine address, which is a multiple of 8 in a frame of the direct map; the caller has checked that. Atomic.
    fn load(&self, address: u64) -> u64;

    /// Writes that word. Atomic.
    fn store(&mut self, address: u64, value: u64);

    /// Writes that word if it is `old`; else says what it is. Atomic.
    ///
    /// # Errors
    /// What it is.
    fn exchange(&mut self, address: u64, old: u64, new: u64) -> Result<(), u64>;

    /// Fills a frame of the direct map with zeroes.
    fn clear_frame(&mut self, mfn: u64);

    /// Copies a frame of the direct map.
    fn copy_frame(&mut self, to: u64, from: u64);

    /// Writes an entry of the machine-to-physical table; `mfn` is below [`BootInfo::max_mfn`].
    fn set_m2p(&mut self, mfn: u64, pfn: u64);
}

/// The processor on which the calling vCPU runs.
pub trait Processor {
    /// Loads tables (which flushes this processor's TLB). The frame is one of the guest's, and has the monitor's slots.
    fn load_tables(&mut self, l4: u64);

    /// Flushes on the vCPUs named, of those that are up; returns when all have.
    fn flush(&mut self, vcpus: VcpuSet, what: Flush);

    /// The vCPU's descriptor window has changed: the GDT's pages (the segments that are loaded stay).
    fn gdt_changed(&mut self);

    /// The LDT's half of the window has changed and has so many descriptors now, 0 for none.
    fn load_ldt(&mut self, entries: u32);

    /// `rdmsr`; `None` where the processor has none such.
    fn read_msr(&mut self, msr: u32) -> Option<u64>;

    /// `wrmsr`; `None` where the processor refuses.
    fn write_msr(&mut self, msr: u32, value: u64) -> Option<()>;

    /// Loads a selector as the programs' gs, and with it its base; with the null selector where it cannot be loaded.
    fn load_user_gs(&mut self, selector: u16);

    /// `cpuid`: eax, ebx, ecx, edx.
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4];

    /// Sets or clears CR0.TS.
    fn set_task_switched(&mut self, on: bool);

    /// The bits of CR4 that are the guest's to choose ([`crate::emulate::GUEST_CR4`]); the rest stays.
    fn set_cr4(&mut self, guest_bits: u64);

    /// Writes a debug register: 0 to 3, 6 or 7.
    fn set_debug(&mut self, register: u8, value: u64);

    /// `xsetbv` of register 0; `None` where the processor refuses.
    fn set_xcr0(&mut self, value: u64) -> Option<()>;
}

/// The other vCPUs, and sleeping.
pub trait Vcpus {
    /// Takes over the state of a vCPU that is down ([`crate::start::apply`] fills its [`Vcpu`] and registers). The context has been checked.
    ///
    /// # Errors
    /// `EEXIST` where it has been initialised before, or is up.
    fn initialise(&mut self, vcpu: u32, context: &VcpuGuestContext) -> Result<(), Errno>;

    /// Starts or wakes a vCPU; one that is up is left alone.
    ///
    /// # Errors
    /// `EINVAL` where it was never initialised; what the host says.
    fn up(&mut self, vcpu: u32) -> Result<(), Errno>;

    /// Stops a vCPU. Of the calling one itself it returns when that is up again; another has stopped some time after.
    fn down(&mut self, current: &mut Vcpu, vcpu: u32);

    /// Whether a vCPU is up.
    fn is_up(&self, vcpu: u32) -> bool;

    /// The host has placed a vCPU's `vcpu_info` anew, at this machine address in the direct map.
    fn vcpu_info_moved(&mut self, current: &mut Vcpu, vcpu: u32, address: u64);

    /// Unmasks events, and sleeps until one is pending.
    fn block(&mut self, current: &mut Vcpu);
}

/// The host.
pub trait Host {
    /// What it said at the start.
    fn boot(&self) -> &BootInfo;

    /// A hypercall for the host: number and arguments (rdi, rsi, rdx, r10, r8), as they are.
    fn forward(&mut self, number: u32, arguments: [u64; 5]) -> u64;
}

/// All of it.
pub trait Machine: Memory + Processor + Vcpus + Host {}

impl<T: Memory + Processor + Vcpus + Host> Machine for T {}
