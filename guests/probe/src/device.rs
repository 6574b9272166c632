//! What block and network front ends share: finding the device, and the way to its back end.

use cantle_abi::io::xenbus::XenbusState;
use cantle_abi::{DomId, GrantRef, Port};

use crate::memory::{self, Window};
use crate::report::{Because as _, Failure, Outcome};
use crate::text::Text;
use crate::xenstore::{Path, Store};
use crate::{events, fail, grants, path};

/// How long the back end may take for each step.
const PATIENCE_MS: u64 = 10_000;

/// A device's two ends in xenstore.
pub(crate) struct Device {
    pub(crate) front: Path,
    pub(crate) back: Path,
    pub(crate) backend: DomId,
}

impl Device {
    /// The device of this kind: the one given, or the first there is.
    pub(crate) fn find(store: &mut Store, kind: &str, id: Option<&str>) -> Outcome<Self> {
        let id = match id {
            Some(id) => path!("{id}"),
            None => match store.first_child(&path!("device/{kind}"))? {
                Some(id) => id,
                None => {
                    return Err(Failure::Absent(Text::format(format_args!(
                        "no device/{kind}"
                    ))));
                }
            },
        };
        let front = path!("device/{kind}/{id}");
        let back = store.expect(&path!("{front}/backend"))?;
        let backend = store.number(&path!("{front}/backend-id"))?;
        let Ok(backend) = u16::try_from(backend) else {
            fail!("{front}/backend-id is {backend}");
        };
        Ok(Self {
            front,
            back,
            backend: DomId(backend),
        })
    }

    /// Waits until the back end is ready to be connected to, also after a connection that was closed.
    pub(crate) fn wait_for_backend(&self, store: &mut Store) -> Outcome {
        self.set_state(store, XenbusState::INITIALISING)?;
        let ready = [XenbusState::INIT_WAIT];
        store.wait_state(&self.back, &ready, PATIENCE_MS)?;
        Ok(())
    }

    /// Waits until the back end is connected.
    pub(crate) fn wait_connected(&self, store: &mut Store) -> Outcome {
        let connected = [XenbusState::CONNECTED];
        store.wait_state(&self.back, &connected, PATIENCE_MS)?;
        Ok(())
    }

    /// A page lent to the back end for a ring, with its grant, which is written to xenstore.
    pub(crate) fn ring_page(
        &self,
        store: &mut Store,
        tx_id: u32,
        key: &str,
    ) -> Outcome<(Window, GrantRef)> {
        let page = memory::page()?;
        let gref = grants::grant(&page, self.backend, false)?;
        self.tell(store, tx_id, key, u64::from(gref.0))?;
        Ok((page, gref))
    }

    /// An event channel to the back end, written to xenstore.
    pub(crate) fn channel(&self, store: &mut Store, tx_id: u32) -> Outcome<Port> {
        let port = events::alloc_unbound(self.backend).because("alloc_unbound")?;
        events::unmask(port).because("unmask")?;
        self.tell(store, tx_id, "event-channel", u64::from(port.0))?;
        Ok(port)
    }

    /// Writes a number below the front end's node.
    pub(crate) fn tell(&self, store: &mut Store, tx_id: u32, key: &str, value: u64) -> Outcome {
        let value = Text::<24>::format(format_args!("{value}"));
        store.write(tx_id, &path!("{}/{key}", self.front), value.as_bytes())
    }

    /// Sets the front end's state.
    pub(crate) fn set_state(&self, store: &mut Store, state: XenbusState) -> Outcome {
        store.set_state(&self.front, state)
    }

    /// Takes the connection down, in order.
    pub(crate) fn close(&self, store: &mut Store) -> Outcome {
        self.set_state(store, XenbusState::CLOSING)?;
        let closing = [XenbusState::CLOSING, XenbusState::CLOSED];
        store.wait_state(&self.back, &closing, PATIENCE_MS)?;
        self.set_state(store, XenbusState::CLOSED)?;
        store.wait_state(&self.back, &[XenbusState::CLOSED], PATIENCE_MS)?;
        Ok(())
    }
}
