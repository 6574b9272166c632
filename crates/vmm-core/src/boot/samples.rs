//! Hand-made kernels for tests.

use std::io::Write;

use super::image::Packing;

/// A loadable segment of a [`SampleElf`].
#[derive(Clone, Debug)]
pub(super) struct SampleSegment {
    pub paddr: u64,
    pub bytes: Vec<u8>,
    pub size: u64,
    pub flags: u32,
}

/// An ELF file to be built field by field.
#[derive(Clone, Debug)]
pub(super) struct SampleElf {
    pub wide: bool,
    pub machine: u16,
    pub segments: Vec<SampleSegment>,
    /// Name with its end, type, descriptor.
    pub notes: Vec<(Vec<u8>, u32, Vec<u8>)>,
    /// The section `__xen_guest`, where there is one.
    pub xen_guest: Option<Vec<u8>>,
}

impl SampleElf {
    /// A kernel with one segment of code at 1 MiB and its PVH entry there.
    pub(super) fn pvh(code: &[u8]) -> Self {
        Self {
            wide: true,
            machine: 62,
            segments: vec![SampleSegment {
                paddr: 0x10_0000,
                bytes: code.to_vec(),
                size: code.len() as u64 + 0x1000,
                flags: 5,
            }],
            notes: vec![
                (b"Xen\0".to_vec(), 6, b"linux\0".to_vec()),
                (b"Xen\0".to_vec(), 18, 0x10_0000u64.to_le_bytes().to_vec()),
            ],
            xen_guest: None,
        }
    }

    pub(super) fn build(&self) -> Vec<u8> {
        let (header, entry) = if self.wide { (64, 56) } else { (52, 32) };
        let number = |value: u64| {
            let bytes = value.to_le_bytes();
            if self.wide {
                bytes.to_vec()
            } else {
                bytes[..4].to_vec()
            }
        };
        let notes: Vec<u8> = self.notes.iter().flat_map(note).collect();
        let count = self.segments.len() + 1;
        let mut at = header + entry * count as u64;
        let mut table = Vec::new();
        let mut data: Vec<u8> = Vec::new();
        let parts = self
            .segments
            .iter()
            .map(|s| (1u32, s.flags, s.paddr, s.bytes.as_slice(), s.size))
            .chain([(4, 4, 0, notes.as_slice(), notes.len() as u64)]);
        for (kind, flags, paddr, bytes, size) in parts {
            let file_size = bytes.len() as u64;
            table.extend(kind.to_le_bytes());
            if self.wide {
                table.extend(flags.to_le_bytes());
            }
            for value in [at, paddr, paddr, file_size, size] {
                table.extend(number(value));
            }
            if !self.wide {
                table.extend(flags.to_le_bytes());
            }
            table.extend(number(4));
            data.extend(bytes);
            at += file_size;
        }
        let mut file = b"\x7fELF".to_vec();
        file.extend([
            if self.wide { 2 } else { 1 },
            1,
            1,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ]);
        file.extend(2u16.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(number(0)); // entry
        file.extend(number(header)); // program headers
        file.extend(number(0)); // section headers
        file.extend(0u32.to_le_bytes()); // flags
        for half in [header, entry, count as u64, 0, 0, 0] {
            file.extend(
                u16::try_from(half)
                    .expect("the sample is small")
                    .to_le_bytes(),
            );
        }
        assert_eq!(file.len() as u64, header);
        file.extend(table);
        file.extend(data);
        if let Some(text) = &self.xen_guest {
            add_section(&mut file, text);
        }
        file
    }
}

/// Adds a table of two sections to a 64-bit file: their names, and `__xen_guest`.
fn add_section(file: &mut Vec<u8>, text: &[u8]) {
    let names = file.len() as u64;
    file.extend(b"\0__xen_guest\0");
    let at = file.len() as u64;
    file.extend(text);
    let table = file.len() as u64;
    for (name, at, bytes) in [(0_u32, names, 13), (1, at, text.len() as u64)] {
        let mut section = name.to_le_bytes().to_vec();
        section.resize(0x18, 0);
        section.extend(at.to_le_bytes());
        section.extend(bytes.to_le_bytes());
        section.resize(64, 0);
        file.extend(section);
    }
    file[0x28..0x30].copy_from_slice(&table.to_le_bytes());
    file[0x3a..0x40].copy_from_slice(&[64, 0, 2, 0, 0, 0]);
}

fn note((name, kind, desc): &(Vec<u8>, u32, Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [word(name.len()), word(desc.len()), kind.to_le_bytes()] {
        bytes.extend(word);
    }
    for part in [name, desc] {
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn word(value: usize) -> [u8; 4] {
    u32::try_from(value)
        .expect("the sample is small")
        .to_le_bytes()
}

/// `bytes` packed, without the size that a bzImage appends.
pub(super) fn pack(packing: Packing, bytes: &[u8]) -> Vec<u8> {
    match packing {
        Packing::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).expect("writes to memory");
            encoder.finish().expect("writes to memory")
        }
        Packing::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(bytes).expect("writes to memory");
            encoder.finish().expect("writes to memory")
        }
        Packing::Zstd => zstd::encode_all(bytes, 1).expect("writes to memory"),
        Packing::Lz4 => {
            let mut frame = vec![0x02, 0x21, 0x4c, 0x18];
            for block in bytes.chunks(8 << 20) {
                let packed = lz4_flex::block::compress(block);
                frame.extend(word(packed.len()));
                frame.extend(packed);
            }
            frame
        }
        _ => bytes.to_vec(),
    }
}

/// A bzImage around `payload`.
pub(super) fn bzimage(payload: &[u8]) -> Vec<u8> {
    const SETUP_SECTORS: u8 = 1;
    const PAYLOAD_OFFSET: usize = 0x40;
    let mut file = vec![0u8; (usize::from(SETUP_SECTORS) + 1) * 512 + PAYLOAD_OFFSET];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[SETUP_SECTORS]);
    put(0x202, b"HdrS");
    put(0x206, &0x020fu16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x248, &word(PAYLOAD_OFFSET));
    put(0x24c, &word(payload.len()));
    file.extend(payload);
    // What is behind the payload is not looked at.
    file.extend([0xaa; 100]);
    file
}

/// A bzImage as Linux's build makes it: the payload packed, with its size appended unless gzip has it already.
pub(super) fn linux_bzimage(packing: Packing, kernel: &[u8]) -> Vec<u8> {
    let mut payload = pack(packing, kernel);
    if !matches!(packing, Packing::Gzip | Packing::None) {
        payload.extend(word(kernel.len()));
    }
    bzimage(&payload)
}
