//! Making a flat image larger.

use std::io::{ErrorKind, Result};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use cantle_image::Storage;

use super::Vmdk;
use crate::Descriptor;
use crate::descriptor::Access;
use crate::part::Kind;

impl<S: Storage + Clone> Vmdk<S> {
    pub(super) fn grow_flat(&self, sectors: u64) -> Result<()> {
        if self.read_only {
            return Err(ErrorKind::PermissionDenied.into());
        }
        self.mark()?;
        let _alone = self.marking.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.sectors.load(Ordering::Acquire);
        let Some(part) = self.parts.last() else {
            return Err(ErrorKind::Unsupported.into());
        };
        let Kind::Flat {
            storage,
            file,
            offset,
        } = &part.kind
        else {
            return Err(ErrorKind::Unsupported.into());
        };
        let shared = self.parts.iter().filter(
            |other| matches!(&other.kind, Kind::Flat { file: theirs, .. } if theirs == file),
        );
        let ends = offset.checked_add((old - part.start) * 512);
        if shared.count() != 1 || ends != Some(storage.len()?) {
            return Err(ErrorKind::Unsupported.into());
        }
        if sectors <= old {
            let same = sectors == old;
            return same.then_some(()).ok_or(ErrorKind::InvalidInput.into());
        }
        let extent = sectors - part.start;
        let len = extent
            .checked_mul(512)
            .and_then(|bytes| bytes.checked_add(*offset))
            .filter(|len| i64::try_from(*len).is_ok())
            .ok_or(ErrorKind::InvalidInput)?;
        let text = self.text_with(extent)?;
        storage.set_len(len)?;
        storage.sync()?;
        self.head.write_at(0, text.as_bytes())?;
        self.head.sync()?;
        self.sectors.store(sectors, Ordering::Release);
        Ok(())
    }

    /// The descriptor with so many sectors for the last extent.
    fn text_with(&self, sectors: u64) -> Result<String> {
        let len = usize::try_from(self.head.len()?).unwrap_or(usize::MAX);
        if len > 512 {
            return Err(ErrorKind::Unsupported.into());
        }
        let mut bytes = vec![0; len];
        self.head.read_at(0, &mut bytes)?;
        let old = String::from_utf8(bytes).map_err(|_| ErrorKind::InvalidData)?;
        let mut lines: Vec<String> = old.split('\n').map(str::to_owned).collect();
        let last = lines.iter_mut().rfind(|line| Access::begins(line.trim()));
        let line = last.ok_or(ErrorKind::InvalidData)?;
        let size = line.split_ascii_whitespace().nth(1);
        let size = size.ok_or(ErrorKind::InvalidData)?.to_owned();
        *line = line.replacen(&size, &sectors.to_string(), 1);
        let text = lines.join("\n");
        let understood = Descriptor::parse(text.as_bytes())
            .is_ok_and(|new| new.extents.last().map(|e| e.sectors) == Some(sectors));
        if !understood {
            return Err(ErrorKind::InvalidData.into());
        }
        if text.len() > 512 || text.len() < old.len() {
            return Err(ErrorKind::Unsupported.into());
        }
        Ok(text)
    }
}
