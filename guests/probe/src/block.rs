//! A small block front end: one request at a time.

use cantle_abi::io::blkif::{
    BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_FLUSH_DISKCACHE, BlkifRequest, BlkifRequestSegment,
    BlkifResponse,
};
use cantle_abi::io::xenbus::XenbusState;
use cantle_abi::ring::FrontRing;
use cantle_abi::{DomId, GrantRef, PAGE_SIZE, Port};

use crate::device::Device;
use crate::memory::{self, Window};
use crate::report::{Because as _, Outcome};
use crate::xenstore::Store;
use crate::{clock, ensure, events, fail, grants, path};

/// How long a request may take.
const PATIENCE_MS: u64 = 10_000;
/// 512-byte sectors in a page.
pub(crate) const SECTORS: u64 = PAGE_SIZE as u64 / 512;

/// A connected disk.
pub(crate) struct Disk {
    device: Device,
    ring: FrontRing<BlkifRequest, BlkifResponse, Window>,
    port: Port,
    ring_gref: GrantRef,
    handle: u16,
    next_id: u64,
    /// Pages for data, one for each segment, in a row; lent to the back end for good.
    pub(crate) data: Window,
    grefs: [GrantRef; BLKIF_MAX_SEGMENTS_PER_REQUEST],
    /// The disk's size in units of 512 bytes.
    pub(crate) sectors: u64,
    /// The unit of its medium, in bytes.
    pub(crate) sector_size: u64,
    /// `VDISK_*`.
    pub(crate) info: u32,
    /// Whether the back end offers to flush.
    pub(crate) flush: bool,
}

impl Disk {
    /// Connects to the disk with this id, or to the first.
    pub(crate) fn connect(store: &mut Store, id: Option<&str>) -> Outcome<Self> {
        let device = Device::find(store, "vbd", id)?;
        device.wait_for_backend(store)?;
        let (page, ring_gref) = device.ring_page(store, 0, "ring-ref")?;
        let Ok(ring) = FrontRing::init(page) else {
            fail!("a page is too small for a ring");
        };
        let port = device.channel(store, 0)?;
        store.write(0, &path!("{}/protocol", device.front), b"x86_64-abi")?;
        device.set_state(store, XenbusState::INITIALISED)?;
        device.wait_connected(store)?;

        let back = &device.back;
        let sectors = store.number(&path!("{back}/sectors"))?;
        let sector_size = store.number(&path!("{back}/sector-size"))?;
        let info = store.number(&path!("{back}/info"))?;
        let flush = store.read(&path!("{back}/feature-flush-cache"))?;
        let handle = store.number(&path!("{}/virtual-device", device.front))?;
        device.set_state(store, XenbusState::CONNECTED)?;

        let data = memory::pages(BLKIF_MAX_SEGMENTS_PER_REQUEST)?;
        let mut grefs = [GrantRef(0); BLKIF_MAX_SEGMENTS_PER_REQUEST];
        for (i, gref) in grefs.iter_mut().enumerate() {
            let Some(page) = data.part(i * PAGE_SIZE, PAGE_SIZE) else {
                fail!("the data has too few pages");
            };
            *gref = grants::grant(&page, device.backend, false)?;
        }
        Ok(Self {
            device,
            ring,
            port,
            ring_gref,
            // The low half is what fits, as in every front end.
            handle: u16::try_from(handle & 0xffff).unwrap_or_default(),
            next_id: 0x1234_5678_0000_0001,
            data,
            grefs,
            sectors,
            sector_size,
            info: u32::try_from(info).unwrap_or(u32::MAX),
            flush: flush.is_some_and(|f| f.as_str() == "1"),
        })
    }

    /// A read or write of whole pages from the first data page on, or a flush (`pages` 0); the response's status.
    pub(crate) fn request(&mut self, operation: u8, sector: u64, pages: usize) -> Outcome<i16> {
        let mut seg = [BlkifRequestSegment {
            gref: GrantRef(0),
            first_sect: 0,
            last_sect: 7,
            pad: 0,
        }; BLKIF_MAX_SEGMENTS_PER_REQUEST];
        for (seg, gref) in seg.iter_mut().zip(self.grefs) {
            seg.gref = gref;
        }
        let request = BlkifRequest {
            operation,
            nr_segments: u8::try_from(pages).unwrap_or(u8::MAX),
            handle: self.handle,
            pad: 0,
            id: self.next_id,
            sector_number: sector,
            seg,
        };
        self.submit(&request)
    }

    /// A request as it stands (but for its id, which is given here); the response's status.
    pub(crate) fn submit(&mut self, request: &BlkifRequest) -> Outcome<i16> {
        let request = BlkifRequest {
            id: self.next_id,
            ..*request
        };
        self.next_id += 1;
        self.ring.push_request(&request)?;
        if self.ring.publish_requests() {
            events::send(self.port).because("notifying the back end")?;
        }
        let response = self.response()?;
        ensure!(
            response.id == request.id && response.operation == request.operation,
            "request {:#x}/{} was answered as {:#x}/{}",
            request.id,
            request.operation,
            response.id,
            response.operation
        );
        Ok(response.status)
    }

    fn response(&mut self) -> Outcome<BlkifResponse> {
        let end = clock::now() + PATIENCE_MS * 1_000_000;
        loop {
            if let Some(response) = self.ring.next_response()? {
                return Ok(response);
            }
            if self.ring.final_check_for_responses() {
                continue;
            }
            let before = events::count(self.port);
            let left = end.saturating_sub(clock::now()) / 1_000_000;
            // A response between the check and here has notified, since the check asked for it.
            let (port, ring) = (self.port, &mut self.ring);
            let woken = clock::wait(left, || {
                events::count(port) != before || ring.final_check_for_responses()
            });
            ensure!(woken, "the disk does not answer");
        }
    }

    /// Has the disk bring all writes to its medium.
    pub(crate) fn flush(&mut self) -> Outcome<i16> {
        self.request(BLKIF_OP_FLUSH_DISKCACHE, 0, 0)
    }

    /// A request's segment over a whole data page.
    pub(crate) fn gref(&self, page: usize) -> GrantRef {
        self.grefs.get(page).copied().unwrap_or(GrantRef(0))
    }

    /// The ring's own grant.
    pub(crate) fn ring_gref(&self) -> GrantRef {
        self.ring_gref
    }

    /// Who serves the disk.
    pub(crate) fn backend(&self) -> DomId {
        self.device.backend
    }

    /// Disconnects.
    pub(crate) fn close(self, store: &mut Store) -> Outcome {
        self.device.close(store)?;
        for gref in self.grefs {
            ensure!(grants::end(gref)?, "grant {gref} is still in use");
        }
        events::close(self.port).because("closing the disk's port")?;
        Ok(())
    }
}
