//! What is counted while a guest runs.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use cantle_abi::xen;

/// Hypercall numbers with a meaning.
const HYPERCALLS: usize = xen::HYPERCALL_PAGE_ENTRIES as usize;
/// Distinct unknown numbers that are told apart; a guest can make up as many as it likes.
const MOST_UNKNOWN: usize = 64;

/// A kind of return from the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Exit {
    Hypercall,
    IoOut,
    IoIn,
    MmioRead,
    MmioWrite,
    MsrRead,
    MsrWrite,
    Interrupted,
    Other,
}

const EXIT_NAMES: [&str; 9] = [
    "hypercall",
    "io_out",
    "io_in",
    "mmio_read",
    "mmio_write",
    "msr_read",
    "msr_write",
    "interrupted",
    "other",
];

/// Counters of one domain; all vCPUs share them.
#[derive(Debug)]
pub(crate) struct Counters {
    exits: [AtomicU64; EXIT_NAMES.len()],
    hypercalls: [AtomicU64; HYPERCALLS],
    unknown: Mutex<BTreeMap<u64, u64>>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            exits: std::array::from_fn(|_| AtomicU64::new(0)),
            hypercalls: std::array::from_fn(|_| AtomicU64::new(0)),
            unknown: Mutex::default(),
        }
    }
}

impl Counters {
    pub(crate) fn exit(&self, exit: Exit) {
        if let Some(counter) = self.exits.get(exit as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a call; `known` where somebody serves it.
    pub(crate) fn hypercall(&self, nr: u64, known: bool) {
        if known
            && let Some(counter) = usize::try_from(nr)
                .ok()
                .and_then(|nr| self.hypercalls.get(nr))
        {
            counter.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Ok(mut unknown) = self.unknown.lock() else {
            return;
        };
        if unknown.len() < MOST_UNKNOWN || unknown.contains_key(&nr) {
            let count = unknown.entry(nr).or_insert(0);
            *count += 1;
            if *count == 1 {
                tracing::debug!(
                    nr,
                    "a hypercall, or one of its operations, that is not known"
                );
            }
        }
    }

    pub(crate) fn exits(&self) -> BTreeMap<String, u64> {
        let counts = self.exits.iter().map(|c| c.load(Ordering::Relaxed));
        EXIT_NAMES
            .iter()
            .map(|n| (*n).to_owned())
            .zip(counts)
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    pub(crate) fn hypercalls(&self) -> BTreeMap<String, u64> {
        let counts = self.hypercalls.iter().map(|c| c.load(Ordering::Relaxed));
        (0_u32..)
            .zip(counts)
            .filter(|(_, n)| *n > 0)
            .map(|(nr, n)| (name(nr), n))
            .collect()
    }

    pub(crate) fn unknown_hypercalls(&self) -> BTreeMap<u64, u64> {
        self.unknown
            .lock()
            .map(|map| map.clone())
            .unwrap_or_default()
    }
}

fn name(nr: u32) -> String {
    let known = match nr {
        xen::__HYPERVISOR_memory_op => "memory_op",
        xen::__HYPERVISOR_multicall => "multicall",
        xen::__HYPERVISOR_set_timer_op => "set_timer_op",
        xen::__HYPERVISOR_xen_version => "xen_version",
        xen::__HYPERVISOR_console_io => "console_io",
        xen::__HYPERVISOR_grant_table_op => "grant_table_op",
        xen::__HYPERVISOR_vm_assist => "vm_assist",
        xen::__HYPERVISOR_vcpu_op => "vcpu_op",
        xen::__HYPERVISOR_sched_op => "sched_op",
        xen::__HYPERVISOR_event_channel_op => "event_channel_op",
        xen::__HYPERVISOR_hvm_op => "hvm_op",
        other => return format!("hypercall_{other}"),
    };
    known.to_owned()
}
