use super::*;

fn footer(sectors: u64) -> Footer {
    Footer::new(&NewFooter {
        kind: Kind::Dynamic,
        sectors,
        uuid: [3; 16],
        timestamp: 77,
    })
}

fn by(creator: &[u8; 4], sectors: u64) -> Footer {
    let mut footer = footer(sectors);
    put(&mut footer.raw, CREATOR, creator);
    footer.seal();
    footer
}

#[test]
fn what_is_written_is_read() {
    let footer = footer(1234);
    let read = Footer::parse(*footer.raw()).expect("it is one");
    assert_eq!(read, footer);
    assert_eq!(
        (read.kind(), read.uuid(), read.timestamp()),
        (Kind::Dynamic, [3; 16], 77)
    );
    assert_eq!(read.sectors(SizeRule::ByCreator), 1234);
    assert!(!read.hidden() && !read.lowest_bit_first() && read.may_have_batmap());
}

#[test]
fn each_bit_counts_in_the_sum() {
    let good = *footer(1234).raw();
    for at in 0..FOOTER {
        let mut bad = good;
        put(&mut bad, at, &[get::<1>(&good, at)[0] ^ 0x10]);
        assert_eq!(Footer::parse(bad), None, "at {at}");
    }
}

#[test]
fn the_geometry_is_that_of_the_specification() {
    // Cylinders, heads, sectors of a track, by the appendix's rules.
    for (sectors, expected) in [
        (0x4000, (240, 4, 17)),
        (204_800, (1003, 12, 17)),
        (409_600, (825, 16, 31)),
        (2 * 1024 * 1024, (2080, 16, 63)),
        (65535 * 16 * 63, (16191, 16, 255)),
        (65535 * 16 * 255, (65535, 16, 255)),
        (1 << 40, (65535, 16, 255)),
    ] {
        let (cylinders, heads, per_track) = chs(sectors);
        let said = u64::from(cylinders) * u64::from(heads) * u64::from(per_track);
        assert!(said <= sectors, "{sectors}");
        assert_eq!((cylinders, heads, per_track), expected, "{sectors}");
    }
}

#[test]
fn the_size_is_by_the_creator() {
    let exact = 1_000_003;
    let (cylinders, heads, per_track) = chs(exact);
    let rounded = u64::from(cylinders) * u64::from(heads) * u64::from(per_track);
    assert_ne!(rounded, exact);
    for (creator, expected) in [
        (b"vpc ", rounded),
        (b"vs  ", rounded),
        (b"qemu", rounded),
        (b"qem2", exact),
        (b"win ", exact),
        (b"d2v ", exact),
        (b"tap\0", exact),
        (b"vbox", exact),
        (b"CTXS", exact),
        (b"wa\0\0", exact),
    ] {
        let footer = by(creator, exact);
        assert_eq!(footer.sectors(SizeRule::ByCreator), expected, "{creator:?}");
        assert_eq!(footer.sectors(SizeRule::Chs), rounded);
        assert_eq!(footer.sectors(SizeRule::Current), exact);
    }
    // A geometry that says as much as it can says nothing.
    assert_eq!(
        by(b"vpc ", 300_000_000).sectors(SizeRule::ByCreator),
        300_000_000
    );
}

#[test]
fn a_new_size_is_one_that_counts() {
    for creator in [b"vpc ", b"vs  ", b"qemu", b"tap\0"] {
        let mut footer = by(creator, 1000);
        footer.set_size(1_000_003);
        let read = Footer::parse(*footer.raw()).expect("it is one");
        assert_eq!(read.sectors(SizeRule::ByCreator), 1_000_003);
    }
}

#[test]
fn an_image_that_xens_first_tools_hid_is_one() {
    let mut footer = footer(1000);
    put(
        &mut footer.raw,
        CREATOR_VERSION,
        &0x0001_0001_u32.to_be_bytes(),
    );
    footer.seal();
    put(&mut footer.raw, HIDDEN, &[1]);
    assert!(Footer::parse(*footer.raw()).is_some_and(|footer| footer.hidden()));
    put(
        &mut footer.raw,
        CREATOR_VERSION,
        &0x0001_0003_u32.to_be_bytes(),
    );
    assert_eq!(Footer::parse(*footer.raw()), None);
}

#[test]
fn xens_first_bitmaps_have_their_lowest_bit_first() {
    let mut footer = by(b"tap\0", 1000);
    put(&mut footer.raw, CREATOR_VERSION, &1_u32.to_be_bytes());
    assert!(footer.lowest_bit_first() && !footer.may_have_batmap());
}
