//! How a vCPU of a PV guest begins: in the monitor.

use cantle_abi::VcpuId;
use cantle_pv_monitor::interface::{RESERVED_GDT_PAGE, VCPU_AREA_SIZE, vcpu_area, window};
use cantle_pv_monitor::segments::{MONITOR_CS, MONITOR_SS, task};
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use crate::error::SetupError;

/// Protection, math present, extension type, numeric errors, write protection also for rings 0 to 2, alignment mask, paging.
const CR0: u64 = 0x8005_0033;
/// PAE, and SSE with its exceptions.
const CR4: u64 = 0x620;
/// `syscall`, long mode enabled and active, no-execute.
const EFER: u64 = 0xd01;

/// Where the monitor begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MonitorEntry {
    /// Its first instruction.
    pub(crate) entry: u64,
    /// The guest-physical address of its top-level table.
    pub(crate) top: u64,
}

/// Sets a vCPU's registers: 64-bit mode in ring 0, interrupts off, its number in rdi and the stack at its area's end.
pub(crate) fn enter(fd: &VcpuFd, id: VcpuId, entry: &MonitorEntry) -> Result<(), SetupError> {
    let mut sregs = fd.get_sregs().map_err(SetupError::kvm("KVM_GET_SREGS"))?;
    let flat = |selector: u16, kind: u8, long: u8| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    };
    // Execute and read, accessed; read and write, accessed.
    sregs.cs = flat(MONITOR_CS, 0xb, 1);
    let data = flat(MONITOR_SS, 0x3, 0);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    // A busy task segment; the monitor loads its own.
    sregs.tr = kvm_segment {
        limit: 0x67,
        type_: 0xb,
        s: 0,
        g: 0,
        db: 0,
        ..flat(task(id.0), 0, 0)
    };
    sregs.gdt = kvm_dtable {
        base: window(id.0),
        limit: u16::try_from((RESERVED_GDT_PAGE + 1) * 4096 - 1).unwrap_or(u16::MAX),
        padding: [0; 3],
    };
    sregs.idt = kvm_dtable {
        base: 0,
        limit: 0,
        padding: [0; 3],
    };
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (CR0, entry.top, CR4, EFER);
    fd.set_sregs(&sregs)
        .map_err(SetupError::kvm("KVM_SET_SREGS"))?;
    let regs = kvm_regs {
        rip: entry.entry,
        rsp: vcpu_area(id.0) + VCPU_AREA_SIZE,
        rdi: id.0.into(),
        rflags: 2,
        ..Default::default()
    };
    fd.set_regs(&regs).map_err(SetupError::kvm("KVM_SET_REGS"))
}
