//! Writing an image into its parent.

use std::io::{Error, ErrorKind, Result};

use cantle_image::Format;

use crate::{Kind, Vhd};

/// So many bytes are copied at a time.
const PIECE: u64 = 1 << 20;

impl Vhd {
    /// Writes all that is in this differencing image, and not in its parent, to `target`: the parent, opened for writing, or a copy of it. It grows
    /// where it is smaller. When this returns, `target` has it on the medium, and the image can be thrown away.
    ///
    /// It can be done again from the start after an error or a crash. Meanwhile, no one may write to this image. `progress` is told after each
    /// piece up to which byte of the disk it is done.
    ///
    /// # Errors
    ///
    /// The host's; [`ErrorKind::InvalidInput`] where the image is not a differencing one.
    pub fn commit(&self, target: &dyn Format, progress: &mut dyn FnMut(u64)) -> Result<()> {
        if self.layout.kind != Kind::Differencing {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the image has no parent",
            ));
        }
        let size = self.geometry();
        if target.geometry().sectors < size.sectors {
            target.grow(size.sectors)?;
        }
        let mut buffer = Vec::new();
        let mut at = 0;
        while at < size.bytes() {
            let (own, len) = self.own_extent(at, size.bytes() - at)?;
            let len = if own { len.min(PIECE) } else { len };
            if own {
                buffer.resize(usize::try_from(len).unwrap_or(0), 0);
                self.read(at, &mut buffer)?;
                target.write(at, &buffer)?;
            }
            at += len;
            progress(at);
        }
        target.flush()
    }
}
