//! A vCPU's `vcpu_info`: whether events are pending, whether they are masked, and the address of the last page fault.
// UNSAFETY: the structure is in memory that the guest and the host write too, at an address that the host has given.
#![expect(unsafe_code)]

use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use cantle_abi::xen::VcpuInfo;

use crate::vcpu::Vcpu;

impl Vcpu {
    fn byte(&self, offset: usize) -> Option<&AtomicU8> {
        let start = usize::try_from(self.vcpu_info).ok()?;
        if start == 0 {
            return None;
        }
        let at = core::ptr::with_exposed_provenance::<AtomicU8>(start.checked_add(offset)?);
        // SAFETY: `vcpu_info` is 0 or the address of a `VcpuInfo` that stays mapped (its field's contract); all who use it do so atomically.
        unsafe { at.as_ref() }
    }

    /// Whether an event is pending.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.byte(offset_of!(VcpuInfo, evtchn_upcall_pending))
            // Pairs with the host's release when it sets the byte after the channel's bits.
            .is_some_and(|byte| byte.load(Ordering::Acquire) != 0)
    }

    /// Whether events are masked; they are where there is no `vcpu_info`.
    #[must_use]
    pub fn is_masked(&self) -> bool {
        self.byte(offset_of!(VcpuInfo, evtchn_upcall_mask))
            // Only this vCPU writes it.
            .is_none_or(|byte| byte.load(Ordering::Relaxed) != 0)
    }

    /// Masks events, or no longer does.
    pub fn set_masked(&self, masked: bool) {
        if let Some(byte) = self.byte(offset_of!(VcpuInfo, evtchn_upcall_mask)) {
            // Before a later look at `evtchn_upcall_pending`: the host sets that, and then looks at the mask.
            byte.store(u8::from(masked), Ordering::SeqCst);
        }
    }

    /// Says at which address the page fault was that the guest is about to be told of.
    pub fn set_fault_address(&self, address: u64) {
        let at = usize::try_from(self.vcpu_info).unwrap_or(0);
        if at == 0 || !at.is_multiple_of(8) {
            return;
        }
        let at = core::ptr::with_exposed_provenance::<AtomicU64>(at + offset_of!(VcpuInfo, cr2));
        // SAFETY: as in `byte`; the address is aligned.
        if let Some(word) = unsafe { at.as_ref() } {
            // Only this vCPU uses it.
            word.store(address, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    fn with_info(info: &mut VcpuInfo) -> Vcpu {
        let mut vcpu = Vcpu::new(0);
        vcpu.vcpu_info = core::ptr::from_mut(info).expose_provenance() as u64;
        vcpu
    }

    #[test]
    fn without_one_events_are_masked_and_none_is_pending() {
        let vcpu = Vcpu::new(0);
        vcpu.set_masked(false);
        assert!(vcpu.is_masked());
        assert!(!vcpu.is_pending());
        vcpu.set_fault_address(7);
    }

    #[test]
    fn each_part_is_at_its_place() {
        let mut info = VcpuInfo::new_zeroed();
        info.evtchn_upcall_pending = 1;
        let vcpu = with_info(&mut info);
        assert!(vcpu.is_pending());
        assert!(!vcpu.is_masked());
    }
}
