//! Hypercalls of a hostile kernel: all numbers, operations and pointers, with argument memory and page tables as it likes.
//!
//! The domain is a real one on `/dev/kvm` whose vCPUs never run; where there is no KVM, nothing is tried.

use std::cell::RefCell;

use cantle_abi::xen::__HYPERVISOR_xen_version;
use cantle_vmm_core::test_utils::{Harness, small_grants};

thread_local! {
    /// One domain serves many inputs, until one of them ends it.
    static HARNESS: RefCell<Option<Harness>> = const { RefCell::new(None) };
}

/// Makes the calls that the input describes.
///
/// # Panics
///
/// Where a call takes a second, or a plain call does not work afterwards.
pub fn run(data: &[u8]) {
    HARNESS.with_borrow_mut(|kept| {
        if kept.as_ref().is_none_or(Harness::has_ended) {
            *kept = Harness::with_grants(&small_grants(2));
        }
        let Some(harness) = kept else { return };
        harness.drive(data);
        // `xen_version` needs no memory: whatever the guest did to itself, it answers.
        assert!(harness.has_ended() || harness.call(0, __HYPERVISOR_xen_version, &[0; 5]) > 0);
    });
}
