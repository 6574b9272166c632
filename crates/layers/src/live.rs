//! A disk whose tables may change under it.

use std::io::Result;
use std::sync::Arc;

use cantle_image::Format;

/// A disk that serves a [`Format`] and remembers what that said, as [`FormatDisk`](cantle_image::FormatDisk) does. Layers come and go
/// on it, and take back what they allowed, while it is in use.
pub trait LiveDisk: Send + Sync {
    /// Forgets what [`Format::map`] said of a range, also where the question was asked before and the answer is still to come. When this
    /// returns, no request is under way that goes by an answer from before.
    ///
    /// # Errors
    ///
    /// The disk cannot say so any more, for example since its threads have ended.
    fn forget(&self, offset: u64, len: u64) -> Result<()>;

    /// Calls `act` while no request at all is under way and nothing is remembered. `act` may put another format of the same size in
    /// the place of the one that is given to it; requests that come meanwhile wait, and then meet what is there.
    ///
    /// # Errors
    ///
    /// What `act` says, or that the disk cannot do this.
    fn exclusive(&self, act: &mut dyn FnMut(&mut Arc<dyn Format>) -> Result<()>) -> Result<()>;
}

impl<D: LiveDisk + ?Sized> LiveDisk for Arc<D> {
    fn forget(&self, offset: u64, len: u64) -> Result<()> {
        (**self).forget(offset, len)
    }
    fn exclusive(&self, act: &mut dyn FnMut(&mut Arc<dyn Format>) -> Result<()>) -> Result<()> {
        (**self).exclusive(act)
    }
}

/// Takes a layer off the disk where it is the topmost one; whether it was.
pub(crate) fn take_off(
    disk: &dyn LiveDisk,
    layer: *const (),
    below: &Arc<dyn Format>,
) -> Result<bool> {
    let mut gone = false;
    disk.exclusive(&mut |slot| {
        gone = is(slot, layer);
        if gone {
            *slot = Arc::clone(below);
        }
        Ok(())
    })?;
    Ok(gone)
}

/// Whether a format is the one at that address.
pub(crate) fn is(format: &Arc<dyn Format>, layer: *const ()) -> bool {
    Arc::as_ptr(format).cast::<()>() == layer
}

impl LiveDisk for cantle_image::FormatDisk {
    fn forget(&self, offset: u64, len: u64) -> Result<()> {
        Self::forget(self, offset, len);
        Ok(())
    }
    fn exclusive(&self, act: &mut dyn FnMut(&mut Arc<dyn Format>) -> Result<()>) -> Result<()> {
        Self::exclusive(self, |format| act(format))?
    }
}
