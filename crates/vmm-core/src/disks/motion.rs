//! A disk that goes on in another image while it is used: a mirror, or an overlay from now on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cantle_disk::{CreateSpec, DiskSpec, ImageFormat, ImageLock, Parents, create};
use cantle_image::{Disk, Format, FormatDisk};
use cantle_layers::{Mirror, MirrorOptions};
use cantle_xenstore::prelude::*;
use cantle_xenstore::{Client, TxId};

use super::Watched;
use crate::devices::chain;

/// How long a disk's thread may take to hear of something: as long as a slow medium takes for what is in flight.
const PATIENCE: Duration = Duration::from_secs(10);
/// A mirror under way. Dropping it gives the copy up.
pub(super) struct Motion {
    mirror: Mirror,
    path: PathBuf,
    format: ImageFormat,
    lock: ImageLock,
}

impl Watched {
    /// `FORMAT PATH [BYTES-PER-SECOND]`. The image is made where it is missing. A copy that was interrupted begins anew: what the guest has
    /// written since, nobody has noted.
    pub(super) fn begin_mirror(&mut self, words: &str) -> Result<(), String> {
        if self.motion.is_some() {
            return Err("the disk is being mirrored already".to_owned());
        }
        let mut words = words.split_whitespace();
        let format: ImageFormat = words
            .next()
            .ok_or("a format is missing")?
            .parse()
            .map_err(|error: cantle_disk::UnknownFormat| error.to_string())?;
        let path = PathBuf::from(words.next().ok_or("a path is missing")?);
        let rate = match words.next() {
            Some(rate) => rate
                .parse()
                .map_err(|_| format!("{rate:?} is no number of bytes per second"))?,
            None => 0,
        };
        let live = self.live()?;
        let size = live.geometry().bytes();
        let target = image(&path, format, &CreateSpec::new(format, size))?;
        let lock = lock(&path)?;
        let options = MirrorOptions {
            rate,
            ..MirrorOptions::default()
        };
        let mirror =
            Mirror::start(Arc::new(live), target, None, options).map_err(|error| chain(&error))?;
        self.motion = Some(Motion {
            mirror,
            path,
            format,
            lock,
        });
        Ok(())
    }

    pub(super) fn cancel_mirror(&mut self) -> Result<(), String> {
        let motion = self.motion.take().ok_or("the disk is not being mirrored")?;
        let moved = motion.mirror.cancel().map_err(|error| chain(&error))?;
        if moved {
            // It was over before the word came.
            self.is_now(&motion.path, motion.lock);
            return Err("the disk had moved already".to_owned());
        }
        Ok(())
    }

    /// Says how far the mirror is, in `mirror`; when it is over, the disk is the other image.
    pub(super) fn look_at_mirror(
        &mut self,
        client: &dyn Client,
    ) -> Result<(), cantle_xenstore::Error> {
        let Some(motion) = &mut self.motion else {
            return Ok(());
        };
        let directory = self.served.directory.clone();
        let write = |key: &str, value: &str| {
            client.write(TxId::NONE, &format!("{directory}/{key}"), value.as_bytes())
        };
        if !motion.mirror.is_finished() {
            let at = motion.mirror.progress();
            let said = format!(
                "copied={} left={} total={} round={} rate={}",
                at.copied, at.dirty, at.total, at.round, at.rate
            );
            return write("mirror", &said);
        }
        let outcome = motion.mirror.wait();
        let Some(motion) = self.motion.take() else {
            return Ok(());
        };
        match outcome {
            Ok(()) => {
                self.is_now(&motion.path, motion.lock);
                write("format", motion.format.name())?;
                write("params", &self.params)?;
                write("mirror", "done")
            }
            Err(error) => write("mirror", &format!("failed: {}", chain(&error))),
        }
    }

    /// What is written from now on goes to a new qcow2 image, over the present one.
    pub(super) fn snapshot(&mut self, path: &str) -> Result<(), String> {
        if self.motion.is_some() {
            return Err("the disk is being mirrored".to_owned());
        }
        let path = PathBuf::from(path.trim());
        if path.as_os_str().is_empty() || path.exists() {
            return Err("the snapshot's image is to be a new file".to_owned());
        }
        let live = self.live()?;
        let below = PathBuf::from(&self.params);
        let below = below.canonicalize().map_err(|error| chain(&error))?;
        let opened = self.medium.as_ref().ok_or("there is no medium")?;
        let format = opened.spec().format;
        let spec = CreateSpec {
            parent: Some((below, format)),
            ..CreateSpec::new(ImageFormat::Qcow2, live.geometry().bytes())
        };
        create(&path, &spec).map_err(|error| chain(&error))?;
        let lock = lock(&path)?;
        let options = |parent| cantle_disk::overlay(&path, parent);
        let put = live.exclusive(|slot| {
            slot.flush().map_err(|error| chain(&error))?;
            let over = options(Arc::clone(slot)).map_err(|error| chain(&error))?;
            *slot = over;
            Ok(())
        });
        put.map_err(|error| chain(&error)).flatten()?;
        // Nobody is to write to what the new image stands on.
        let below = self.is_now(&path, lock);
        self.below.extend(below);
        Ok(())
    }

    /// The disk as one whose format can be exchanged: a plain raw one is opened anew for that, and put in its own place.
    fn live(&mut self) -> Result<FormatDisk, String> {
        let opened = self.medium.as_ref().ok_or("there is no medium")?;
        if let Some(live) = opened.live() {
            return Ok(live.clone());
        }
        let spec = DiskSpec {
            live: true,
            // The present one has it.
            lock: false,
            limits: opened.throttle().map(|throttle| throttle.limits()),
            ..opened.spec().clone()
        };
        let again = cantle_disk::open(&spec).map_err(|error| chain(&error))?;
        again.exchange_lock(opened.exchange_lock(None));
        let live = again.live().ok_or("the disk cannot be moved")?.clone();
        // Until the disk's thread has heard of it, the guest writes the way that nobody watches.
        let heard = self.served.control.insert(Arc::clone(again.disk()));
        self.medium = Some(Arc::new(again));
        match heard.recv_timeout(PATIENCE) {
            Ok(Ok(())) => Ok(live),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err("the disk is busy; it may be tried again".to_owned()),
        }
    }

    /// The disk's image is another one from now on. The old one's lock.
    fn is_now(&mut self, path: &Path, lock: ImageLock) -> Option<ImageLock> {
        self.params = path.display().to_string();
        let opened = self.medium.as_ref()?;
        opened.exchange_lock(Some(lock))
    }
}

/// An image to be written: one that is there, or a new one.
fn image(path: &Path, format: ImageFormat, new: &CreateSpec) -> Result<Arc<dyn Format>, String> {
    if !path.exists() {
        create(path, new).map_err(|error| chain(&error))?;
    }
    cantle_disk::open_format(path, format, false, &Parents::Refuse).map_err(|error| chain(&error))
}

fn lock(path: &Path) -> Result<ImageLock, String> {
    match ImageLock::take(path, false) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(format!("{} is in use by somebody else", path.display())),
        Err(error) => Err(chain(&error)),
    }
}
