use proptest::prelude::*;

use super::super::samples::{SampleElf, bzimage, linux_bzimage, pack};
use super::*;

const PACKINGS: [Packing; 5] = [
    Packing::None,
    Packing::Gzip,
    Packing::Xz,
    Packing::Lz4,
    Packing::Zstd,
];

fn kernel() -> Vec<u8> {
    SampleElf::pvh(&[0xf4; 5000]).build()
}

#[test]
fn a_bzimage_of_each_packing_gives_the_same_kernel() {
    let kernel = kernel();
    for packing in PACKINGS {
        let image = KernelImage::parse(linux_bzimage(packing, &kernel)).unwrap();
        assert!(image.bytes() == kernel, "{packing}");
        assert_eq!(image.packing(), packing);
        assert_eq!(image.pvh_entry().unwrap(), 0x10_0000);
        assert_eq!(image.cmdline_limit(), 2047);
    }
}

#[test]
fn a_kernel_without_bzimage_may_be_packed_too() {
    let kernel = kernel();
    for packing in PACKINGS {
        let image = KernelImage::parse(pack(packing, &kernel)).unwrap();
        assert!(image.bytes() == kernel, "{packing}");
        assert_eq!(image.cmdline_limit(), DEFAULT_CMDLINE_LIMIT);
    }
}

#[test]
fn a_kernel_without_the_note_is_no_pvh_kernel() {
    let mut sample = SampleElf::pvh(&[0xf4]);
    sample.notes.pop();
    let image = KernelImage::parse(sample.build()).unwrap();
    let error = image.pvh_entry().unwrap_err();
    assert!(matches!(error, ImageError::NotPvh));
    assert!(error.to_string().contains("not a PVH kernel"));
}

/// XSA-55 for the wrapper: each field of the setup header may lie.
#[test]
fn xsa_55_bzimage_header_that_lies() {
    let good = linux_bzimage(Packing::Lz4, &kernel());
    let broken = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        KernelImage::parse(file)
    };
    let field = |result: Result<KernelImage, ImageError>| match result {
        Err(ImageError::Setup { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert!(
        broken(0x1f1, &[1]).is_ok(),
        "the test changes what it means to"
    );
    assert_eq!(field(broken(0x206, &[0x07, 0x02])), "version");
    assert_eq!(field(broken(0x248, &[0xff; 4])), "payload_offset");
    assert_eq!(field(broken(0x24c, &[0xff; 4])), "payload_length");
    assert_eq!(
        field(broken(
            0x24c,
            &u32::try_from(good.len()).unwrap().to_le_bytes()
        )),
        "payload_length"
    );
    assert!(matches!(
        broken(0x24c, &[0; 4]),
        Err(ImageError::Unknown(_))
    ));
    assert!(matches!(
        broken(0x1f1, &[0]),
        Err(ImageError::Setup { .. } | ImageError::Unknown(_))
    ));
    assert!(matches!(
        broken(0x202, b"HdrT"),
        Err(ImageError::Unknown(_))
    ));
}

#[test]
fn a_payload_with_a_wrong_size_behind_it_is_refused() {
    let mut payload = pack(Packing::Xz, &kernel());
    payload.extend(7u32.to_le_bytes());
    assert!(matches!(
        KernelImage::parse(bzimage(&payload)),
        Err(ImageError::Unpack { .. })
    ));
}

#[test]
fn files_that_are_no_kernels() {
    for file in [b"".as_slice(), b"#!/bin/sh\n", b"MZ"] {
        assert!(matches!(
            KernelImage::parse(file.to_vec()),
            Err(ImageError::Unknown(_))
        ));
    }
    assert!(matches!(
        KernelImage::read("/".as_ref()),
        Err(ImageError::Read { .. })
    ));
    assert!(matches!(
        KernelImage::read("/nowhere/vmlinuz".as_ref()),
        Err(ImageError::Read { .. })
    ));
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = KernelImage::parse(bytes);
    }

    #[test]
    fn any_setup_header_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0x7f)) {
        let mut file = linux_bzimage(Packing::Gzip, &kernel());
        file[0x1f1..0x1f1 + bytes.len()].copy_from_slice(&bytes);
        file[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
        let _ = KernelImage::parse(file);
    }
}
