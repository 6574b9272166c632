//! A guest behind the attach socket: a page, two eventfds, and a client of the ring.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use cantle_abi::io::xs_wire::{
    XENSTORE_CONNECTED, XENSTORE_CONNECTION_OFFSET, XENSTORE_RECONNECT, XsType,
};
use cantle_abi::{DomId, PAGE_SIZE, Port};
use cantle_xenstore::TxId;
use cantle_xenstore::client::WatchEvent;
use cantle_xenstore::transport::attach::{Introduction, RingPage, Vmm};
use cantle_xenstore::transport::ring_client::RingClient;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, SealFlags};

/// A guest and its VMM.
pub(crate) struct Guest {
    vmm: Vmm,
    domid: DomId,
    pub(crate) memory: File,
    client: RingClient<RingPage>,
    wake: OwnedFd,
    notify: OwnedFd,
    pub(crate) events: Vec<WatchEvent>,
}

impl Guest {
    /// A new guest, whose page is the second of its memory.
    pub(crate) fn introduced(domains: &Path, domid: DomId) -> Self {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = File::from(rustix::fs::memfd_create("guest", flags).unwrap());
        memory.set_len(4 * PAGE_SIZE as u64).unwrap();
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK).unwrap();
        Self::with_memory(domains, domid, memory, false)
    }

    pub(crate) fn with_memory(
        domains: &Path,
        domid: DomId,
        memory: File,
        interrupted: bool,
    ) -> Self {
        let signal = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let (wake, notify) = (signal(), signal());
        let vmm = Vmm::connect(domains).unwrap();
        let offset = PAGE_SIZE as u64;
        let about = Introduction {
            domid,
            port: Port(1),
            offset,
            features: u32::MAX,
            interrupted,
        };
        let client = RingClient::new(RingPage::map(&memory, offset).unwrap());
        vmm.introduce(&about, memory.as_fd(), wake.as_fd(), notify.as_fd())
            .unwrap();
        Self {
            vmm,
            domid,
            memory,
            client,
            wake,
            notify,
            events: Vec::new(),
        }
    }

    /// One request and its answer.
    pub(crate) fn ask(&mut self, op: XsType, payload: &[u8]) -> Result<Vec<u8>, String> {
        let req_id = self.client.send(op, TxId::NONE, &[payload]).unwrap();
        loop {
            if self.client.pump().unwrap() {
                rustix::io::write(&self.wake, &1u64.to_ne_bytes()).unwrap();
            }
            while let Some(event) = self.client.take_event() {
                self.events.push(event);
            }
            if let Some(reply) = self.client.take_reply() {
                assert_eq!(reply.req_id, req_id, "answers come in order, each once");
                return reply
                    .result
                    .map_err(|errno| errno.name().unwrap_or("?").to_owned());
            }
            self.wait();
        }
    }

    fn wait(&self) {
        let timeout = Timespec::try_from(super::PATIENCE).unwrap();
        let mut polled = [PollFd::new(&self.notify, PollFlags::IN)];
        assert_eq!(
            poll(&mut polled, Some(&timeout)),
            Ok(1),
            "the guest is notified"
        );
        rustix::io::read(&self.notify, &mut [0; 8]).unwrap();
    }

    /// Asks for a new connection, and waits until there is one.
    pub(crate) fn reconnect(&mut self) {
        let at = PAGE_SIZE as u64 + XENSTORE_CONNECTION_OFFSET as u64;
        let mut state = XENSTORE_RECONNECT.to_le_bytes();
        self.memory.write_at(&state, at).unwrap();
        rustix::io::write(&self.wake, &1u64.to_ne_bytes()).unwrap();
        while u32::from_le_bytes(state) != XENSTORE_CONNECTED {
            self.wait();
            self.memory.read_exact_at(&mut state, at).unwrap();
        }
        self.client = RingClient::new(RingPage::map(&self.memory, PAGE_SIZE as u64).unwrap());
    }

    pub(crate) fn release(self) {
        self.vmm.release(self.domid).unwrap();
    }
}
