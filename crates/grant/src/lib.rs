//! Xen's grant tables: the host side.
//!
//! A domain lends its pages one by one: it writes an entry of its [`GrantTable`] (a frame, and who may have it), and the other
//! domain maps the page or copies from and to it. [`Tables`] knows the tables of all domains of a host. A back end
//! reaches what is lent to it through the trait [`GrantMapper`]; [`InProcessMapper`] is it for back ends in the host's own
//! process. Guests copy by [`Tables::guest_copy`], `GNTTABOP_copy`.
//!
//! Version 1 tables are here. There are no transitive grants, on purpose: Xen's own history with them is a list of
//! advisories. The crate knows no KVM, no event channels and no xenstore; it depends on `cantle-abi` and on nothing else of
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
mod in_process;
mod mapper;
mod mapping;
mod status;
mod table;
mod tables;

#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;

pub use in_process::InProcessMapper;
pub use mapper::{Access, CopyPiece, GrantMapper, GuestFrames, Local};
pub use mapping::Mapping;
pub use status::GrantStatus;
pub use table::{GrantTable, InUse, Stats, TableConfig, TableError};
pub use tables::Tables;
