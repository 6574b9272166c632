//! Xen guests on KVM: the platform that a guest sees, and the composition of the other crates into a host.
//!
//! A [`Machine`] is made from a [`GuestConfig`] and runs one unmodified PVH or PV guest to its end. Everything that makes the
//! guest believe in Xen is another crate's work: event channels (`cantle-evtchn`), grants (`cantle-grant`), xenstore
//! (`cantle-xenstore`), disks (`cantle-blkback`) and networks (`cantle-netback`). This crate has KVM, the vCPUs, the
//! hypercalls' dispatch and the [`boot`] of kernels, and knows the inside of none of the others.
//!
//! # What a guest can do to its host
//!
//! All that a guest says arrives by hypercalls, by rings and by its memory. Hypercall arguments are copied once and checked;
//! no operation's work exceeds what its checked counts bound; an operation that is not known answers `-ENOSYS`. A guest that
//! triple-faults, or does what KVM cannot go on from, ends its own run with the registers in the message.
//!
//! ```no_run
//! use cantle_vmm_core::{Console, GrantConfig, GuestConfig, GuestKind, MAX_EVENT_CHANNELS, Machine, TransportChoice};
//! use std::os::fd::OwnedFd;
//!
//! let config = GuestConfig {
//!     name: "example".into(),
//!     kind: GuestKind::Pvh,
//!     kernel: "/boot/vmlinuz".into(),
//!     initrd: None,
//!     cmdline: "console=hvc0".into(),
//!     memory: 512 << 20,
//!     vcpus: 2,
//!     max_event_channels: MAX_EVENT_CHANNELS,
//!     max_event_rate: None,
//!     disks: vec![],
//!     nets: vec![],
//!     grants: GrantConfig::default(),
//!     transport: TransportChoice::Auto,
//!     xenstore_socket: None,
//! };
//! let console = Console {
//!     input: OwnedFd::from(std::fs::File::open("/dev/null")?),
//!     output: OwnedFd::from(std::fs::File::create("console.log")?),
//! };
//! let outcome = Machine::new(config, console)?.run()?;
//! println!("the guest {}", outcome.end);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod boot;

mod config;
mod console;
mod counters;
mod devices;
mod disks;
mod domain;
mod error;
mod grants;
mod hypercall;
mod kvm;
mod machine;
mod memory;
mod nets;
mod outcome;
mod ports;
mod pv;
mod rings;
mod running;
mod runstate;
mod services;
mod sleepers;
mod store;
#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;
mod ticks;
mod timers;

/// What a guest's disks are made of, for those who describe them.
pub mod disk {
    pub use cantle_blkback::{BackendOptions, DiskKind, OnError};
    pub use cantle_disk::{DiskSpec, ImageFormat, Overlay, Parents, set_limit};
    pub use cantle_image::CacheMode;
    pub use cantle_layers::Limits;
}

/// What a guest's network interfaces are made of, for those who describe them.
pub mod net {
    pub use cantle_netback::BackendOptions;
    pub use cantle_netback::credit::Rate;
    pub use cantle_netport::{NetDevice, NetPort};
    pub use cantle_switch as switch;

    pub use crate::nets::{
        HostSwitch, MAX_NETS, NetIdentity, OpenDevice, ReadNet, SwitchConfig, SwitchSetupError,
        Uplink,
    };
}

pub use config::{
    Console, DiskConfig, GrantConfig, GuestConfig, GuestKind, MAX_EVENT_CHANNELS, MAX_VCPUS,
    MIN_EVENT_CHANNELS, MIN_MEMORY, TransportChoice,
};
pub use error::{NetError, SetupError};
pub use kvm::kvm_runs_stock_kernels;
pub use machine::{Machine, MachineControl};
pub use memory::GuestRam;
pub use nets::{NetConfig, NetLink};
pub use outcome::{End, Outcome, Stats};
pub use pv::MonitorMemory;
