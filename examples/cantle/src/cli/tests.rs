use std::path::Path;

use cantle_vmm_core::NetLink;
use clap::CommandFactory;

use super::*;

fn guest(args: &[&str]) -> Result<Guest, String> {
    let cli =
        Cli::try_parse_from([&["cantle", "run"], args].concat()).map_err(|e| e.to_string())?;
    let Command::Run(run) = cli.command else {
        return Err("not run".into());
    };
    let mut guests = run.guests().map_err(|e| format!("{e:#}"))?;
    match guests.len() {
        1 => Ok(guests.remove(0)),
        n => Err(format!("{n} guests")),
    }
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn options_become_a_guest() {
    let guest = guest(&[
        "--kernel",
        "k",
        "--initrd",
        "i",
        "--memory",
        "1G",
        "--vcpus",
        "2",
        "--max-event-channels",
        "1023",
        "--max-event-rate",
        "20000",
        "--disk",
        "path=a",
        "--disk",
        "path=b,ro,vdev=xvdc",
        "--net",
        "tap=t0,mac=00:16:3e:01:02:03",
        "--pcap",
        "0=p",
        "--transport",
        "page",
        "--max-grant-version",
        "2",
        "--max-grant-frames",
        "4096",
        "--max-maptrack-frames",
        "0",
    ])
    .unwrap();
    let nets = guest.nets;
    let guest = guest.config;
    assert_eq!(
        (guest.memory, guest.vcpus, guest.cmdline.as_str()),
        (1 << 30, 2, "console=hvc0")
    );
    assert_eq!(
        (guest.kernel.as_path(), guest.initrd.as_deref()),
        (Path::new("k"), Some(Path::new("i")))
    );
    assert_eq!(guest.transport, TransportChoice::Page);
    let grants = GrantConfig {
        max_grant_version: 2,
        max_grant_frames: 4096,
        max_maptrack_frames: 0,
    };
    assert_eq!(guest.grants, grants);
    assert_eq!(guest.max_event_channels, 1023);
    assert_eq!(guest.max_event_rate.map(NonZeroU32::get), Some(20_000));
    let disks: Vec<_> = guest
        .disks
        .iter()
        .map(|d| (d.disk.path.to_str(), d.disk.read_only, d.vdev.as_deref()))
        .collect();
    assert_eq!(
        disks,
        [(Some("a"), false, None), (Some("b"), true, Some("xvdc"))]
    );
    let net = &nets[0].config;
    assert!(matches!(&net.link, NetLink::Tap { name: Some(name), .. } if name == "t0"));
    assert_eq!(net.mac, Some([0, 0x16, 0x3e, 1, 2, 3]));
    assert_eq!(net.capture.as_deref(), Some(Path::new("p")));
}

#[test]
fn a_capture_is_of_an_interface_that_there_is() {
    let with = |pcap: &[&str]| {
        guest(
            &[
                &["--kernel", "k", "--net", "none", "--net", "none,pcap=a"],
                pcap,
            ]
            .concat(),
        )
    };
    let captures = |guest: Guest| guest.nets.into_iter().map(|net| net.config.capture);
    let guest = with(&["--pcap", "f"]).unwrap();
    assert_eq!(
        captures(guest).collect::<Vec<_>>(),
        [Some("f".into()), Some("a".into())]
    );
    for (pcap, word) in [("2=f", "2 interfaces"), ("1=f", "a file already")] {
        let error = with(&["--pcap", pcap]).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn several_guests_have_names_and_sockets_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let one = file("1", "name='a'\nkernel='k'\nswitch=['lan']");
    let two = file("2", "name='b'\nkernel='k'");
    let same = file("3", "name='a'\nkernel='k'");
    let guests = |args: &[&str]| {
        let cli = Cli::try_parse_from([&["cantle", "run"], args].concat()).unwrap();
        let Command::Run(run) = cli.command else {
            panic!("not run");
        };
        run.guests().map_err(|error| error.to_string())
    };
    let both = guests(&[&one, &two, "--switch", "wan", "--transport", "page"]).unwrap();
    let names: Vec<_> = both
        .iter()
        .map(|guest| guest.config.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
    let switches: Vec<_> = both[0].switches.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(switches, ["lan", "wan"]);
    assert_eq!(both[1].config.transport, TransportChoice::Page);
    let four = file("4", "name='d'\nkernel='k'\nvif=['none']");
    let captured = guests(&[&four, &one, "--pcap", "f"]).unwrap();
    assert!(captured[0].nets[0].config.capture.is_some(), "the first's");
    assert!(guests(&[&one, &four, "--pcap", "f"]).is_err());
    assert!(
        guests(&[&one, &same])
            .unwrap_err()
            .contains("a name of its own")
    );
    let error = guests(&[&one, &two, "--xenstore-socket", "s"]).unwrap_err();
    assert!(error.contains("xenstore_socket ="), "{error}");
    let alone = guests(&[&one, "--xenstore-socket", "s"]).unwrap();
    assert!(alone[0].config.xenstore_socket.is_some());
}

#[test]
fn limits_of_grants_are_as_the_library_has_them() {
    let grants = guest(&["--kernel", "k"]).unwrap().config.grants;
    assert_eq!(grants, GrantConfig::default());
    for (option, wrong) in [
        ("--max-grant-version", ["0", "3"]),
        ("--max-grant-frames", ["0", "4097"]),
        ("--max-maptrack-frames", ["4097", "4294967296"]),
    ] {
        for value in wrong {
            let error = guest(&["--kernel", "k", option, value]).unwrap_err();
            let said = format!("'{value}' for '{option} <N>': {value} is not one of");
            assert!(error.contains(&said), "{error}");
        }
        assert!(guest(&["--kernel", "k", option, "many"]).is_err());
    }
}

#[test]
fn a_file_and_options_that_describe_a_guest_exclude_each_other() {
    assert!(guest(&["guest.cfg", "--kernel", "k"]).is_err());
    for option in [
        ["--memory", "1G"],
        ["--max-grant-version", "2"],
        ["--max-grant-frames", "64"],
        ["--max-maptrack-frames", "1"],
        ["--net", "none"],
        ["--console", "f"],
    ] {
        let error = guest(&["guest.cfg", option[0], option[1]]).unwrap_err();
        assert!(error.contains("cannot be used with"), "{error}");
    }
    assert!(guest(&[]).is_err());
}

#[test]
fn a_guest_is_pv_where_it_is_asked_for() {
    let kind = |args: &[&str]| guest(&[&["--kernel", "k"], args].concat()).map(|g| g.config.kind);
    assert_eq!(kind(&[]), Ok(GuestKind::Pvh));
    assert_eq!(kind(&["--type", "pv"]), Ok(GuestKind::Pv));
    assert!(kind(&["--type", "hvm"]).is_err());
    // A file says it itself.
    assert!(guest(&["guest.cfg", "--type", "pv"]).is_err());
}
