use cantle_vmm_core::disk::CacheMode;
use proptest::prelude::*;

use super::*;

fn disk(text: &str) -> Result<(String, ImageFormat, bool, String), String> {
    xl(text).map(|d| {
        (
            d.disk.path.display().to_string(),
            d.disk.format,
            d.disk.read_only,
            d.vdev.unwrap_or_default(),
        )
    })
}

fn is(
    path: &str,
    read_only: bool,
    vdev: &str,
) -> Result<(String, ImageFormat, bool, String), String> {
    Ok((path.into(), ImageFormat::Raw, read_only, vdev.into()))
}

#[test]
fn disks_in_each_of_xls_forms() {
    assert_eq!(
        disk("/dev/vg/v,raw,xvda,rw"),
        is("/dev/vg/v", false, "xvda")
    );
    assert_eq!(disk("/dev/vg/v,,xvda,ro"), is("/dev/vg/v", true, "xvda"));
    assert_eq!(disk("/dev/vg/v,,xvda"), is("/dev/vg/v", false, "xvda"));
    assert_eq!(
        disk("format=raw, vdev=xvda, access=rw, target=/a,b"),
        is("/a,b", false, "xvda")
    );
    assert_eq!(disk("/v, vdev=xvdb, access=r"), is("/v", true, "xvdb"));
    assert_eq!(disk("vdev=xvdb,/v,raw,ro"), is("/v", true, "xvdb"));
    assert_eq!(disk("phy:/dev/sda1,xvdc,w"), is("/dev/sda1", false, "xvdc"));
    assert_eq!(disk("file:/i.img,xvdd,r"), is("/i.img", true, "xvdd"));
    let (_, format, ..) = disk("/v.vhd,vhd,xvda,rw").unwrap();
    assert_eq!(format, ImageFormat::Vhd);
    let cd = xl("/cd.iso,,xvda,cdrom").unwrap();
    assert_eq!(cd.options.kind, DiskKind::Cdrom);
    let cd = xl("/cd.iso,,xvda,devtype=cdrom,no-discard,queues=4,cache=none").unwrap();
    assert_eq!(cd.options.kind, DiskKind::Cdrom);
    assert_eq!((cd.options.max_queues, cd.options.discard), (4, false));
    assert_eq!(cd.disk.cache, CacheMode::None);
}

#[test]
fn disks_that_cannot_be_honoured_say_why() {
    for (text, word) in [
        ("/v,qed,xvda,rw", "qed"),
        ("/v,raw,hda,rw", "hda"),
        ("/v,raw,xvda1,rw", "xvda1"),
        ("/v,raw,xvda,x", "access"),
        ("/v,raw,xvda,rw,more", "too much"),
        ("/v", "vdev"),
        ("", "path"),
        ("vdev=xvda", "target"),
        ("/v,,xvda,devtype=floppy", "devtype"),
        ("/v,,xvda,target=/w", "twice"),
        ("/v,format=raw,format=raw,vdev=xvda", "twice"),
        ("/v,,xvda,script=block-iscsi", "script"),
    ] {
        let error = disk(text).unwrap_err();
        assert!(error.contains(word), "{text:?}: {error}");
    }
}

#[test]
fn options() {
    let ok = option("path=/a=b,ro,vdev=xvdz").unwrap();
    assert_eq!(
        (ok.disk.path, ok.disk.read_only, ok.vdev.as_deref()),
        ("/a=b".into(), true, Some("xvdz"))
    );
    let plain = option("path=x").unwrap();
    assert!(!plain.disk.read_only && plain.disk.limits.is_none());
    assert_eq!(plain.options, BackendOptions::default());
    let all = option(
        "path=x,format=qcow2,cache=unsafe,queues=16,on-error=stop,parents=folder,overlay=o,keep,read-cache=c,track=t,\
         sector-size=4096,secure-discard,no-persistent,no-lock,spin=0,removable,read-bps=10M,write-iops=5,write-iops-burst=50",
    )
    .unwrap();
    assert_eq!(all.disk.format, ImageFormat::Qcow2);
    assert_eq!(all.disk.parents, Parents::SameFolder);
    let overlay = Overlay {
        path: "o".into(),
        keep: true,
    };
    assert_eq!(all.disk.overlay, Some(overlay));
    assert_eq!(
        (all.disk.read_cache, all.disk.track_changes),
        (Some("c".into()), Some("t".into()))
    );
    assert_eq!(all.options.on_error, OnError::Stop);
    assert_eq!(
        (all.options.max_queues, all.options.persistent),
        (16, false)
    );
    assert_eq!(all.options.spin, Duration::ZERO);
    let limits = all.disk.limits.unwrap();
    assert_eq!(
        (limits.read_bps, limits.write_iops, limits.write_iops_burst),
        (10 << 20, 5, 50)
    );
    assert!(!all.disk.lock && all.disk.secure_discard);
    for bad in [
        "",
        "x",
        "path=",
        "ro",
        "path=x,path=y",
        "path=x,ro,rw",
        "path=x,",
        "path=x,vdev=sda",
        "path=x,format=vhdx",
        "path=x,cache=fast",
        "path=x,queues=0",
        "path=x,queues=17",
        "path=x,keep",
        "path=x,on-error=panic",
        "path=x,read-bps=many",
        "path=x,sector-size=1024",
        "path=x,cdrom,removable",
        "path=x,bps=1",
    ] {
        assert!(option(bad).is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn any_text_never_panics(text in any::<String>(), near in "[a-z=,:/ 0]{0,30}") {
        for text in [text, near] {
            let _ = (xl(&text), option(&text));
        }
    }

    #[test]
    fn a_named_target_keeps_every_character(target in "[^\\r\\n]{1,30}") {
        let disk = xl(&format!("vdev=xvda,target={target}")).unwrap();
        prop_assert_eq!(disk.disk.path, PathBuf::from(target));
    }
}
