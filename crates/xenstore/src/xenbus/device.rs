//! A device's part in the back end's handshake.

use super::{DeviceError, Keys, OtherEnd};

/// One device's part in the handshake. [`Backend`](super::Backend) calls these functions, one at a time.
pub trait Device {
    /// What to publish before waiting for the front end: `feature-*` nodes and limits. Called again before each reconnection.
    fn describe(&self) -> Keys;

    /// The front end is ready: read its keys, map its rings, bind its event channels and start to serve. What is returned
    /// is published together with the state `Connected` (a disk's `sectors`, for example).
    ///
    /// The front end may have been served by another back end before, which died: a ring then goes on where it stands.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the keys or with mapping them; the device must be as if it had never been called. The back
    /// end then goes to `Closing`, and to `Closed` with the front end.
    fn connect(&mut self, front: &OtherEnd<'_>) -> Result<Keys, DeviceError>;

    /// A connected front end has changed keys of its own and says `Reconfiguring`: do what they say now, without a new connection.
    /// What is returned is published together with `Reconfigured`; it is called once more when the front end says that it is
    /// connected, with the same keys or newer ones.
    ///
    /// A network card's `xdp-headroom` is changed so; a device without such keys has nothing to do.
    ///
    /// # Errors
    ///
    /// Whatever cannot be done. The back end then goes to `Closing`, still connected.
    fn reconfigure(&mut self, front: &OtherEnd<'_>) -> Result<Keys, DeviceError> {
        let _ = front;
        Ok(Keys::new())
    }

    /// Stop serving and give back rings, mappings and channels, without waiting for the front end. Called once for each
    /// `connect` that succeeded.
    fn disconnect(&mut self);
}
