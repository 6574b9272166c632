use proptest::prelude::*;

use super::*;

const TEXT: &str = "# Disk DescriptorFile\r\nversion=1\r\nCID = 9341bd2e\r\nparentCID=ffffffff\r\n\
    createType=\"twoGbMaxExtentFlat\"\r\n\r\n# Extent description\r\nRW 4194304 FLAT \"a b-f001.vmdk\" 0\r\n\
    RDONLY 8 SPARSE \"s.vmdk\"\r\nRW 16 ZERO\r\nRW 9 SESPARSE \"x\"\r\n#DDB\r\nddb.adapterType = \"ide\"\r\n";

#[test]
fn a_descriptor_is_understood() {
    let d = Descriptor::parse(TEXT.as_bytes()).unwrap();
    assert_eq!((d.cid, d.parent_cid), (0x9341_bd2e, NO_PARENT));
    assert_eq!(d.create_type, "twoGbMaxExtentFlat");
    assert_eq!(TEXT.get(d.cid_at.clone()), Some("9341bd2e"));
    assert_eq!(d.ddb("ddb.adaptertype"), Some("ide"));
    assert_eq!(d.sectors(), Some(4_194_304 + 8 + 16 + 9));
    let kinds: Vec<_> = d.extents.into_iter().map(|e| e.kind).collect();
    assert_eq!(
        kinds,
        [
            ExtentKind::Flat {
                file: "a b-f001.vmdk".into(),
                offset: 0
            },
            ExtentKind::Sparse {
                file: "s.vmdk".into()
            },
            ExtentKind::Zero,
            ExtentKind::Other("SESPARSE".into()),
        ]
    );
}

#[test]
fn each_broken_part_is_refused_by_name() {
    use DescriptorError as E;
    let with = |from: &str, to: &str| Descriptor::parse(TEXT.replace(from, to).as_bytes());
    assert_eq!(with("# Disk", "# Disc"), Err(E::NoMark));
    assert_eq!(with("version=1", "version=9"), Err(E::Version(9)));
    assert_eq!(with("version=1", "version=one"), Err(E::Missing("version")));
    assert_eq!(with("version=1", ""), Err(E::Missing("version")));
    for cid in ["", "+9341bd2", "9341bd2e0", "xyz"] {
        assert_eq!(with("9341bd2e", cid), Err(E::Missing("CID")), "{cid}");
    }
    assert_eq!(with("ffffffff", "g"), Err(E::Missing("parentCID")));
    assert_eq!(with("createType", "madeAs"), Err(E::Missing("createType")));
    for line in [
        "RW 0 ZERO",
        "RW -1 ZERO",
        "RW 99999999999999999999 ZERO",
        "RW 1",
        "RW 1 FLAT",
        "RW 1 FLAT x.vmdk 0",
        "RW 1 FLAT \"x.vmdk\" +1",
        "RW 1 FLAT \"x.vmdk",
        "RW 1 FLAT \"\" 0",
        "RW 1 SPARSE \"x.vmdk\" 0",
    ] {
        assert_eq!(
            with("RW 16 ZERO", line),
            Err(E::Extent { line: 10 }),
            "{line}"
        );
    }
    assert_eq!(
        with("RW 16 ZERO", &"RW 1 ZERO\n".repeat(2000)),
        Err(E::Extents)
    );
    assert_eq!(with("RW 16 ZERO", &"#\n".repeat(MAX_LEN)), Err(E::TooLong));
    let none = TEXT.replace("RW ", "#").replace("RDONLY ", "#");
    assert_eq!(Descriptor::parse(none.as_bytes()), Err(E::Extents));
    assert_eq!(
        Descriptor::parse(b"# Disk DescriptorFile\n\xff"),
        Err(E::NotText)
    );
}

#[test]
fn a_size_that_overflows_is_none() {
    let huge = TEXT.replace("RW 16 ZERO", "RW 18446744073709551615 ZERO");
    assert_eq!(Descriptor::parse(huge.as_bytes()).unwrap().sectors(), None);
    let large = TEXT.replace("RW 16 ZERO", "RW 36028797018963967 ZERO");
    assert_eq!(Descriptor::parse(large.as_bytes()).unwrap().sectors(), None);
}

#[test]
fn plain_names_stay_in_their_folder() {
    for bad in [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../x",
        "a/b",
        "a\\b",
        "a\nb",
        "a\"b",
    ] {
        assert!(!is_plain_name(bad), "{bad:?}");
    }
    assert!(!is_plain_name(&"x".repeat(256)));
    for good in ["a.vmdk", "..a", "with space-flat.vmdk", "ä.vmdk"] {
        assert!(is_plain_name(good), "{good:?}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(cid in any::<u32>(), sectors in 1..1u64 << 50, flat in any::<bool>()) {
        let (create_type, extent) = if flat { ("monolithicFlat", "FLAT") } else { ("monolithicSparse", "SPARSE") };
        let text = DescriptorText { cid, create_type, extent, file: "d.vmdk", sectors }.emit().unwrap();
        let d = Descriptor::parse(text.as_bytes()).unwrap();
        prop_assert_eq!((d.cid, d.sectors()), (cid, Some(sectors)));
        prop_assert_eq!(d.create_type, create_type);
        prop_assert_eq!(d.extents[0].file(), Some("d.vmdk"));
        prop_assert_eq!(text.get(d.cid_at).unwrap(), format!("{cid:08x}"));
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "(?s).{0,200}", at in 0..TEXT.len(), cut in 0..50usize) {
        let mut mixed = TEXT.as_bytes().to_vec();
        let end = (at + cut).min(mixed.len());
        mixed.splice(at..end, text.bytes());
        let _ = Descriptor::parse(text.as_bytes());
        if let Ok(d) = Descriptor::parse(&mixed) {
            prop_assert!(mixed.get(d.cid_at).is_some());
        }
    }
}
