//! Granted pages for a back end in a process of its own: just those pages, without a copy.
//!
//! The back end's process has *windows*: mappings of the whole memory of the guests that it serves, registered with a userfaultfd, so that
//! their page tables are empty and only the holder of that descriptor fills them. The holder is the [`Broker`], in the host's process. To map
//! a grant, it pins the entry as for any other mapping and enters the page (`UFFDIO_CONTINUE`); the back end then reads and writes the guest's
//! own page, and so do the kernel and devices on its behalf (direct I/O, io_uring). A touch of any other page of a window is a fault that the broker
//! answers: the touch fails (`UFFDIO_POISON`, Linux 6.6), or on older kernels the process is ended.
//!
//! ```text
//!   host's process                       back end's process
//!   GrantTable, Broker   <── socket ──>  ProcessMapper (a GrantMapper)
//!   memory file ─────── userfaultfd ───> windows: read-write and read-only
//! ```
//!
//! Linux 5.14 on, and what userfaultfd needs: the back end's set-up runs with `CAP_SYS_PTRACE` (or with `vm.unprivileged_userfaultfd`), the broker has
//! `CAP_SYS_PTRACE` and `CAP_SYS_NICE`.
//!
//! # Who is trusted, and when
//!
//! - **The host's process** is trusted: it has the memory anyway.
//! - **The back end's program is trusted until it is confined.** It is the host's own program, freshly executed (an `exec` leaves nothing of the host's address space
//!   behind, where a `fork` would leave the guests' memory), and has read nothing yet that a guest could have written. [`Setup::receive`] maps the memory,
//!   registers it, hands the userfaultfd to the broker and closes the memory's descriptors; the program opens what else it needs; [`Setup::confine`] ends the trust.
//!   The broker could not check a liar: who has the descriptor for a moment can have passed it on. It looks nevertheless, before it serves, for a
//!   forgotten confinement, descriptor or mapping ([`Unfit`]).
//! - **From then on it is not trusted with anything**: it is what a guest makes of it. A guest that is started later cannot be added; it gets another process.
//! - Who the back end is, the broker knows by the socket; whose memory a window shows, by the table itself: a later domain with the number of
//!   an earlier one is not reached.
//!
//! # What holds, and by what
//!
//! | what a subverted back end may try | what prevents it |
//! | --- | --- |
//! | touch another page, by itself or by a system call, O_DIRECT, io_uring | the page tables are empty, and faults go to the broker |
//! | write to what is lent for reading | it is entered in the window for reading only; `mprotect` is refused for the windows |
//! | move or copy the mapping away from its registration: `mremap`, `remap_file_pages`, `fork` | not among the allowed system calls; the windows are not inherited besides (`MADV_DONTFORK`) |
//! | have the memory's file by `/proc/self/map_files`, `/proc/self/mem`, `/proc/self/fd` | nothing that opens a path is allowed; no capabilities; not dumpable |
//! | empty the file (`MADV_REMOVE`), have neighbours entered as one large page (`MADV_COLLAPSE`) | only `MADV_DONTNEED` and `MADV_FREE` are allowed; `MADV_NOHUGEPAGE` |
//! | let io_uring do any of that | its rings are restricted to reading, writing and waiting; no new ring |
//! | close the last userfaultfd, whereupon the windows would open: by killing the broker, say | the process itself holds one (the *keeper*) that it can neither close nor use: `close`, `dup2`, `close_range`, `ioctl` are refused. A process's memory goes before its descriptors |
//! | say that it has unmapped a page | the broker looks into its page tables (`pagemap`) before it believes, and waits for every CPU to have forgotten the page |
//! | keep a page beyond its mapping: `vmsplice`, registered buffers, `MSG_ZEROCOPY` | not allowed |
//! | other processes: `ptrace`, `process_vm_readv`, `pidfd_getfd`, signals | not allowed |
//! | waste the broker's time | requests are bounded and answered one by one; after [`BrokerConfig::max_strays`] stray touches the process is ended |
//!
//! **What is not prevented**: direct I/O that is under way when the page is unmapped goes on to its end, and reads or writes a page that was lent when it
//! began. An honest back end unmaps after the I/O; a subverted one can so see or change the page once more, for as long as the device takes. It is never
//! another page than one that was lent to it for that. (Linux's `gntdev` and `blkback` wait for the page's reference count to fall; that count is not to be had from outside of
//! the kernel. For the same reason nothing is allowed that could make such an I/O last: no descriptor can be opened after the confinement, so the program should
//! have none of a file whose I/O somebody else can hold up.)
//!
//! # Ends
//!
//! A back end that ends, or closes its socket, or breaks the protocol, is killed, and its grants are given back when the process *has* ended. When the broker ends,
//! its back end is killed; when it crashes, its back end can reach what was mapped and waits for ever where it touches more. A guest that ends
//! is a zombie until what it lent is unmapped, as everywhere. A window keeps a guest's memory file, and so its memory, until the back end's process ends.
//!
//! # Copies
//!
//! [`GrantMapper::copy`](crate::GrantMapper::copy) goes through a buffer that both share: two copies in memory cost less than a change of page tables and
//! the flushes that follow.
//!

mod books;
mod bounce;
mod broker;
mod confine;
mod files;
mod filter;
mod inspect;
mod mapper;
mod peer;
pub mod protocol;
mod rings;
mod serve;
mod setup;
mod socket;
#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;
mod uffd;

pub use broker::{Broker, BrokerConfig, End, Granter, StartError, Strays};
pub use confine::{ConfineError, Confinement};
pub use files::{FilePage, GuestFile, GuestFiles};
pub use inspect::Unfit;
pub use mapper::ProcessMapper;
pub(crate) use mapper::{Loan, Loans};
pub use setup::{Setup, SetupError};
pub use socket::socket_pair;
