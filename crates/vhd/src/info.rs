//! What an image says of itself.

use std::path::PathBuf;

use cantle_image::Format;

use crate::table::UNUSED;
use crate::{Kind, Vhd, parent};

/// What an image says of itself, for people and tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its kind.
    pub kind: Kind,
    /// The disk's size in sectors of 512 bytes.
    pub sectors: u64,
    /// Bytes of a block; `None` for fixed images.
    pub block_size: Option<u32>,
    /// How many blocks there are in the file.
    pub allocated_blocks: u64,
    /// Its identity.
    pub uuid: [u8; 16],
    /// The program that made it, as four characters.
    pub creator: [u8; 4],
    /// That program's version: major and minor in 16 bits each.
    pub creator_version: u32,
    /// When it was made, in seconds of 2000.
    pub timestamp: u32,
    /// Xen's mark for images that only others stand on.
    pub hidden: bool,
    /// The parent, for differencing images.
    pub parent: Option<ParentInfo>,
}

/// What a differencing image says of its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentInfo {
    /// Its identity; all zeroes for a raw disk.
    pub uuid: [u8; 16],
    /// When it was modified, in seconds of 2000.
    pub modified: u32,
    /// Its names, the image's first choice first. Those that cannot be read are left out.
    pub names: Vec<PathBuf>,
}

impl Vhd {
    /// What the image says of itself.
    #[must_use]
    pub fn info(&self) -> Info {
        let sectors = self.geometry().sectors;
        let state = self.state();
        let used = state
            .table
            .blocks()
            .iter()
            .filter(|&&entry| entry != UNUSED);
        let header = state.header.as_ref();
        let differencing = header.filter(|_| self.layout.kind == Kind::Differencing);
        Info {
            kind: self.layout.kind,
            sectors,
            block_size: header.map(|header| header.block_size()),
            allocated_blocks: used.count() as u64,
            uuid: state.footer.uuid(),
            creator: state.footer.creator(),
            creator_version: state.footer.creator_version(),
            timestamp: state.footer.timestamp(),
            hidden: state.footer.hidden(),
            parent: differencing.map(|header| ParentInfo {
                uuid: header.parent_uuid(),
                modified: header.parent_modified(),
                names: parent::names(&*self.storage, header),
            }),
        }
    }
}
