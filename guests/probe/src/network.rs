//! A small network front end: one frame at a time to send, a ring full of pages to receive.

use cantle_abi::io::netif::{
    NETRXF_extra_info, NETRXF_more_data, NetifRxRequest, NetifRxResponse, NetifTxRequest,
    NetifTxResponse,
};
use cantle_abi::io::xenbus::XenbusState;
use cantle_abi::ring::FrontRing;
use cantle_abi::{GrantRef, PAGE_SIZE, Port};

use crate::device::Device;
use crate::memory::{self, Window};
use crate::report::{Because as _, Outcome};
use crate::xenstore::Store;
use crate::{clock, ensure, events, fail, grants, path};

/// How long sending may take.
const PATIENCE_MS: u64 = 10_000;
/// Pages for received frames.
const RX_PAGES: u16 = 16;
/// The longest frame the probe deals with.
pub(crate) const FRAME_MAX: usize = 1514;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// A connected network interface.
pub(crate) struct Interface {
    device: Device,
    tx: FrontRing<NetifTxRequest, NetifTxResponse, Window>,
    rx: FrontRing<NetifRxRequest, NetifRxResponse, Window>,
    port: Port,
    tx_page: Window,
    tx_gref: GrantRef,
    rx_pages: Window,
    rx_grefs: [GrantRef; RX_PAGES as usize],
    next_id: u16,
    pub(crate) mac: Mac,
    /// Frames sent and received.
    pub(crate) sent: u32,
    pub(crate) received: u32,
}

fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

impl Interface {
    /// Connects to the interface with this id, or to the first.
    pub(crate) fn connect(store: &mut Store, id: Option<&str>) -> Outcome<Self> {
        let device = Device::find(store, "vif", id)?;
        device.wait_for_backend(store)?;
        let text = store.expect(&path!("{}/mac", device.front))?;
        let Some(mac) = parse_mac(text.as_str()) else {
            fail!("the interface's mac is {text}");
        };

        // As Linux does it: all keys in one transaction.
        let tx_id = store.begin()?;
        let (tx_ring, _) = device.ring_page(store, tx_id, "tx-ring-ref")?;
        let (rx_ring, _) = device.ring_page(store, tx_id, "rx-ring-ref")?;
        let (Ok(tx), Ok(mut rx)) = (
            FrontRing::init(tx_ring),
            FrontRing::<NetifRxRequest, NetifRxResponse, _>::init(rx_ring),
        ) else {
            fail!("a page is too small for a ring");
        };
        let port = device.channel(store, tx_id)?;
        for (key, value) in [
            ("request-rx-copy", 1),
            ("feature-rx-notify", 1),
            ("feature-sg", 0),
            ("feature-no-csum-offload", 1),
        ] {
            device.tell(store, tx_id, key, value)?;
        }
        if let Err(why) = store.end(tx_id, true)? {
            fail!("committing the interface's keys: {why}");
        }

        let rx_pages = memory::pages(RX_PAGES.into())?;
        let mut rx_grefs = [GrantRef(0); RX_PAGES as usize];
        for (id, gref) in (0..RX_PAGES).zip(&mut rx_grefs) {
            let Some(page) = rx_pages.part(usize::from(id) * PAGE_SIZE, PAGE_SIZE) else {
                fail!("too few pages to receive in");
            };
            *gref = grants::grant(&page, device.backend, false)?;
            let (pad, gref) = (0, *gref);
            rx.push_request(&NetifRxRequest { id, pad, gref })?;
        }
        let tx_page = memory::page()?;
        let tx_gref = grants::grant(&tx_page, device.backend, true)?;
        let wanted = rx.publish_requests();
        device.set_state(store, XenbusState::CONNECTED)?;
        device.wait_connected(store)?;
        if wanted {
            events::send(port).because("notifying the back end")?;
        }
        Ok(Self {
            device,
            tx,
            rx,
            port,
            tx_page,
            tx_gref,
            rx_pages,
            rx_grefs,
            next_id: 1,
            mac,
            sent: 0,
            received: 0,
        })
    }

    /// Sends a frame and waits until it has left; the response's status.
    pub(crate) fn send(&mut self, frame: &[u8]) -> Outcome<i16> {
        let Ok(size) = u16::try_from(frame.len()) else {
            fail!("a frame of {} bytes", frame.len());
        };
        self.tx_page.write_bytes(0, frame);
        let gref = self.tx_gref;
        self.send_raw(gref, 0, size)
    }

    /// Sends what a grant names, as it stands; the response's status.
    pub(crate) fn send_raw(&mut self, gref: GrantRef, offset: u16, size: u16) -> Outcome<i16> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.tx.push_request(&NetifTxRequest {
            gref,
            offset,
            flags: 0,
            id,
            size,
        })?;
        if self.tx.publish_requests() {
            events::send(self.port).because("notifying the back end")?;
        }
        let (tx, mut broken) = (&mut self.tx, None);
        let answered = clock::wait(PATIENCE_MS, || match tx.next_response() {
            Ok(Some(response)) => {
                broken = Some(Ok(response));
                true
            }
            Ok(None) => tx.final_check_for_responses(),
            Err(why) => {
                broken = Some(Err(why));
                true
            }
        });
        ensure!(answered, "a frame is not sent");
        let response = match broken {
            Some(response) => response?,
            None => match self.tx.next_response()? {
                Some(response) => response,
                None => fail!("the ring said that there was a response"),
            },
        };
        ensure!(
            response.id == id,
            "frame {id} was answered as {}",
            response.id
        );
        self.sent += 1;
        Ok(response.status)
    }

    /// The next frame received, copied out: its length. `None` after `ms` milliseconds without one.
    pub(crate) fn receive(
        &mut self,
        frame: &mut [u8; FRAME_MAX],
        ms: u64,
    ) -> Outcome<Option<usize>> {
        let end = clock::now() + ms * 1_000_000;
        let response = loop {
            if let Some(response) = self.rx.next_response()? {
                break response;
            }
            let left = end.saturating_sub(clock::now()) / 1_000_000;
            let rx = &mut self.rx;
            if !clock::wait(left, || rx.final_check_for_responses()) {
                return Ok(None);
            }
        };
        let (id, size) = (usize::from(response.id), usize::try_from(response.status));
        let Ok(size) = size else {
            fail!("a received frame has status {}", response.status);
        };
        let (Some(gref), true) = (self.rx_grefs.get(id).copied(), size <= FRAME_MAX) else {
            fail!("a received frame has id {id} and {size} bytes");
        };
        ensure!(
            response.flags & (NETRXF_more_data | NETRXF_extra_info) == 0,
            "a frame in several parts, which was not asked for"
        );
        let offset = usize::from(response.offset);
        ensure!(
            offset + size <= PAGE_SIZE,
            "a received frame is at {offset} with {size} bytes"
        );
        let into = frame.get_mut(..size).unwrap_or_default();
        self.rx_pages.read_bytes(id * PAGE_SIZE + offset, into);
        self.received += 1;
        let (id, pad) = (response.id, 0);
        self.rx.push_request(&NetifRxRequest { id, pad, gref })?;
        if self.rx.publish_requests() {
            events::send(self.port).because("notifying the back end")?;
        }
        Ok(Some(size))
    }

    /// Disconnects.
    pub(crate) fn close(self, store: &mut Store) -> Outcome {
        self.device.close(store)?;
        for gref in self.rx_grefs.into_iter().chain([self.tx_gref]) {
            ensure!(grants::end(gref)?, "grant {gref} is still in use");
        }
        events::close(self.port).because("closing the interface's port")?;
        Ok(())
    }
}

/// Puts an Ethernet header and a payload together; the frame's length, at least the 60 bytes of the wire.
pub(crate) fn frame(
    into: &mut [u8; FRAME_MAX],
    to: Mac,
    from: Mac,
    kind: u16,
    payload: &[u8],
) -> usize {
    into.fill(0);
    let head = to.into_iter().chain(from).chain(kind.to_be_bytes());
    let bytes = head.chain(payload.iter().copied());
    let len = into
        .iter_mut()
        .zip(bytes)
        .map(|(slot, b)| *slot = b)
        .count();
    len.max(60)
}

/// The Internet checksum.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| match pair {
            [a, b] => u32::from(u16::from_be_bytes([*a, *b])),
            [a] => u32::from(*a) << 8,
            _ => 0,
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}
