use cantle_vmm_core::NetLink;

use super::*;

const GOOD: &str = "
name = 'one'
type = \"pvh\"
kernel = '/boot/vmlinuz'   # Debian's
ramdisk = '/boot/initrd'
extra = 'console=hvc0'
root = '/dev/xvda ro'
memory = 256
vcpus = 2
disk = [
    'format=raw, vdev=xvda, access=rw, target=/root.img',
    'phy:/dev/vg/data,xvdb,r',
]
vif = ['mac=00:16:3e:00:00:01,vifname=tap0']
on_poweroff = 'destroy'
on_crash = 'restart'
";

fn error(text: &str) -> (usize, String) {
    let error = parse(text).unwrap_err();
    (error.line, error.message)
}

#[test]
fn a_guest_from_a_file() {
    let guest = parse(GOOD).unwrap();
    let config = &guest.config;
    assert_eq!(config.name, "one");
    assert_eq!(config.kernel, Path::new("/boot/vmlinuz"));
    assert_eq!(config.initrd.as_deref(), Some(Path::new("/boot/initrd")));
    assert_eq!(config.cmdline, "root=/dev/xvda ro console=hvc0");
    assert_eq!((config.memory, config.vcpus), (256 << 20, 2));
    let disks: Vec<_> = config
        .disks
        .iter()
        .map(|d| (d.vdev.as_deref(), d.disk.read_only))
        .collect();
    assert_eq!(disks, [(Some("xvda"), false), (Some("xvdb"), true)]);
    let [net] = guest.nets.as_slice() else {
        panic!("{:?}", guest.nets);
    };
    assert!(matches!(&net.config.link, NetLink::Tap { name: Some(name), .. } if name == "tap0"));
    assert_eq!(guest.on_poweroff, Action::Destroy);
    assert_eq!(guest.on_reboot, Action::Restart, "xl's default");
    assert_eq!(guest.on_crash, Action::Restart);
}

#[test]
fn the_example_is_read() {
    parse(include_str!("../../guest.cfg.example")).unwrap();
}

#[test]
fn an_unknown_key_names_file_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("guest.cfg");
    std::fs::write(&file, "name='a'\nkernel='k'\n\nvnc = 1\n").unwrap();
    let error = format!("{:#}", read(&file).unwrap_err());
    assert_eq!(error, format!("{}:4: unknown key \"vnc\"", file.display()));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = format!("{:#}", read("/nowhere/guest.cfg".as_ref()).unwrap_err());
    assert!(error.contains("/nowhere/guest.cfg"), "{error}");
}

#[test]
fn what_is_missing_or_wrong_names_its_line() {
    assert_eq!(error("kernel='k'"), (1, "name is missing".into()));
    assert_eq!(error("\nname='a'\n"), (2, "kernel is missing".into()));
    let after = |line: &str| error(&format!("name='a'\nkernel='k'\n{line}"));
    assert_eq!(
        after("name='b'"),
        (3, "name is set already, in line 1".into())
    );
    assert_eq!(
        after("memory='lots'"),
        (3, "memory: a number is expected".into())
    );
    assert_eq!(after("memory=99999999999999").0, 3);
    assert_eq!(after("type='hvm'").0, 3);
    assert_eq!(after("vcpus=99999999999").0, 3);
    assert_eq!(after("on_crash='preserve'").0, 3);
    assert_eq!(after("disk='/a,raw,xvda,rw'").0, 3);
    assert_eq!(after("disk=[\n'/a,raw,xvda,rw',\n'/b,vhdx,xvdb,rw']").0, 5);
    assert_eq!(after("vif=[1]").0, 3);
    assert_eq!(after("vif=[\n'vifname=t',\n'vifname=u,vlan=1']").0, 5);
    assert_eq!(after("switch=['lan,aging=0']").0, 3);
    assert_eq!(after("switch='lan'").0, 3);
    assert_eq!(after("cmdline='x'\nextra='y'").0, 4);
    assert_eq!(after("maxmem=1024").0, 3);
    assert_eq!(after("ramdisk=1").0, 3);
}

#[test]
fn numbers_may_be_in_quotes_and_limits_may_be_said_twice() {
    let guest =
        parse("name='a'\nkernel='k'\nmemory='128'\nmaxmem=128\nvcpus=3\nmaxvcpus=3").unwrap();
    assert_eq!((guest.config.memory, guest.config.vcpus), (128 << 20, 3));
    assert_eq!(guest.config.max_event_channels, 131_071);
    let guest = parse("name='a'\nkernel='k'\nmax_event_channels=1023").unwrap();
    assert_eq!(guest.config.max_event_channels, 1023);
    assert_eq!(guest.config.max_event_rate, None);
    let guest = parse("name='a'\nkernel='k'\nmax_event_rate=20000").unwrap();
    assert_eq!(guest.config.max_event_rate.map(|n| n.get()), Some(20_000));
    assert!(parse("name='a'\nkernel='k'\nmax_event_rate=0").is_err());
}

#[test]
fn what_guests_of_one_process_have_in_files_of_their_own() {
    let guest = parse(
        "name='a'\nkernel='k'\nvif=['switch=lan,vlan=3']\nswitch=['lan,aging=20']\nconsole='/tmp/a.log'\nxenstore_socket='/tmp/a.sock'",
    )
    .unwrap();
    let at = guest.nets[0].switch.as_ref().unwrap();
    assert_eq!(at.name, "lan");
    assert_eq!(
        (
            guest.switches[0].name.as_str(),
            guest.switches[0].age.as_secs()
        ),
        ("lan", 20)
    );
    assert_eq!(guest.console.as_deref(), Some(Path::new("/tmp/a.log")));
    assert_eq!(
        guest.config.xenstore_socket.as_deref(),
        Some(Path::new("/tmp/a.sock"))
    );
}

#[test]
fn limits_of_grants_are_read_and_kept() {
    let parse = |line: &str| parse(&format!("name='a'\nkernel='k'\n{line}"));
    assert_eq!(parse("").unwrap().config.grants, GrantConfig::default());
    let guest =
        parse("max_grant_version=2\nmax_grant_frames=4096\nmax_maptrack_frames='0'").unwrap();
    let grants = GrantConfig {
        max_grant_version: 2,
        max_grant_frames: 4096,
        max_maptrack_frames: 0,
    };
    assert_eq!(guest.config.grants, grants);
    for (line, message) in [
        ("max_grant_version=0", "0 is not one of 1 to 2"),
        ("max_grant_version=3", "3 is not one of 1 to 2"),
        ("max_grant_version='v2'", "a number is expected"),
        ("max_grant_frames=0", "0 is not one of 1 to 4096"),
        ("max_grant_frames=4097", "4097 is not one of 1 to 4096"),
        ("max_maptrack_frames=4097", "4097 is not one of 0 to 4096"),
        (
            "max_maptrack_frames=4294967296",
            "4294967296 is not one of 0 to 4096",
        ),
    ] {
        let error = parse(line).unwrap_err();
        let (key, _) = line.split_once('=').unwrap();
        let said = (error.line, error.message);
        assert_eq!(said, (3, format!("{key}: {message}")));
    }
}

#[test]
fn a_guest_is_pv_by_its_type_or_its_builder() {
    let with = |lines: &str| {
        let text = format!("name = 'a'\nkernel = 'k'\n{lines}\n");
        parse(&text).map(|guest| guest.config.kind)
    };
    assert_eq!(with(""), Ok(GuestKind::Pvh));
    assert_eq!(with("type = 'pv'"), Ok(GuestKind::Pv));
    assert_eq!(with("builder = 'generic'"), Ok(GuestKind::Pv));
    assert_eq!(with("builder = 'linux'"), Ok(GuestKind::Pv));
    for refused in [
        "type = 'hvm'",
        "builder = 'hvm'",
        "type = 'pv'\nbuilder = 'generic'",
    ] {
        assert!(with(refused).is_err(), "{refused}");
    }
}
