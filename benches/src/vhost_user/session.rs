//! The connection to the daemon: what both sides can do, the memory that they share, and the queues in it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustix::fs::MemfdFlags;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag};
use vhost::vhost_user::{
    Frontend, VhostUserFrontend, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{FileOffset, MmapRegion};

use super::queue::{QUEUE_BYTES, Queue};
use super::virtqueue::{ENTRIES, Virtqueue, Wake};

/// Features that the driver relies on, by their bits (virtio 1.2, 6 and 2.7).
const NEEDED: u64 = VIRTIO_F_VERSION_1 | VIRTIO_RING_F_EVENT_IDX | VIRTIO_RING_F_INDIRECT_DESC;
const VIRTIO_RING_F_INDIRECT_DESC: u64 = 1 << 28;
const VIRTIO_RING_F_EVENT_IDX: u64 = 1 << 29;
pub(super) const VIRTIO_F_VERSION_1: u64 = 1 << 32;
/// Features of the disk that Linux would take too (virtio 1.2, 5.2.3). With `FLUSH` the disk may cache writes.
const WELCOME: u64 = VIRTIO_BLK_F_SEG_MAX
    | VIRTIO_BLK_F_BLK_SIZE
    | VIRTIO_BLK_F_FLUSH
    | VIRTIO_BLK_F_TOPOLOGY
    | VIRTIO_BLK_F_CONFIG_WCE
    | VIRTIO_BLK_F_MQ;
const VIRTIO_BLK_F_SEG_MAX: u64 = 1 << 2;
const VIRTIO_BLK_F_BLK_SIZE: u64 = 1 << 6;
const VIRTIO_BLK_F_FLUSH: u64 = 1 << 9;
const VIRTIO_BLK_F_TOPOLOGY: u64 = 1 << 10;
const VIRTIO_BLK_F_CONFIG_WCE: u64 = 1 << 11;
const VIRTIO_BLK_F_MQ: u64 = 1 << 12;

const SECTOR_BYTES: u64 = 512;

/// An open connection. The daemon stops serving when it is closed.
pub(super) struct Session {
    _frontend: Frontend,
    capacity: u64,
}

impl Session {
    /// Does the whole of the setting up: the connection, and as many queues as asked for, ready to be used.
    ///
    /// # Errors
    ///
    /// The daemon refuses something, or lacks what is needed.
    pub(super) fn open(stream: UnixStream, queues: usize) -> Result<(Self, Vec<Queue>)> {
        let mut frontend = Frontend::from_stream(stream, queues as u64);
        negotiate(&mut frontend, queues)?;
        let capacity = capacity(&mut frontend)?;
        let memory = share_memory(&frontend, queues * QUEUE_BYTES)?;
        let queues = (0..queues)
            .map(|n| {
                let ring = Virtqueue::new(Arc::clone(&memory), n * QUEUE_BYTES, Wake::ByIndex)?;
                start(&mut frontend, n, &ring).with_context(|| format!("queue {n}"))?;
                Ok(Queue::new(memory.clone(), ring))
            })
            .collect::<Result<_>>()?;
        let session = Self {
            _frontend: frontend,
            capacity,
        };
        Ok((session, queues))
    }

    /// The disk's size in bytes.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

fn negotiate(frontend: &mut Frontend, queues: usize) -> Result<()> {
    frontend.set_owner()?;
    let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    let (needed, offered) = (NEEDED | protocol, frontend.get_features()?);
    ensure!(
        offered & needed == needed,
        "the daemon lacks the features {:#x}",
        needed & !offered
    );
    let wanted = VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::REPLY_ACK;
    let offered_protocol = frontend.get_protocol_features()?;
    ensure!(
        offered_protocol.contains(wanted),
        "the daemon lacks protocol features: it has {offered_protocol:?}"
    );
    frontend.set_protocol_features(wanted)?;
    // From here on every message is answered, so that a refusal is seen.
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    let most = frontend.get_queue_num()?;
    ensure!(most >= queues as u64, "the daemon has {most} queues only");
    frontend.set_features(needed | (WELCOME & offered))?;
    Ok(())
}

/// The disk's size, at the beginning of its configuration space.
fn capacity(frontend: &mut Frontend) -> Result<u64> {
    let (_, space) = frontend.get_config(0, 8, VhostUserConfigFlags::empty(), &[0; 8])?;
    let sectors = space.first_chunk().context("a short configuration space")?;
    Ok(u64::from_le_bytes(*sectors) * SECTOR_BYTES)
}

/// Memory that the daemon maps too. What a driver calls a physical address is an offset into it.
pub(super) fn share_memory(frontend: &Frontend, len: usize) -> Result<Arc<MmapRegion>> {
    let file = File::from(rustix::fs::memfd_create("virtqueues", MemfdFlags::CLOEXEC)?);
    file.set_len(len as u64)?;
    let handle = file.as_raw_fd();
    let memory = Arc::new(MmapRegion::from_file(FileOffset::new(file, 0), len)?);
    frontend.set_mem_table(&[VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: len as u64,
        userspace_addr: memory.as_ptr().addr() as u64,
        mmap_offset: 0,
        mmap_handle: handle,
    }])?;
    Ok(memory)
}

/// Makes a queue known and starts it. Rings are told by the addresses that they have in this process.
pub(super) fn start(frontend: &mut Frontend, n: usize, ring: &Virtqueue) -> Result<()> {
    frontend.set_vring_num(n, ENTRIES)?;
    frontend.set_vring_base(n, 0)?;
    frontend.set_vring_addr(
        n,
        &VringConfigData {
            queue_max_size: ENTRIES,
            queue_size: ENTRIES,
            flags: 0,
            desc_table_addr: ring.descriptors() as u64,
            avail_ring_addr: ring.available() as u64,
            used_ring_addr: ring.used() as u64,
            log_addr: None,
        },
    )?;
    frontend.set_vring_call(n, ring.call())?;
    frontend.set_vring_kick(n, ring.kick())?;
    frontend.set_vring_enable(n, true)?;
    Ok(())
}
