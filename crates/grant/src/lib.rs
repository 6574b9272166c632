//! Xen's grant tables: the host side.
//!
//! A domain lends its pages one by one: it writes an entry of its [`GrantTable`] (a frame, and who may have it), and the other
//! domain maps the page or copies from and to it. [`Tables`] knows the tables of all domains of a host. A back end
//! reaches what is lent to it through the trait [`GrantMapper`]; [`InProcessMapper`] is it for back ends in the host's own
//! process. What guests do with each other's pages are the `guest_` methods of [`Tables`]: copy, map (where the monitor gives
//! them a [`GuestSpace`]), transfer.
//!
//! Tables have version 1, and version 2 where the host lets them ([`TableConfig::max_version`]). There are no transitive grants,
//! on purpose: with them one domain's entry is a way into another's table, of a depth that guests choose and with counts that no
//! single lock guards (XSA-226), and nobody uses them. The crate knows no KVM, no event channels and no xenstore; it depends on `cantle-abi` and on nothing else of
//! this project.
//!
//! # A page lent, written and taken back
//!
//! ```
//! # #[cfg(feature = "test-utils")] {
//! use cantle_abi::DomId;
//! use cantle_grant::test_utils::HeapGuest;
//! use cantle_grant::{Access, CopyPiece, GrantMapper, InProcessMapper, Local, Tables};
//! use std::sync::Arc;
//!
//! let tables = Arc::new(Tables::new());
//! let guest = HeapGuest::new(&tables, DomId(1), 16);
//! let backend = InProcessMapper::new(tables, DomId(0));
//!
//! let frame = guest.alloc_frame();
//! let gref = guest.grant(DomId(0), frame, false);
//! let status = Ok(());
//! let local = Local::From(b"hello");
//! let mut pieces = [CopyPiece { granter: DomId(1), gref, offset: 100, local, status }];
//! backend.copy(&mut pieces);
//! assert_eq!(pieces[0].status, Ok(()));
//! assert_eq!(guest.read(frame, 100, 5), b"hello");
//!
//! let mapping = backend.map(DomId(1), gref, Access::ReadWrite).unwrap();
//! assert!(!guest.end_access(gref), "in use");
//! drop(mapping);
//! assert!(guest.end_access(gref));
//! # }
//! ```

mod active;
mod copy;
mod entries;
#[cfg(feature = "xen-device")]
mod gntdev;
mod guest;
mod in_process;
mod mapper;
mod mapping;
mod mappings;
mod maptrack;
mod persistent;
#[cfg(feature = "process")]
pub mod process;
mod space;
mod status;
mod table;
mod tables;

#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;

#[cfg(feature = "xen-device")]
pub use gntdev::{DEVICE as GNTDEV, GntdevMapper};
pub use in_process::InProcessMapper;
pub use mapper::{Access, CopyPiece, GrantMapper, GuestFrames, Local};
pub use mapping::Mapping;
pub use mappings::{MappedPage, Mappings};
pub use persistent::{CacheStats, PersistentCache};
pub use space::{GuestSpace, Place};
pub use status::GrantStatus;
pub use table::{GrantTable, InUse, Stats, TableConfig, TableError, TablePages};
pub use tables::{Ended, Tables};

/// Locks; what a panic elsewhere left behind is no worse than going on with it.
fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
