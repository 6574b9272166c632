//! A xenstore client over the ring page: one request at a time, watch events kept meanwhile.

use cantle_abi::io::xenbus::XenbusState;
use cantle_abi::io::xs_wire::{
    XENSTORE_PAYLOAD_MAX, XENSTORE_REQ, XENSTORE_RSP, XS_DIRECTORY, XS_ERROR, XS_READ,
    XS_TRANSACTION_END, XS_TRANSACTION_START, XS_WATCH_EVENT, XS_WRITE, XsType, XsdSockmsg,
};
use cantle_abi::{Errno, PAGE_SIZE, Port, hvm};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::memory::Window;
use crate::report::{Because as _, Failure, Outcome};
use crate::text::Text;
use crate::{clock, ensure, events, fail, params};

/// How long a reply may take.
const PATIENCE_MS: u64 = 10_000;
/// Watch events kept; older ones are dropped.
const EVENTS: usize = 16;

/// A path or a token.
pub(crate) type Path = Text<160>;

/// Makes a [`Path`].
#[macro_export]
macro_rules! path {
    ($($arg:tt)*) => { $crate::xenstore::Path::format(format_args!($($arg)*)) };
}

/// A change below a watched path.
#[derive(Clone, Copy)]
pub(crate) struct Event {
    pub(crate) path: Path,
    pub(crate) token: Path,
}

/// The connection.
pub(crate) struct Store {
    ring: Window,
    port: Port,
    next_id: u32,
    payload: [u8; XENSTORE_PAYLOAD_MAX],
    events: [Option<Event>; EVENTS],
}

impl Store {
    /// Finds the ring page and its event channel.
    pub(crate) fn connect() -> Outcome<Self> {
        events::prepare()?;
        let pfn = params::get(hvm::HVM_PARAM_STORE_PFN).because("HVM_PARAM_STORE_PFN")?;
        let port = params::get(hvm::HVM_PARAM_STORE_EVTCHN).because("HVM_PARAM_STORE_EVTCHN")?;
        let ring = Window::outside_image(pfn.wrapping_mul(PAGE_SIZE as u64), PAGE_SIZE);
        let (Some(ring), Ok(port @ 1..)) = (ring, u32::try_from(port)) else {
            fail!("xenstore's frame {pfn:#x} or port {port} is impossible");
        };
        events::unmask(Port(port)).because("unmasking xenstore's port")?;
        Ok(Self {
            ring,
            port: Port(port),
            next_id: 1,
            payload: [0; XENSTORE_PAYLOAD_MAX],
            events: [None; EVENTS],
        })
    }

    /// The connection's event channel.
    pub(crate) fn port(&self) -> Port {
        self.port
    }

    /// The event channel is another now.
    pub(crate) fn set_port(&mut self, port: Port) {
        self.port = port;
    }

    fn notify(&self) -> Outcome {
        events::send(self.port).because("notifying xenstore")?;
        Ok(())
    }

    fn write_all(&self, mut bytes: &[u8]) -> Outcome {
        while !bytes.is_empty() {
            let written = XENSTORE_REQ.write(&self.ring, bytes)?;
            bytes = bytes.get(written..).unwrap_or_default();
            if written == 0 {
                self.notify()?;
                let ring = &self.ring;
                let room = clock::wait(PATIENCE_MS, || XENSTORE_REQ.writable(ring) != Ok(0));
                ensure!(room, "xenstore does not take requests");
            }
        }
        Ok(())
    }

    /// Fills the first `len` bytes of the payload buffer, or a header.
    fn read_all(ring: &Window, port: Port, mut buf: &mut [u8]) -> Outcome {
        while !buf.is_empty() {
            let taken = XENSTORE_RSP.read(ring, buf)?;
            buf = buf.get_mut(taken..).unwrap_or_default();
            if taken == 0 {
                let came = clock::wait(PATIENCE_MS, || XENSTORE_RSP.readable(ring) != Ok(0));
                ensure!(came, "xenstore does not answer");
            } else {
                // There is room again: a reply longer than the ring goes on.
                events::send(port).because("notifying xenstore")?;
            }
        }
        Ok(())
    }

    /// Reads one message; its payload is in the buffer.
    fn receive(&mut self) -> Outcome<XsdSockmsg> {
        let mut header = [0; size_of::<XsdSockmsg>()];
        Self::read_all(&self.ring, self.port, &mut header)?;
        let Ok(header) = XsdSockmsg::read_from_bytes(&header) else {
            fail!("a header has another size than a header");
        };
        let len = header.len as usize;
        let Some(payload) = self.payload.get_mut(..len) else {
            fail!("a reply of {len} bytes");
        };
        Self::read_all(&self.ring, self.port, payload)?;
        Ok(header)
    }

    fn keep_event(&mut self, len: u32) {
        let payload = self.payload.get(..len as usize).unwrap_or_default();
        let mut parts = payload.split(|byte| *byte == 0);
        let mut part = || Path::from_bytes(parts.next().unwrap_or_default());
        let event = Event {
            path: part(),
            token: part(),
        };
        self.events.rotate_right(1);
        self.events[0] = Some(event);
    }

    /// Makes a request; the reply's payload, or the error that xenstore answers.
    pub(crate) fn request(
        &mut self,
        kind: XsType,
        tx_id: u32,
        parts: &[&[u8]],
    ) -> Outcome<Result<&[u8], Errno>> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let Ok(len) = u32::try_from(len) else {
            fail!("a request of {len} bytes");
        };
        let req_id = self.next_id;
        self.next_id += 1;
        let header = XsdSockmsg {
            kind,
            req_id,
            tx_id,
            len,
        };
        self.write_all(header.as_bytes())?;
        for part in parts {
            self.write_all(part)?;
        }
        self.notify()?;
        loop {
            let reply = self.receive()?;
            if reply.kind == XS_WATCH_EVENT {
                self.keep_event(reply.len);
                continue;
            }
            ensure!(
                reply.req_id == req_id,
                "{kind:?} {req_id} was answered as request {}",
                reply.req_id
            );
            let payload = self.payload.get(..reply.len as usize).unwrap_or_default();
            if reply.kind == XS_ERROR {
                let name = Path::from_bytes(payload.strip_suffix(&[0]).unwrap_or(payload));
                let Some(errno) = Errno::from_name(name.as_str()) else {
                    fail!("{kind:?} failed with the unknown error {name}");
                };
                return Ok(Err(errno));
            }
            ensure!(
                reply.kind == kind,
                "{kind:?} was answered as {:?}",
                reply.kind
            );
            return Ok(Ok(payload));
        }
    }

    /// A request that must succeed.
    pub(crate) fn demand(&mut self, kind: XsType, tx_id: u32, parts: &[&[u8]]) -> Outcome<&[u8]> {
        let what = parts.first().map_or(Path::new(), |p| {
            Path::from_bytes(p.strip_suffix(&[0]).unwrap_or(p))
        });
        self.request(kind, tx_id, parts)?.map_err(|errno| {
            Failure::Failed(Text::format(format_args!("{kind:?} {what}: {errno}")))
        })
    }

    /// A node's value; `None` where there is none.
    pub(crate) fn read(&mut self, path: &Path) -> Outcome<Option<Path>> {
        match self.request(XS_READ, 0, &[path.as_bytes(), b"\0"])? {
            Ok(value) => Ok(Some(Path::from_bytes(value))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => fail!("reading {path}: {errno}"),
        }
    }

    /// A node's value, which must be there.
    pub(crate) fn expect(&mut self, path: &Path) -> Outcome<Path> {
        match self.read(path)? {
            Some(value) => Ok(value),
            None => fail!("{path} is not in xenstore"),
        }
    }

    /// A node's value as a number.
    pub(crate) fn number(&mut self, path: &Path) -> Outcome<u64> {
        let value = self.expect(path)?;
        match value.as_str().parse() {
            Ok(number) => Ok(number),
            Err(_) => fail!("{path} is no number: {value}"),
        }
    }

    pub(crate) fn write(&mut self, tx_id: u32, path: &Path, value: &[u8]) -> Outcome {
        self.demand(XS_WRITE, tx_id, &[path.as_bytes(), b"\0", value])?;
        Ok(())
    }

    /// The first name below a node; `None` where there is none, nor the node.
    pub(crate) fn first_child(&mut self, path: &Path) -> Outcome<Option<Path>> {
        match self.request(XS_DIRECTORY, 0, &[path.as_bytes(), b"\0"])? {
            Ok(names) => Ok(names
                .split(|byte| *byte == 0)
                .next()
                .filter(|name| !name.is_empty())
                .map(Path::from_bytes)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => fail!("listing {path}: {errno}"),
        }
    }

    /// Begins a transaction.
    pub(crate) fn begin(&mut self) -> Outcome<u32> {
        let reply = self.demand(XS_TRANSACTION_START, 0, &[b"\0"])?;
        let text = Path::from_bytes(reply.strip_suffix(&[0]).unwrap_or(reply));
        match text.as_str().parse() {
            Ok(id @ 1..) => Ok(id),
            _ => fail!("a transaction's number is {text}"),
        }
    }

    /// Ends a transaction; the error is EAGAIN where somebody else was faster.
    pub(crate) fn end(&mut self, tx_id: u32, commit: bool) -> Outcome<Result<(), Errno>> {
        let word: &[u8] = if commit { b"T\0" } else { b"F\0" };
        Ok(self
            .request(XS_TRANSACTION_END, tx_id, &[word])?
            .map(|_| ()))
    }

    /// Waits for a watch event with this token, and takes it.
    pub(crate) fn wait_event(&mut self, token: &str, ms: u64) -> Outcome<Option<Event>> {
        loop {
            let found = self
                .events
                .iter()
                .rposition(|event| event.is_some_and(|e| e.token.as_str() == token));
            if let Some(event) = found.and_then(|i| self.events[i].take()) {
                return Ok(Some(event));
            }
            let ring = self.ring;
            if !clock::wait(ms, || XENSTORE_RSP.readable(&ring) != Ok(0)) {
                return Ok(None);
            }
            let message = self.receive()?;
            ensure!(
                message.kind == XS_WATCH_EVENT,
                "a reply that nobody waits for: {:?}",
                message.kind
            );
            self.keep_event(message.len);
        }
    }

    /// A device end's state.
    pub(crate) fn state(&mut self, folder: &Path) -> Outcome<XenbusState> {
        let value = self.read(&path!("{folder}/state"))?;
        Ok(value.map_or(XenbusState::UNKNOWN, |text| {
            XenbusState::parse(text.as_bytes())
        }))
    }

    /// Waits for a device end's state to be one of several.
    pub(crate) fn wait_state(
        &mut self,
        folder: &Path,
        wanted: &[XenbusState],
        ms: u64,
    ) -> Outcome<XenbusState> {
        let end = clock::now() + ms * 1_000_000;
        loop {
            let state = self.state(folder)?;
            if wanted.contains(&state) {
                return Ok(state);
            }
            if clock::now() > end {
                fail!("{folder} stays {state}, not {:?}", wanted.first());
            }
            // Xenbus says this by a watch; asking again now and then needs none.
            clock::wait(5, || false);
        }
    }

    /// Sets a device end's state.
    pub(crate) fn set_state(&mut self, folder: &Path, state: XenbusState) -> Outcome {
        let value = Text::<8>::format(format_args!("{}", state.0));
        self.write(0, &path!("{folder}/state"), value.as_bytes())
    }
}
