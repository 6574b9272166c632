//! What open channels cost the host.

// UNSAFETY: an allocator that counts.
#![expect(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use cantle_abi::{DomId, VcpuId};
use cantle_evtchn::Hub;
use cantle_evtchn::test_utils::HeapGuest;

struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator; only the sizes are added up.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        USED.fetch_add(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Of the bare domain, and all of its channels: 32 bytes each at most, with all that counts them and finds them.
#[test]
fn an_idle_channel_costs_at_most_32_bytes() {
    const CHANNELS: usize = (1 << 17) - 1;
    let hub = Hub::new();
    let before = USED.load(Ordering::SeqCst);
    let guest = HeapGuest::new(&hub, DomId(1), 1, 1 << 17).unwrap();
    guest.init_control(VcpuId(0)).unwrap();
    let empty = USED.load(Ordering::SeqCst) - before;
    for _ in 0..CHANNELS / 2 {
        let port = guest.domain.alloc_unbound(DomId(1), DomId(1)).unwrap();
        guest.domain.bind_interdomain(DomId(1), port).unwrap();
    }
    guest.domain.bind_ipi(VcpuId(0)).unwrap();
    assert_eq!(guest.domain.stats().bound_ports as usize, CHANNELS);
    let all = USED.load(Ordering::SeqCst) - before;
    assert!(all <= 32 * CHANNELS, "{all} bytes, {empty} of them empty");
    assert!(
        empty < 64 << 10,
        "{empty} bytes for a domain without channels"
    );
}
