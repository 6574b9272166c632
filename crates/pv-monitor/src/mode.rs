//! The change between the guest's kernel and its programs.

use crate::hardware::Processor;
use crate::vcpu::Vcpu;

/// What a change of mode, and an exception, need of the processor besides [`Processor`].
pub trait Mode: Processor {
    /// `swapgs`: the kernel's gs base and the programs' change places.
    fn swap_gs(&mut self);

    /// `cr2`: the address of the last page fault.
    fn fault_address(&mut self) -> u64;

    /// What `dr6` says; it is cleared for the next time.
    fn take_debug_status(&mut self) -> u64;

    /// ds, es, fs, gs as they are loaded.
    fn data_segments(&mut self) -> [u64; 4];
}

/// Goes from a program to the kernel; nothing where the kernel runs already.
pub fn enter_kernel<M: Mode>(machine: &mut M, vcpu: &mut Vcpu) {
    if vcpu.in_kernel {
        return;
    }
    vcpu.in_kernel = true;
    machine.swap_gs();
    if has_own_tables(vcpu) {
        machine.load_tables(vcpu.kernel_l4);
    }
}

/// Goes from the kernel to a program; nothing where one runs already.
pub fn enter_user<M: Mode>(machine: &mut M, vcpu: &mut Vcpu) {
    if !vcpu.in_kernel {
        return;
    }
    vcpu.in_kernel = false;
    machine.swap_gs();
    if has_own_tables(vcpu) {
        machine.load_tables(vcpu.user_l4);
    }
}

/// Whether programs run on tables that are not the kernel's. Without ones of their own they would see what the kernel sees; that is
/// the kernel's own choice.
fn has_own_tables(vcpu: &Vcpu) -> bool {
    !vcpu.one_address_space && vcpu.user_l4 != 0 && vcpu.user_l4 != vcpu.kernel_l4
}
