//! Descriptors that are written.

use std::fmt::Write;

use super::{NO_PARENT, is_plain_name};

/// What a new descriptor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorText<'a> {
    /// The content id.
    pub cid: u32,
    /// `monolithicSparse` or `monolithicFlat`.
    pub create_type: &'a str,
    /// `SPARSE` or `FLAT`.
    pub extent: &'a str,
    /// The extent's file, a plain name.
    pub file: &'a str,
    /// The disk's size.
    pub sectors: u64,
}

impl DescriptorText<'_> {
    /// The text, or `None` where the file's name cannot be said in one.
    #[must_use]
    pub fn emit(&self) -> Option<String> {
        if !is_plain_name(self.file) {
            return None;
        }
        let Self {
            cid,
            create_type,
            extent,
            file,
            sectors,
        } = self;
        let offset = if *extent == "FLAT" { " 0" } else { "" };
        // What a BIOS of the time can address: 16383 cylinders of 16 heads of 63 sectors.
        let cylinders = (sectors / (16 * 63)).min(16383);
        let mut text = String::from("# Disk DescriptorFile\nversion=1\n");
        write!(
            text,
            "CID={cid:08x}\nparentCID={NO_PARENT:08x}\ncreateType=\"{create_type}\"\n\n\
             # Extent description\nRW {sectors} {extent} \"{file}\"{offset}\n\n\
             # The Disk Data Base\n#DDB\n\n\
             ddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"{cylinders}\"\n\
             ddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"ide\"\n"
        )
        .ok()?;
        Some(text)
    }
}
