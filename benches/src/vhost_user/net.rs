//! The peer of the network back end: Cloud Hypervisor's `vhost_user_net`, which serves a tap as we do, and a driver of it.
//!
//! The driver does what Linux's virtio-net does, without a guest around it, and kinder: each frame is one piece of memory with its header,
//! where a guest has pages. The device knows no event indices and no mergeable buffers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vhost::VhostBackend;
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{
    Frontend, VhostUserFrontend, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vm_memory::{MmapRegion, VolatileMemory};

use super::daemon::Daemon;
use super::session::{VIRTIO_F_VERSION_1, share_memory, start};
use super::virtqueue::{ENTRIES, RINGS_BYTES, Virtqueue, WRITE, Wake};

/// Where `benches/README.md` says to put it; else it is looked for on the path.
const BUILT: &str = "target/peers/vhost_user_net";
const PROGRAM: &str = "vhost_user_net";
/// Features that Linux would take too (virtio 1.2, 5.1.3).
const NEEDED: u64 = VIRTIO_F_VERSION_1
    | VIRTIO_NET_F_CSUM
    | VIRTIO_NET_F_GUEST_CSUM
    | VIRTIO_NET_F_GUEST_TSO4
    | VIRTIO_NET_F_HOST_TSO4;
const VIRTIO_NET_F_CSUM: u64 = 1 << 0;
const VIRTIO_NET_F_GUEST_CSUM: u64 = 1 << 1;
const VIRTIO_NET_F_GUEST_TSO4: u64 = 1 << 7;
const VIRTIO_NET_F_HOST_TSO4: u64 = 1 << 11;

const PAGE: usize = 4096;
/// Bytes of each direction's buffers: as many as our front end has.
const DATA_BYTES: usize = 1 << 20;
const DIRECTION_BYTES: usize = RINGS_BYTES + DATA_BYTES;

/// A network card that `vhost_user_net` serves. After an error it is not to be used again.
pub(crate) struct Nic {
    memory: Arc<MmapRegion>,
    receives: Virtqueue,
    sends: Virtqueue,
    /// Bytes of a header and a frame.
    len: usize,
    apart: usize,
    _frontend: Frontend,
    /// The last to go.
    daemon: Daemon,
}

impl Nic {
    /// Starts a daemon for a tap of this thread's namespace, with frames of so many bytes behind such a header, and posts buffers to
    /// receive into.
    ///
    /// # Errors
    ///
    /// The daemon is not installed, refuses the tap, or lacks a feature that the driver needs.
    pub(crate) fn start(tap: &str, header: &[u8], frame: &[u8]) -> Result<Self> {
        let program = Path::new(BUILT).exists().then_some(BUILT);
        let (daemon, stream) = Daemon::run(program.unwrap_or(PROGRAM), |command, socket| {
            let socket = socket.to_str().context("no text")?;
            let told = format!("tap={tap},socket={socket},num_queues=2,queue_size={ENTRIES}");
            command.arg("--net-backend").arg(told);
            Ok(())
        })?;
        let mut frontend = Frontend::from_stream(stream, 2);
        negotiate(&mut frontend)?;
        let memory = share_memory(&frontend, 2 * DIRECTION_BYTES)?;
        let ring = |n| Virtqueue::new(Arc::clone(&memory), n * DIRECTION_BYTES, Wake::ByFlag);
        let (receives, sends) = (ring(0)?, ring(1)?);
        let len = header.len() + frame.len();
        let mut nic = Self {
            memory,
            receives,
            sends,
            len,
            apart: len.next_multiple_of(PAGE),
            _frontend: frontend,
            daemon,
        };
        for entry in 0..nic.depth() {
            let at = nic.data(1, entry);
            let bytes = [header, frame].concat();
            nic.memory.get_slice(at, len)?.copy_from(&bytes);
        }
        start(&mut nic._frontend, 0, &nic.receives)?;
        start(&mut nic._frontend, 1, &nic.sends)?;
        for entry in 0..nic.depth() {
            nic.post(entry)?;
        }
        nic.receives.publish()?;
        Ok(nic)
    }

    /// Sends `count` frames, and waits until all are gone.
    ///
    /// # Errors
    ///
    /// The daemon does not answer.
    pub(crate) fn send(&mut self, count: u64) -> Result<()> {
        let mut free: Vec<u16> = (0..self.depth()).rev().collect();
        let (mut sent, mut done) = (0, 0);
        while done < count {
            while sent < count
                && let Some(entry) = free.pop()
            {
                let at = self.data(1, entry);
                self.sends.push_direct(entry, at, self.len, 0)?;
                sent += 1;
            }
            self.sends.publish()?;
            let before = done;
            while let Some(entry) = self.sends.pop()? {
                free.push(entry);
                done += 1;
            }
            if done == before {
                self.sends.sleep()?;
            }
        }
        Ok(())
    }

    /// Takes the frames that have come, and posts their buffers again; how many.
    ///
    /// # Errors
    ///
    /// No descriptor is free.
    pub(crate) fn drain(&mut self) -> Result<u64> {
        let mut received = 0;
        while let Some(entry) = self.receives.pop()? {
            self.post(entry)?;
            received += 1;
        }
        self.receives.publish()?;
        Ok(received)
    }

    /// Waits until there may be frames.
    ///
    /// # Errors
    ///
    /// None comes for very long.
    pub(crate) fn wait(&self) -> Result<()> {
        self.receives.sleep()
    }

    /// The CPU time that the daemon has used since its start, the kernel's work for it included.
    ///
    /// # Errors
    ///
    /// The daemon is gone.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        self.daemon.cpu_time()
    }

    /// Frames that each direction has room for.
    fn depth(&self) -> u16 {
        let fitting = u16::try_from(DATA_BYTES / self.apart).unwrap_or(ENTRIES);
        fitting.min(ENTRIES)
    }

    fn data(&self, direction: usize, entry: u16) -> usize {
        direction * DIRECTION_BYTES + RINGS_BYTES + usize::from(entry) * self.apart
    }

    fn post(&mut self, entry: u16) -> Result<()> {
        let at = self.data(0, entry);
        self.receives.push_direct(entry, at, self.apart, WRITE)
    }
}

fn negotiate(frontend: &mut Frontend) -> Result<()> {
    frontend.set_owner()?;
    let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    let (needed, offered) = (NEEDED | protocol, frontend.get_features()?);
    ensure!(
        offered & needed == needed,
        "the daemon lacks the features {:#x}",
        needed & !offered
    );
    let wanted = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
    let offered = frontend.get_protocol_features()?;
    ensure!(
        offered.contains(wanted),
        "the daemon lacks protocol features: it has {offered:?}"
    );
    frontend.set_protocol_features(wanted)?;
    // From here on every message is answered, so that a refusal is seen.
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    frontend.set_features(needed)?;
    Ok(())
}
