//! Where a vCPU of a PV guest was when its run ended without a word of the monitor's: a triple fault in the monitor, or what KVM cannot go on from.

use std::fmt::Write as _;

use cantle_abi::VcpuId;
use kvm_ioctls::VcpuFd;

use crate::domain::Domain;
use crate::hypercall::Paging;

/// Words of the stack that are shown.
const STACK: u64 = 16;
/// Bytes of code that are shown.
const CODE: u64 = 16;

/// Writes the vCPU's registers, code and stack to the guest's console.
pub(super) fn to_console(fd: &VcpuFd, id: VcpuId, domain: &Domain) {
    let (Ok(regs), Ok(sregs)) = (fd.get_regs(), fd.get_sregs()) else {
        return;
    };
    let mut text = format!(
        "\nvCPU {id} ended outside of the monitor's care\n\
        rip {:#x}:{:#018x} rflags {:#x} rsp {:#x}:{:#018x}\n\
        rax {:#018x} rbx {:#018x} rcx {:#018x} rdx {:#018x}\n\
        rsi {:#018x} rdi {:#018x} rbp {:#018x} r8  {:#018x}\n\
        r9  {:#018x} r10 {:#018x} r11 {:#018x} r12 {:#018x}\n\
        r13 {:#018x} r14 {:#018x} r15 {:#018x}\n\
        cr0 {:#x} cr2 {:#018x} cr3 {:#x} cr4 {:#x} efer {:#x}\n\
        gs {:#018x} fs {:#018x} gdt {:#018x} idt {:#018x}\n",
        sregs.cs.selector,
        regs.rip,
        regs.rflags,
        sregs.ss.selector,
        regs.rsp,
        regs.rax,
        regs.rbx,
        regs.rcx,
        regs.rdx,
        regs.rsi,
        regs.rdi,
        regs.rbp,
        regs.r8,
        regs.r9,
        regs.r10,
        regs.r11,
        regs.r12,
        regs.r13,
        regs.r14,
        regs.r15,
        sregs.cr0,
        sregs.cr2,
        sregs.cr3,
        sregs.cr4,
        sregs.efer,
        sregs.gs.base,
        sregs.fs.base,
        sregs.gdt.base,
        sregs.idt.base,
    );
    let paging = Paging {
        cr0: sregs.cr0,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        efer: sregs.efer,
    };
    // Byte by byte: they may cross a page's end, and the next page may not be there.
    let byte = |at: u64| {
        let gpa = paging.translate(&domain.ram, at, false)?;
        let mut byte = [0];
        domain.ram.read(gpa, &mut byte).ok()?;
        Some(byte[0])
    };
    text.push_str("code");
    for at in (0..CODE).map(|n| regs.rip.wrapping_add(n)) {
        // Writing to a text does not fail.
        let _ = byte(at).map(|byte| write!(text, " {byte:02x}"));
    }
    text.push_str("\nstack");
    for at in (0..STACK).map(|n| regs.rsp.wrapping_add(n * 8)) {
        let word: Option<Vec<u8>> = (0..8).map(|n| byte(at.wrapping_add(n))).collect();
        let word = word.and_then(|word| word.try_into().ok());
        let _ = word.map(|word| write!(text, " {:016x}", u64::from_le_bytes(word)));
    }
    text.push('\n');
    domain.console_write(text.replace('\n', "\r\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use cantle_pv_monitor::interface::{VCPU_AREA_SIZE, vcpu_area};
    use kvm_bindings::CpuId;

    use super::*;
    use crate::kvm::pv::MonitorEntry;
    use crate::kvm::vcpu::{self, Start};
    use crate::outcome::End;
    use crate::test_utils::Harness;

    #[test]
    fn kvm_a_triple_fault_says_where() {
        let mut console = tempfile::tempfile().unwrap();
        let output = console.try_clone().unwrap().into();
        let Some(h) = Harness::pv_with_console(output) else {
            return;
        };
        vcpu::install_kick_handler().unwrap();
        let top = h.domain().pv.as_ref().unwrap().top();
        let entry = 0x7000_dead_b000;
        let start = Start::Pv(MonitorEntry { entry, top });
        let fd = vcpu::create(h.domain().vm(), VcpuId(0)).unwrap();
        let fd = vcpu::set_up(fd, &CpuId::new(0).unwrap(), VcpuId(0), Some(&start)).unwrap();
        vcpu::run(fd, VcpuId(0), h.domain());
        assert!(matches!(h.domain().wait_for_end(), End::Crash(_)));
        let mut text = String::new();
        console.rewind().unwrap();
        console.read_to_string(&mut text).unwrap();
        let stack = vcpu_area(0) + VCPU_AREA_SIZE;
        for part in [format!("{entry:#018x}"), format!("{stack:#018x}")] {
            assert!(text.contains(&part), "{text}");
        }
    }
}
