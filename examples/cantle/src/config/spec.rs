//! The small languages inside of values: disks, interfaces, sizes, names.
//!
//! Each takes a text and says in words what is wrong with it; both the command line and the file use them.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use cantle_vmm_core::{DiskConfig, NetConfig};

use super::Action;

/// The longest name of a network interface, in bytes.
const MAX_INTERFACE_NAME: usize = 15;

/// A guest's name: it becomes part of messages and of xenstore's nodes.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
    if text.is_empty() || text.len() > 255 || !text.chars().all(fits) {
        return Err(format!(
            "{text:?} is no name: letters, digits and \"_.+-\" make one"
        ));
    }
    Ok(text.to_owned())
}

/// A path that is not empty.
pub(crate) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        Err("a path is missing".to_owned())
    } else {
        Ok(text.into())
    }
}

/// Memory in bytes, from MiB or from a number with its unit.
pub(crate) fn memory(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text
        .get(digits.len()..)
        .unwrap_or_default()
        .to_ascii_uppercase()
        .as_str()
    {
        "K" => 10,
        "" | "M" => 20,
        "G" => 30,
        unit => return Err(format!("unknown unit {unit:?}: K, M or G")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no size"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text:?} is too much"))
}

/// A number within limits.
pub(crate) fn within(number: u64, limits: &RangeInclusive<u32>) -> Result<u32, String> {
    let small = u32::try_from(number).ok();
    small.filter(|n| limits.contains(n)).ok_or_else(|| {
        let (least, most) = (limits.start(), limits.end());
        format!("{number} is not one of {least} to {most}")
    })
}

/// A number within limits, as an option's text.
pub(crate) fn option_within(
    limits: RangeInclusive<u32>,
) -> impl Fn(&str) -> Result<u32, String> + Clone {
    move |text| {
        let number = text
            .parse()
            .map_err(|_| "a number is expected".to_owned())?;
        within(number, &limits)
    }
}

/// What is done at a guest's end.
pub(super) fn action(text: &str) -> Result<Action, String> {
    match text {
        "destroy" => Ok(Action::Destroy),
        "restart" => Ok(Action::Restart),
        _ => Err(format!(
            "{text:?} is not supported, only \"destroy\" and \"restart\""
        )),
    }
}

/// `path=FILE[,ro|rw][,vdev=NAME]`.
pub(crate) fn disk_option(text: &str) -> Result<DiskConfig, String> {
    let mut disk = Disk::default();
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("path", value)) => set(&mut disk.target, "path", path(value)?)?,
            Some(("vdev", value)) => set(&mut disk.vdev, "vdev", device_name(value)?)?,
            _ if matches!(part, "ro" | "rw") => {
                set(&mut disk.read_only, "the access", part == "ro")?
            }
            _ => {
                return Err(format!(
                    "unknown part {part:?}: path=FILE, vdev=NAME, ro or rw"
                ));
            }
        }
    }
    disk.finish("path=FILE")
}

/// `tap=NAME[,mac=ADDRESS]`.
pub(crate) fn net_option(text: &str) -> Result<NetConfig, String> {
    let mut net = Net::default();
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("tap", value)) => set(&mut net.tap, "tap", interface(value)?)?,
            Some(("mac", value)) => set(&mut net.mac, "mac", mac(value)?)?,
            _ => return Err(format!("unknown part {part:?}: tap=NAME or mac=ADDRESS")),
        }
    }
    net.finish("tap=NAME")
}

/// A disk as `xl-disk-configuration` has it: the positions target, format, vdev, access, or keys, or both; and the old
/// `phy:TARGET,VDEV,ACCESS` and `file:TARGET,VDEV,ACCESS`.
pub(super) fn xl_disk(text: &str) -> Result<DiskConfig, String> {
    let mut disk = Disk::default();
    let mut rest = text;
    for prefix in ["phy:", "file:", "raw:"] {
        if let Some(target) = rest.strip_prefix(prefix) {
            // It says the format, so that its position is not there.
            disk.format = Some(());
            rest = target;
        }
    }
    loop {
        // A target that is named takes the whole rest, commas and all.
        if let Some(target) = rest.trim_start().strip_prefix("target=") {
            set(&mut disk.target, "target", path(target)?)?;
            break;
        }
        let (part, more) = rest
            .split_once(',')
            .map_or((rest, None), |(part, more)| (part, Some(more)));
        match part.trim().split_once('=') {
            Some((key, value)) => disk.key(key, value)?,
            None => disk.position(part.trim())?,
        }
        match more {
            Some(more) => rest = more,
            None => break,
        }
    }
    if disk.vdev.is_none() {
        return Err("the vdev is missing: the guest's name for the disk, as xvda".to_owned());
    }
    disk.finish("target")
}

/// A network interface as `xl-network-configuration` has it, as far as it can be honoured.
pub(super) fn xl_vif(text: &str) -> Result<NetConfig, String> {
    let mut net = Net::default();
    for part in text.split(',').map(str::trim) {
        match part.split_once('=') {
            Some(("vifname", value)) => set(&mut net.tap, "vifname", interface(value)?)?,
            Some(("mac", value)) => set(&mut net.mac, "mac", mac(value)?)?,
            Some(("type", "vif")) => {}
            Some(("bridge", _)) => {
                return Err("bridge is not supported: make the tap, put it into the bridge, and name it by vifname".to_owned());
            }
            _ => {
                return Err(format!(
                    "unknown part {part:?}: vifname=TAP, mac=ADDRESS or type=vif"
                ));
            }
        }
    }
    net.finish("vifname=TAP")
}

/// A disk that is being read.
#[derive(Default)]
struct Disk {
    target: Option<PathBuf>,
    /// Given; it can be raw only.
    format: Option<()>,
    vdev: Option<String>,
    read_only: Option<bool>,
    positions: usize,
}

impl Disk {
    fn key(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "format" => set(&mut self.format, "format", format(value)?),
            "vdev" => set(&mut self.vdev, "vdev", device_name(value)?),
            "access" => set(&mut self.read_only, "access", access(value)?),
            _ => Err(format!(
                "unknown part {key:?}: format, vdev, access or target"
            )),
        }
    }

    /// The next of the parts that have no name; an empty one leaves its default.
    fn position(&mut self, part: &str) -> Result<(), String> {
        loop {
            self.positions += 1;
            return match self.positions {
                1 if self.target.is_none() => set(&mut self.target, "target", path(part)?),
                2 if self.format.is_none() => set(&mut self.format, "format", format(part)?),
                3 if self.vdev.is_none() => set(&mut self.vdev, "vdev", device_name(part)?),
                4 if self.read_only.is_none() => set(&mut self.read_only, "access", access(part)?),
                // Named, or said by the prefix: the part is for the next position.
                1..=4 => continue,
                _ => Err(format!("{part:?} is too much")),
            };
        }
    }

    fn finish(self, target: &str) -> Result<DiskConfig, String> {
        Ok(DiskConfig {
            path: self.target.ok_or_else(|| format!("{target} is missing"))?,
            read_only: self.read_only.unwrap_or(false),
            vdev: self.vdev,
        })
    }
}

/// An interface that is being read.
#[derive(Default)]
struct Net {
    tap: Option<String>,
    mac: Option<[u8; 6]>,
}

impl Net {
    fn finish(self, tap: &str) -> Result<NetConfig, String> {
        Ok(NetConfig {
            tap: self.tap.ok_or_else(|| format!("{tap} is missing"))?,
            mac: self.mac,
        })
    }
}

fn set<T>(place: &mut Option<T>, what: &str, value: T) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{what} is given twice")),
    }
}

fn format(text: &str) -> Result<(), String> {
    match text {
        "" | "raw" => Ok(()),
        _ => Err(format!("format {text:?} is not supported, only \"raw\"")),
    }
}

fn access(text: &str) -> Result<bool, String> {
    match text {
        "r" | "ro" => Ok(true),
        "" | "w" | "rw" => Ok(false),
        _ => Err(format!("unknown access {text:?}: ro or rw")),
    }
}

/// `xvda` to `xvdz`.
fn device_name(text: &str) -> Result<String, String> {
    match text.strip_prefix("xvd").map(str::as_bytes) {
        Some([b'a'..=b'z']) => Ok(text.to_owned()),
        _ => Err(format!("vdev {text:?} is not supported, only xvda to xvdz")),
    }
}

fn interface(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    if text.is_empty() || text.len() > MAX_INTERFACE_NAME || !text.chars().all(fits) {
        return Err(format!("{text:?} is no name of a network interface"));
    }
    Ok(text.to_owned())
}

/// A hardware address of one station.
fn mac(text: &str) -> Result<[u8; 6], String> {
    let bad = || format!("{text:?} is no hardware address of a station");
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts
            .next()
            .filter(|part| part.len() == 2)
            .ok_or_else(bad)?;
        // `from_str_radix` would take a sign.
        *byte = match part.bytes().all(|b| b.is_ascii_hexdigit()) {
            true => u8::from_str_radix(part, 16).map_err(|_| bad())?,
            false => return Err(bad()),
        };
    }
    let [first, ..] = bytes;
    if parts.next().is_some() || first & 1 != 0 || bytes == [0; 6] {
        Err(bad())
    } else {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn disk(text: &str) -> Result<(String, bool, String), String> {
        xl_disk(text).map(|d| {
            (
                d.path.display().to_string(),
                d.read_only,
                d.vdev.unwrap_or_default(),
            )
        })
    }

    fn is(path: &str, read_only: bool, vdev: &str) -> Result<(String, bool, String), String> {
        Ok((path.into(), read_only, vdev.into()))
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
    }

    #[test]
    fn disks_that_cannot_be_honoured_say_why() {
        for (text, word) in [
            ("/v,qcow2,xvda,rw", "qcow2"),
            ("/v,raw,hda,rw", "hda"),
            ("/v,raw,xvda1,rw", "xvda1"),
            ("/v,raw,xvda,x", "access"),
            ("/v,raw,xvda,rw,more", "too much"),
            ("/v", "vdev"),
            ("", "path"),
            ("vdev=xvda", "target"),
            ("/v,,xvda,devtype=cdrom", "devtype"),
            ("/v,,xvda,target=/w", "twice"),
            ("/v,format=raw,format=raw,vdev=xvda", "twice"),
        ] {
            let error = disk(text).unwrap_err();
            assert!(error.contains(word), "{text:?}: {error}");
        }
    }

    #[test]
    fn disk_options() {
        let ok = disk_option("path=/a=b,ro,vdev=xvdz").unwrap();
        assert_eq!(
            (ok.path, ok.read_only, ok.vdev.as_deref()),
            ("/a=b".into(), true, Some("xvdz"))
        );
        assert!(!disk_option("path=x").unwrap().read_only);
        for bad in [
            "",
            "x",
            "path=",
            "ro",
            "path=x,path=y",
            "path=x,ro,rw",
            "path=x,",
            "path=x,vdev=sda",
        ] {
            assert!(disk_option(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn interfaces() {
        let net = xl_vif("mac=00:16:3E:ff:00:01, vifname=tap0, type=vif").unwrap();
        assert_eq!(
            (net.tap.as_str(), net.mac),
            ("tap0", Some([0, 0x16, 0x3e, 0xff, 0, 1]))
        );
        assert_eq!(net_option("tap=t").unwrap().mac, None);
        assert!(
            xl_vif("bridge=br0,vifname=tap0")
                .unwrap_err()
                .contains("bridge")
        );
        assert!(
            xl_vif("mac=00:16:3e:00:00:01")
                .unwrap_err()
                .contains("vifname")
        );
        assert!(xl_vif("vifname=tap0,model=e1000").is_err());
        for bad in [
            "",
            "tap=",
            "tap=a/b",
            "tap=sixteen_letters_",
            "mac=00:16:3e:00:00:01",
            "tap=a,tap=b",
        ] {
            assert!(net_option(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hardware_addresses() {
        for bad in [
            "",
            "00:16:3e:00:00",
            "00:16:3e:00:00:01:02",
            "0:16:3e:0:0:1",
            "+1:16:3e:00:00:01",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "gg:16:3e:00:00:01",
        ] {
            assert!(mac(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn memory_sizes() {
        assert_eq!(memory("512"), Ok(512 << 20));
        assert_eq!(memory("512M"), Ok(512 << 20));
        assert_eq!(memory("2g"), Ok(2 << 30));
        assert_eq!(memory("8192K"), Ok(8 << 20));
        for bad in ["", "M", "1T", "-1M", "1.5G", "99999999999G", "1 M"] {
            assert!(memory(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in any::<String>(), near in "[a-z=,:/ 0]{0,30}") {
            for text in [text, near] {
                let _ = (xl_disk(&text), xl_vif(&text), disk_option(&text), net_option(&text), memory(&text), name(&text));
            }
        }

        #[test]
        fn a_named_target_keeps_every_character(target in "[^\\r\\n]{1,30}") {
            let disk = xl_disk(&format!("vdev=xvda,target={target}")).unwrap();
            prop_assert_eq!(disk.path, PathBuf::from(target));
        }
    }
}
