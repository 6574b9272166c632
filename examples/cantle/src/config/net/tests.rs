use proptest::prelude::*;

use super::*;

fn link(text: &str) -> NetLink {
    option(text).unwrap().config.link
}

#[test]
fn what_packets_leave_by() {
    assert!(
        matches!(link("tap=t0,bridge=br0"), NetLink::Tap { name: Some(name), bridge: Some(bridge) } if name == "t0" && bridge == "br0")
    );
    assert!(matches!(
        link("tap"),
        NetLink::Tap {
            name: None,
            bridge: None
        }
    ));
    assert!(matches!(link("packet=eth0"), NetLink::Packet { interface } if interface == "eth0"));
    assert!(matches!(link("user"), NetLink::User { options } if options.is_empty()));
    assert!(
        matches!(link("user:-t 2222:22 -u none"), NetLink::User { options } if options == ["-t", "2222:22", "-u", "none"])
    );
    assert!(
        matches!(link("stream=/run/x"), NetLink::Stream { socket } if socket.as_os_str() == "/run/x")
    );
    assert!(matches!(link("none"), NetLink::Nowhere));
    assert!(matches!(
        link("bridge=br0"),
        NetLink::Tap { name: None, .. }
    ));
    let net = option("switch=lan,vlan=5,isolated,mac-filter").unwrap();
    let at = net.switch.unwrap();
    assert_eq!(at.name, "lan");
    assert_eq!(at.port.vlans, Vlans::Access(VlanId::new(5).unwrap()));
    assert!(at.port.isolated && at.filter);
}

#[test]
fn trunks() {
    let vlans = |text: &str| {
        option(&format!("switch=s,{text}"))
            .unwrap()
            .switch
            .unwrap()
            .port
            .vlans
    };
    let of = |list: &[u16]| {
        list.iter()
            .map(|n| VlanId::new(*n).unwrap())
            .collect::<VlanSet>()
    };
    assert_eq!(
        vlans("trunk=1+2+5,native=7"),
        Vlans::Trunk {
            allowed: of(&[1, 2, 5]),
            native: VlanId::new(7)
        }
    );
    assert_eq!(
        vlans("trunk=all"),
        Vlans::Trunk {
            allowed: VlanSet::all(),
            native: None
        }
    );
}

#[test]
fn what_goes_with_any_link() {
    let config = option(
        "none,mac=00:16:3e:00:00:01,queues=2,mtu=9000,rate=1MB/s,rx-rate=2MB/s,ip=10.0.0.2+fd00::2,link=down,pcap=f,script-less",
    )
    .unwrap()
    .config;
    assert_eq!(config.mac, Some([0, 0x16, 0x3e, 0, 0, 1]));
    assert_eq!(
        (config.options.queues_max, config.options.mtu),
        (2, Some(9000))
    );
    assert_eq!(config.options.tx_rate, Some(rate("1MB/s").unwrap()));
    assert_eq!(config.options.rx_rate, Some(rate("2MB/s").unwrap()));
    assert_eq!(
        config.ip,
        ["10.0.0.2", "fd00::2"].map(|ip| ip.parse::<IpAddr>().unwrap())
    );
    assert!(!config.options.link);
    assert_eq!(config.capture.as_deref(), Some("f".as_ref()));
    let usual = option("none").unwrap().config;
    assert!(usual.options.link && usual.mac.is_none() && usual.options.tx_rate.is_none());
}

#[test]
fn as_xl_has_it() {
    let config = xl("mac=00:16:3E:ff:00:01, vifname=tap0, bridge=xenbr0, rate=10MB/s@50ms, mtu=1400, ip=10.0.0.2 10.0.0.3, type=vif, script=vif-bridge, backend=0")
        .unwrap()
        .config;
    assert!(
        matches!(&config.link, NetLink::Tap { name: Some(name), bridge: Some(_) } if name == "tap0")
    );
    assert_eq!(config.mac, Some([0, 0x16, 0x3e, 0xff, 0, 1]));
    assert_eq!((config.ip.len(), config.options.mtu), (2, Some(1400)));
    assert!(config.options.tx_rate.is_some());
    // Our own words beside xl's.
    assert!(
        xl("switch=lan,vlan=2,mac=00:16:3e:00:00:01")
            .unwrap()
            .switch
            .is_some()
    );
    assert!(xl("model=e1000,bridge=br0").is_ok());
}

#[test]
fn refusals_say_what_is_allowed() {
    for (bad, word) in [
        ("", "unknown part"),
        ("mac=00:16:3e:00:00:01", "a link is missing: tap=NAME"),
        ("tap=a,tap=b", "one link only"),
        ("tap=a,user", "one link only"),
        ("tap=", "network interface"),
        ("tap=a/b", "network interface"),
        ("tap=sixteen_letters_", "network interface"),
        ("packet=eth0,bridge=br0", "bridge goes with tap"),
        ("tap=a,vlan=1", "vlan goes with switch"),
        ("tap=a,isolated", "isolated goes with switch"),
        ("user,mac-filter", "mac-filter goes with switch"),
        ("switch=s,vlan=0", "1 to 4094"),
        ("switch=s,vlan=1,trunk=2", "vlan goes without trunk"),
        ("switch=s,native=2", "native goes with trunk"),
        ("switch=s,trunk=", "1 to 4094"),
        ("none,queues=0", "1 to 16"),
        ("none,queues=17", "1 to 16"),
        ("none,mtu=67", "68 to 65535"),
        ("none,rate=fast", "rate"),
        ("none,ip=", "no IP address"),
        ("none,ip=10.0.0.256", "no IP address"),
        ("none,link=1", "up or down"),
        ("none,mac=01:00:5e:00:00:01", "hardware address"),
        ("none,mtu=1500,mtu=1500", "twice"),
        ("none,speed=9", "--help lists them"),
    ] {
        let error = option(bad).unwrap_err();
        assert!(error.contains(word), "{bad:?}: {error}");
    }
    for (bad, word) in [
        ("", "vifname=TAP, bridge=BRIDGE"),
        ("mac=00:16:3e:00:00:01", "vifname=TAP"),
        ("vifname=t,type=ioemu", "only type=vif"),
        ("vifname=t,script=vif-route", "bridge=BRIDGE"),
        ("vifname=t,backend=netdom", "only backend=0"),
        ("vifname=t,accel=x", "mac=ADDRESS, bridge=BRIDGE"),
        ("vifname=t,ip= ", "missing"),
    ] {
        let error = xl(bad).unwrap_err();
        assert!(error.contains(word), "{bad:?}: {error}");
    }
}

#[test]
fn captures() {
    assert_eq!(pcap("a=b"), Ok((0, "a=b".into())));
    assert_eq!(pcap("2=f"), Ok((2, "f".into())));
    assert!(pcap("").is_err() && pcap("2=").is_err());
}

proptest! {
    #[test]
    fn any_text_never_panics(text in any::<String>(), near in "[a-z0-9=,:/+@. -]{0,40}") {
        for text in [text, near] {
            let _ = (xl(&text), option(&text), pcap(&text), super::super::switch::option(&text));
        }
    }
}
