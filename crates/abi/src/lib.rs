//! Xen's public interface as plain data, and the shared ring.
//!
//! Every structure here has the layout of the C structure of the same name in Xen's public headers (Debian's
//! `libxen-dev`; the header is named in each module), for 64-bit x86 guests: little-endian, natural alignment,
//! padding spelt out. Constants keep the headers' spelling, so that a name can be looked up in both worlds.
//! `tests/c_headers.rs` compiles a C program against the headers and compares sizes, offsets and values.
//!
//! What is not here: any behaviour beyond the indices of a ring. The crate is `no_std`, allocates nothing and
//! is the bottom of the dependency order: guests, backends and the host all use it.
//!
//! # A request through a ring
//!
//! ```
//! use cantle_abi::ring::{BackRing, FrontRing, HeapPages};
//! use cantle_abi::io::netif::{NetifRxRequest, NetifRxResponse};
//! use cantle_abi::GrantRef;
//! use std::sync::Arc;
//!
//! let page = Arc::new(HeapPages::new(1));
//! let mut front = FrontRing::<NetifRxRequest, NetifRxResponse, _>::init(page.clone()).unwrap();
//! let mut back = BackRing::<NetifRxRequest, NetifRxResponse, _>::attach(page).unwrap();
//!
//! front.push_request(&NetifRxRequest { id: 7, pad: 0, gref: GrantRef(42) }).unwrap();
//! assert!(front.publish_requests(), "the first request wants a notification");
//!
//! let request = back.next_request().unwrap().expect("one request waits");
//! assert_eq!(request.gref, GrantRef(42));
//! assert!(!back.final_check_for_requests(), "nothing more: the back end may sleep");
//! ```
#![no_std]
#![expect(
    non_upper_case_globals,
    reason = "constants are spelt as Xen's headers spell them"
)]

#[cfg(any(test, doctest, feature = "std"))]
extern crate std;

mod errno;
mod ids;
mod shared_memory;

pub mod callback;
pub mod cpuid;
pub mod elfnote;
pub mod event_channel;
pub mod grant_table;
pub mod hvm;
pub mod io;
pub mod memory;
pub mod mmu;
pub mod physdev;
pub mod pv;
pub mod ring;
pub mod sched;
pub mod start_info;
pub mod vcpu;
pub mod version;
pub mod xen;

pub use errno::Errno;
pub use ids::{DomId, Gfn, GrantRef, PAGE_SHIFT, PAGE_SIZE, Port, VcpuId};
pub use shared_memory::{SharedBytes, SharedMemory};
