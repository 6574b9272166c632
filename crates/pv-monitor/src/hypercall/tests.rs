use std::vec::Vec;

use cantle_abi::Errno;
use cantle_abi::xen::*;
use zerocopy::{Immutable, IntoBytes};

use super::{MAX_BATCH, serve};
use crate::hardware::Memory;
use crate::interface::HOST_CRASH;
use crate::regs::Regs;
use crate::test_utils::{Asked, FIRST, TestMachine};
use crate::vcpu::{Next, Vcpu};

mod callbacks;
mod descriptors;
mod mmu_update;
mod mmuext;
mod model;
mod multicall;
mod processor;
mod va_mapping;
mod vcpus;

/// A page of the guest's that is mapped, for arguments.
pub(super) const PAGE: u64 = 0x40_0000;
/// Its frame.
pub(super) const PAGE_MFN: u64 = 100;
/// An address that is not mapped.
pub(super) const NOWHERE: u64 = 0x7fff_0000_0000;
/// `DOMID_SELF`.
pub(super) const SELF: u64 = 0x7ff0;

pub(super) struct Guest {
    pub(super) machine: TestMachine,
    pub(super) vcpu: Vcpu,
}

impl Guest {
    pub(super) fn new() -> Self {
        let mut machine = TestMachine::new();
        machine.map(PAGE, PAGE_MFN);
        machine.map(PAGE + 0x1000, PAGE_MFN + 1);
        Self {
            machine,
            vcpu: TestMachine::vcpu(),
        }
    }

    /// Makes a call; what it returns, as the guest sees it.
    pub(super) fn call(&mut self, number: u32, arguments: [u64; 5]) -> i64 {
        self.call_with(u64::from(number), arguments)
    }

    pub(super) fn call_with(&mut self, rax: u64, [rdi, rsi, rdx, r10, r8]: [u64; 5]) -> i64 {
        let mut regs = Regs {
            rax,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            rip: 0x1234,
            ..Regs::default()
        };
        let before = Regs { rax: 0, ..regs };
        let next = serve(&mut self.machine, &mut self.vcpu, &mut regs);
        assert_eq!(next, Next::Resume);
        let after = Regs { rax: 0, ..regs };
        assert_eq!(before, after, "a call changes rax alone");
        regs.rax.cast_signed()
    }

    /// Puts a structure at an address of the guest's.
    pub(super) fn put<T: IntoBytes + Immutable + ?Sized>(&mut self, address: u64, value: &T) {
        self.machine.write(address, value.as_bytes()).unwrap();
    }

    pub(super) fn word(&self, address: u64) -> u64 {
        self.machine.words[usize::try_from(address / 8).unwrap()]
    }

    pub(super) fn read_u64(&mut self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.machine.read(address, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    pub(super) fn read_u32(&mut self, address: u64) -> u32 {
        let mut bytes = [0; 4];
        self.machine.read(address, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    pub(super) fn asked(&mut self) -> Vec<Asked> {
        self.machine.take_asked()
    }
}

/// What a call returns for an error.
pub(super) fn error(errno: Errno) -> i64 {
    errno.to_ret()
}

#[test]
fn what_is_not_served_is_enosys() {
    let mut guest = Guest::new();
    for number in [
        u64::from(__HYPERVISOR_iret),
        u64::from(__HYPERVISOR_platform_op),
        u64::from(__HYPERVISOR_hvm_op),
        u64::from(__HYPERVISOR_xsm_op),
        6,
        64,
        u64::MAX,
        // Beyond 32 bits, where the lower half is a call.
        1 << 32 | u64::from(__HYPERVISOR_memory_op),
    ] {
        assert_eq!(
            guest.call_with(number, [0; 5]),
            error(Errno::ENOSYS),
            "{number:#x}"
        );
    }
    assert_eq!(guest.asked(), []);
}

#[test]
fn the_guest_cannot_reach_what_the_host_serves_for_the_monitor() {
    let mut guest = Guest::new();
    for number in [HOST_CRASH - 1, HOST_CRASH, HOST_CRASH + 1, HOST_CRASH + 2] {
        assert_eq!(guest.call_with(number, [0; 5]), error(Errno::ENOSYS));
    }
    assert_eq!(guest.asked(), []);
}

#[test]
fn the_host_gets_its_calls_as_they_are() {
    let mut guest = Guest::new();
    guest.machine.answer = 0x1234;
    for number in [
        __HYPERVISOR_memory_op,
        __HYPERVISOR_set_timer_op,
        __HYPERVISOR_console_io,
        __HYPERVISOR_event_channel_op,
        __HYPERVISOR_grant_table_op,
    ] {
        assert_eq!(guest.call(number, [1, 2, 3, 4, 5]), 0x1234);
        assert_eq!(guest.asked(), [Asked::Forward(number, [1, 2, 3, 4, 5])]);
    }
}

#[test]
fn the_version_is_the_monitors_and_the_rest_the_hosts() {
    let mut guest = Guest::new();
    assert_eq!(guest.call(__HYPERVISOR_xen_version, [0; 5]), 0x4_0011);
    assert_eq!(guest.asked(), []);
    guest.call(__HYPERVISOR_xen_version, [6, 7, 0, 0, 0]);
    assert_eq!(
        guest.asked(),
        [Asked::Forward(__HYPERVISOR_xen_version, [6, 7, 0, 0, 0])]
    );
}

#[test]
fn lists_have_a_limit() {
    let mut guest = Guest::new();
    for (number, last) in [
        (__HYPERVISOR_mmu_update, SELF),
        (__HYPERVISOR_mmuext_op, SELF),
        (__HYPERVISOR_multicall, 0),
    ] {
        assert_eq!(
            guest.call(number, [PAGE, MAX_BATCH + 1, 0, last, 0]),
            error(Errno::E2BIG)
        );
    }
}

#[test]
fn lists_that_wrap_or_are_the_monitors_are_refused() {
    let mut guest = Guest::new();
    let hypervisor = crate::interface::MONITOR_BASE;
    for list in [u64::MAX - 7, hypervisor, NOWHERE, 1 << 47] {
        for (number, last) in [
            (__HYPERVISOR_mmu_update, SELF),
            (__HYPERVISOR_mmuext_op, SELF),
            (__HYPERVISOR_multicall, 0),
        ] {
            assert_eq!(
                guest.call(number, [list, 2, 0, last, 0]),
                error(Errno::EFAULT),
                "call {number}, list {list:#x}"
            );
        }
    }
    assert!(
        guest.machine.words[..usize::try_from(FIRST * 512).unwrap()]
            .iter()
            .filter(|word| **word != 0)
            .count()
            <= 3
    );
}
