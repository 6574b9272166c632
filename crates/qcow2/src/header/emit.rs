//! Writing a header.

use std::os::unix::ffi::OsStringExt;

use super::{EXT_BACKING_FORMAT, Header, MAGIC, V3_BYTES, V3_LEN};

impl Header {
    /// The first bytes of a new image: version 3, not compressed.
    pub(crate) fn emit(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        let name = self
            .backing
            .as_ref()
            .map(|backing| backing.name.clone().into_vec());
        let mut extensions = Vec::new();
        if let Some(format) = self
            .backing
            .as_ref()
            .and_then(|backing| backing.format.as_ref())
        {
            extensions.extend(EXT_BACKING_FORMAT.to_be_bytes());
            extensions.extend(u32::try_from(format.len()).unwrap_or(0).to_be_bytes());
            extensions.extend(format.as_bytes());
            extensions.resize(extensions.len().next_multiple_of(8), 0);
        }
        extensions.extend([0; 8]);
        let name_at = name.as_ref().map_or(0, |_| V3_LEN + extensions.len()) as u64;
        let name_len = name
            .as_ref()
            .map_or(0, |name| u32::try_from(name.len()).unwrap_or(0));
        bytes.extend(MAGIC.to_be_bytes());
        bytes.extend(3u32.to_be_bytes());
        bytes.extend(name_at.to_be_bytes());
        bytes.extend(name_len.to_be_bytes());
        bytes.extend(self.cluster_bits.to_be_bytes());
        bytes.extend(self.size.to_be_bytes());
        bytes.extend(0u32.to_be_bytes());
        bytes.extend(self.l1_entries.to_be_bytes());
        bytes.extend(self.l1_offset.to_be_bytes());
        bytes.extend(self.reftable_offset.to_be_bytes());
        bytes.extend(self.reftable_clusters.to_be_bytes());
        bytes.extend([0; 4 + 8 + 8 + 8 + 8]);
        bytes.extend(self.refcount_order.to_be_bytes());
        bytes.extend(V3_BYTES.to_be_bytes());
        bytes.extend(extensions);
        bytes.extend(name.unwrap_or_default());
        bytes
    }
}
