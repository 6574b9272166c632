//! What is written into xenstore for the front end, and what is read of its answer.

use cantle_abi::{GrantRef, Port};
use cantle_xenstore::xenbus::{DeviceError, Keys, OtherEnd};

use crate::device::ConnectError;
use crate::options::BackendOptions;
use crate::rx::FrontEnd;

/// The most bytes that are left free at the start of a page: half of it.
const HEADROOM_MAX: u16 = 2048;

/// A front end's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) front: FrontEnd,
    pub(crate) queues: Vec<QueueKeys>,
    pub(crate) control: Option<(GrantRef, Port)>,
    /// Only the multicast packets that it has asked for.
    pub(crate) multicast: bool,
    pub(crate) headroom: u16,
}

/// One queue as the front end has made it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueKeys {
    pub(crate) tx_ring: GrantRef,
    pub(crate) rx_ring: GrantRef,
    pub(crate) tx_port: Port,
    /// Where the rx ring has its own.
    pub(crate) rx_port: Option<Port>,
}

/// What is published before there is a front end.
pub(crate) fn offer(options: &BackendOptions, queues_max: u32) -> Keys {
    let one = |offered: bool| u32::from(offered).to_string();
    let mut keys = Keys::new();
    for (key, value) in [
        ("feature-sg", "1"),
        ("feature-gso-tcpv4", "1"),
        ("feature-gso-tcpv6", "1"),
        ("feature-ipv6-csum-offload", "1"),
        ("feature-rx-copy", "1"),
        ("feature-rx-flip", "0"),
        ("feature-rx-notify", "1"),
        ("feature-split-event-channels", "1"),
        ("feature-xdp-headroom", "1"),
    ] {
        keys.push((key.to_owned(), value.to_owned()));
    }
    let multicast = one(options.multicast_control);
    for key in [
        "feature-multicast-control",
        "feature-dynamic-multicast-control",
    ] {
        keys.push((key.to_owned(), multicast.clone()));
    }
    keys.push(("feature-ctrl-ring".to_owned(), one(options.control_ring)));
    keys.push(("multi-queue-max-queues".to_owned(), queues_max.to_string()));
    if let Some(mtu) = options.mtu {
        keys.push(("mtu".to_owned(), mtu.to_string()));
    }
    keys
}

/// Reads what the front end wants. Nothing of it is more than was offered.
pub(crate) fn read(
    front: &OtherEnd<'_>,
    options: &BackendOptions,
    queues_max: u32,
) -> Result<Answer, DeviceError> {
    require_flag(front, "request-rx-copy")?;
    // Without it we could go to sleep on an empty ring for ever.
    require_flag(front, "feature-rx-notify")?;
    let queues = front.optional("multi-queue-num-queues")?.unwrap_or(1);
    if !(1..=queues_max).contains(&queues) {
        return Err(ConnectError::Queues {
            wanted: queues,
            offered: queues_max,
        }
        .into());
    }
    let queues = if queues == 1 {
        vec![queue(front, "")?]
    } else {
        let queues = (0..queues).map(|n| queue(front, &format!("queue-{n}/")));
        queues.collect::<Result<_, _>>()?
    };
    let features = FrontEnd {
        sg: flag(front, "feature-sg", false)?,
        gso_v4: flag(front, "feature-gso-tcpv4", false)?,
        gso_v6: flag(front, "feature-gso-tcpv6", false)?,
        gso_v4_prefix: flag(front, "feature-gso-tcpv4-prefix", false)?,
        gso_v6_prefix: flag(front, "feature-gso-tcpv6-prefix", false)?,
        csum_v4: !flag(front, "feature-no-csum-offload", false)?,
        csum_v6: flag(front, "feature-ipv6-csum-offload", false)?,
    };
    let control = match front.optional("ctrl-ring-ref")?.map(GrantRef) {
        Some(ring) if options.control_ring => {
            Some((ring, front.require("event-channel-ctrl").map(Port)?))
        }
        _ => None,
    };
    Ok(Answer {
        front: features,
        queues,
        control,
        multicast: options.multicast_control && flag(front, "request-multicast-control", false)?,
        headroom: headroom(front)?,
    })
}

/// `xdp-headroom`. One that would leave too little of a page is as good as none.
pub(crate) fn headroom(front: &OtherEnd<'_>) -> Result<u16, DeviceError> {
    let bytes: Option<u32> = front.optional("xdp-headroom")?;
    let bytes = u16::try_from(bytes.unwrap_or(0)).ok();
    Ok(bytes.filter(|bytes| *bytes <= HEADROOM_MAX).unwrap_or(0))
}

fn queue(front: &OtherEnd<'_>, directory: &str) -> Result<QueueKeys, DeviceError> {
    let key = |name: &str| format!("{directory}{name}");
    let tx_port = front.optional(&key("event-channel-tx"))?.map(Port);
    let (tx_port, rx_port) = match tx_port {
        Some(tx) => (tx, Some(front.require(&key("event-channel-rx")).map(Port)?)),
        None => (front.require(&key("event-channel")).map(Port)?, None),
    };
    Ok(QueueKeys {
        tx_ring: front.require(&key("tx-ring-ref")).map(GrantRef)?,
        rx_ring: front.require(&key("rx-ring-ref")).map(GrantRef)?,
        tx_port,
        rx_port,
    })
}

/// Reads a 0 or 1 key, with what its absence means.
fn flag(front: &OtherEnd<'_>, key: &str, absent: bool) -> Result<bool, DeviceError> {
    let value: Option<u32> = front.optional(key)?;
    Ok(value.map_or(absent, |value| value != 0))
}

fn require_flag(front: &OtherEnd<'_>, key: &'static str) -> Result<(), DeviceError> {
    if flag(front, key, false)? {
        Ok(())
    } else {
        Err(ConnectError::Missing { key }.into())
    }
}
