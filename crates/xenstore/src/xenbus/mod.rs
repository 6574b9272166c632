//! Xenbus: how the two ends of a device find each other, and the states they go through.
//!
//! [`Backend`] and [`Frontend`] are the whole handshake of each end, the same for every kind of device; what differs is a
//! [`Device`] or a [`FrontDevice`]. What is due when stands in [`machine`], as tables without a store. [`toolstack`]
//! writes the two directories that make a device exist, and takes them away, in good order ([`Removal`]) or by force.
//!
//! | what happens | what the back end does |
//! | --- | --- |
//! | the front end closes, `online` is 1 | serves until it says `Closed`; then `Closed`, and waits for it to begin again |
//! | the front end begins anew without closing (kexec) | disconnects, `InitWait`, connects the new one |
//! | the front end says `Reconfiguring` | does what its keys say now, `Reconfigured`; `Connected` again when it is |
//! | the toolstack removes the device | `Closing`, serves until the front end says `Closed`; then `Closed`, and it is finished |
//! | its directory is taken away | disconnects, and is finished |
//! | the front end's directory is taken away | disconnects, `Closed`; when it is there again, `InitWait` |
//! | it is started anew, after one that died | `InitWait`, and connects a front end that is ready by the keys that it has published |
//! | the device cannot be connected | `Closing`; why is in the log and below `error/` in the back end's home |
//!
//! Nothing waits for a clock: how long a front end may take to let go of its device is the business of whoever removes it.

mod backend;
#[cfg(feature = "test-utils")]
mod bare;
mod device;
mod frontend;
pub mod machine;
mod nodes;
mod other_end;
mod removal;
pub mod toolstack;

use cantle_abi::DomId;

pub use backend::Backend;
#[cfg(feature = "test-utils")]
pub use bare::BareFrontend;
pub use cantle_abi::io::xenbus::XenbusState;
pub use device::Device;
pub use frontend::{FrontDevice, Frontend, Offer};
pub use other_end::OtherEnd;
pub use removal::{Removal, Removed};

/// Keys and their values, to be published in an end's directory.
pub type Keys = Vec<(String, String)>;

/// Why a device could not be connected. Its text goes to the log and to the end's own `error/` node; the other end sees
/// only the state.
pub type DeviceError = Box<dyn std::error::Error + Send + Sync>;

/// Where an end's life stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It goes on: call `process` when the event fd is readable.
    Running(XenbusState),
    /// The device was taken away, and is closed: drop this end of it.
    Finished,
}

/// What a back end of any kind wants next of whoever polls it: its share of the handshake, and its rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more to do already: call it again.
    More,
    /// Call it again when its descriptor is readable.
    Idle,
    /// The device was taken away and is closed: drop it.
    Finished,
}

impl From<Phase> for Progress {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Running(_) => Self::Idle,
            Phase::Finished => Self::Finished,
        }
    }
}

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

/// Where an end says its failures, by its own directory: `error/` in its domain's home, and then its path from there.
fn error_directory(path: &str) -> Option<String> {
    for dir in ["device/", "backend/"] {
        if path.starts_with(dir) {
            return Some(format!("error/{path}"));
        }
        if let Some((home, rest)) = path.split_once(&format!("/{dir}")) {
            return Some(format!("{home}/error/{dir}{rest}"));
        }
    }
    None
}
