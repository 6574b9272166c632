//! Xenbus: how the two ends of a device find each other, and the states they go through.
//!
//! [`Backend`] is the back end's whole handshake, the same for every kind of device; what differs is a [`Device`].
//! [`toolstack`] writes the two directories that make a device exist.

mod backend;
mod front_keys;
#[cfg(feature = "test-utils")]
mod frontend;
pub mod toolstack;

use cantle_abi::DomId;

pub use backend::{Backend, Device, DeviceError, Keys, Phase};
pub use cantle_abi::io::xenbus::XenbusState;
pub use front_keys::FrontKeys;
#[cfg(feature = "test-utils")]
pub use frontend::Frontend;

/// Which device: its kind, its number, and the two domains at its ends. It knows the device's paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeviceId {
    /// `vbd`, `vif`, `console`…
    pub kind: String,
    /// The device's number among its kind within its front end.
    pub number: u32,
    /// The domain that uses the device.
    pub frontend: DomId,
    /// The domain that serves it.
    pub backend: DomId,
}

impl DeviceId {
    /// A device of `kind` with `number`, for `frontend`, served by `backend`.
    #[must_use]
    pub fn new(kind: &str, number: u32, frontend: DomId, backend: DomId) -> Self {
        Self {
            kind: kind.to_owned(),
            number,
            frontend,
            backend,
        }
    }

    /// The front end's directory: `/local/domain/<front>/device/<kind>/<number>`.
    #[must_use]
    pub fn frontend_path(&self) -> String {
        let Self { kind, number, .. } = self;
        format!("{}/device/{kind}/{number}", domain_path(self.frontend))
    }

    /// The back end's directory: `/local/domain/<back>/backend/<kind>/<front>/<number>`.
    #[must_use]
    pub fn backend_path(&self) -> String {
        let Self {
            kind,
            number,
            frontend,
            ..
        } = self;
        format!(
            "{}/backend/{kind}/{frontend}/{number}",
            domain_path(self.backend)
        )
    }
}

/// A domain's home: `/local/domain/<domid>`.
#[must_use]
pub fn domain_path(domain: DomId) -> String {
    format!("/local/domain/{domain}")
}
