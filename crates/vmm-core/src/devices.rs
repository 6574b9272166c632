//! The guest's disks: a back end and a thread each. What network interfaces have in common with them is here too.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::thread::JoinHandle;

use cantle_abi::DomId;
use cantle_blkback::DiskKind;
use cantle_evtchn::{EventChannels, SystemDomain};
use cantle_grant::{GrantMapper, InProcessMapper};
use cantle_xenstore::xenbus::{DeviceId, toolstack};
use cantle_xenstore::{LocalClient, Shared};
use vmm_sys_util::eventfd::EventFd;

use crate::config::{DiskConfig, GuestConfig};
use crate::disks::Served;
use crate::error::SetupError;
use crate::nets::{NetConfig, NetIdentity};
use crate::outcome::Stats;
use crate::running::join;

/// The major number of Xen's virtual disks (`xvda` and so on) in device numbers.
const XVD_MAJOR: u32 = 202;
/// Disks that have a number by letter: `xvda` to `xvdp`.
const LETTERS: u32 = 16;

/// What back ends run on, in this process.
pub(crate) struct Platform {
    pub(crate) store: Shared,
    pub(crate) channels: Arc<SystemDomain>,
    pub(crate) grants: Arc<InProcessMapper>,
    pub(crate) guest: DomId,
    pub(crate) guest_name: String,
}

impl Platform {
    pub(crate) fn client(&self) -> Result<LocalClient, SetupError> {
        self.store
            .client(DomId::DOM0)
            .map_err(SetupError::host("xenstore"))
    }

    pub(crate) fn channels(&self) -> Arc<dyn EventChannels> {
        self.channels.clone()
    }

    pub(crate) fn grants(&self) -> Arc<dyn GrantMapper> {
        self.grants.clone()
    }

    /// Who uses an interface.
    pub(crate) fn net_identity(&self, config: &NetConfig, index: u32) -> NetIdentity {
        NetIdentity {
            guest: self.guest_name.clone(),
            index,
            mac: config
                .mac
                .unwrap_or_else(|| mac_of(&self.guest_name, index)),
            ip: config.ip.clone(),
        }
    }
}

/// A disk that is set up and waits to be served.
pub(crate) struct Device {
    name: String,
    backend: Box<cantle_blkback::Backend>,
    served: Box<Served>,
}

/// A disk's thread, and where its counters are found after it.
pub(crate) struct RunningDevice {
    name: String,
    stats: Arc<cantle_blkback::Stats>,
    thread: JoinHandle<()>,
}

/// Opens what the disks need and writes them into xenstore.
pub(crate) fn create(platform: &Platform, config: &GuestConfig) -> Result<Vec<Device>, SetupError> {
    let mut devices = Vec::new();
    let mut taken = BTreeMap::new();
    for (index, disk) in (0..).zip(&config.disks) {
        let name = disk.vdev.clone().unwrap_or_else(|| letter_name(index));
        let number = disk_number(&name).ok_or_else(|| SetupError::Disk {
            path: disk.disk.path.clone(),
            why: format!("{name:?} names no virtual disk; xvda to xvdp do"),
        })?;
        if let Some(other) = taken.insert(number, disk.disk.path.clone()) {
            let why = format!("{name} is taken by {}", other.display());
            return Err(SetupError::Disk {
                path: disk.disk.path.clone(),
                why,
            });
        }
        devices.push(create_disk(platform, disk, name, number)?);
    }
    Ok(devices)
}

fn letter_name(index: u32) -> String {
    let letter = u8::try_from(index.min(25)).map_or('z', |n| char::from(b'a' + n));
    format!("xvd{letter}")
}

/// A disk's device number by its name (Xen's `vbd-interface` document): `xvda` is 51712.
fn disk_number(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("xvd")?;
    let mut chars = rest.chars();
    let letter = u32::from(chars.next()?)
        .checked_sub(u32::from('a'))
        .filter(|n| *n < LETTERS)?;
    let partition: u32 = match chars.as_str() {
        "" => 0,
        digits if digits.len() <= 2 && !digits.starts_with('0') => {
            digits.parse().ok().filter(|n| *n < 16)?
        }
        _ => return None,
    };
    Some((XVD_MAJOR << 8) | (letter << 4) | partition)
}

fn create_disk(
    platform: &Platform,
    disk: &DiskConfig,
    name: String,
    number: u32,
) -> Result<Device, SetupError> {
    let refuse = |why| SetupError::Disk {
        path: disk.disk.path.clone(),
        why,
    };
    let cdrom = disk.options.kind == DiskKind::Cdrom;
    let mut spec = disk.disk.clone();
    spec.read_only |= cdrom;
    let opened = Arc::new(cantle_disk::open(&spec).map_err(|e| refuse(chain(&e)))?);
    let client = platform.client()?;
    let id = DeviceId::new("vbd", number, platform.guest, DomId::DOM0);
    let (number, path) = (number.to_string(), spec.path.display().to_string());
    let device_type = if cdrom { "cdrom" } else { "disk" };
    let front = [
        ("virtual-device", number.as_str()),
        ("device-type", device_type),
    ];
    let back = [
        ("params", path.as_str()),
        ("type", "file"),
        ("format", spec.format.name()),
        ("dev", name.as_str()),
        ("mode", if spec.read_only { "r" } else { "w" }),
        ("removable", if cdrom { "1" } else { "0" }),
        ("bootable", "1"),
    ];
    toolstack::create_device(&client, &id, &front, &back).map_err(SetupError::host("xenstore"))?;
    let directory = id.backend_path();
    let backend = cantle_blkback::Backend::with_disk(
        Arc::new(client),
        platform.channels(),
        platform.grants(),
        Arc::clone(opened.disk()),
        id,
        disk.options,
    )
    .map_err(|e| refuse(chain(&e)))?;
    let served = Served {
        control: backend.control(),
        opened,
        spec,
        directory,
        changes_media: cdrom || disk.options.kind == DiskKind::Removable,
    };
    Ok(Device {
        name,
        backend: Box::new(backend),
        served: Box::new(served),
    })
}

/// A number made of a name: FNV-1a over it, in 128 bits. Not secret, only spread out.
pub(crate) fn name_hash(name: &str) -> u128 {
    name.bytes()
        .fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
            (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        })
}

/// An address in Xen's range that stays the same as long as the guest's name does.
fn mac_of(name: &str, index: u32) -> [u8; 6] {
    let [a, b, c, ..] = name_hash(&format!("{name}/{index}")).to_le_bytes();
    [0x00, 0x16, 0x3e, a & 0x7f, b, c]
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

impl Device {
    /// What may be said to it while it is served.
    pub(crate) fn served(&self) -> Served {
        Served::clone(&self.served)
    }

    /// Starts its thread, which serves it until `stop` is readable.
    pub(crate) fn start(self, stop: &EventFd) -> Result<RunningDevice, SetupError> {
        let failed = |error| SetupError::host("a device's thread")(error);
        let stop = stop.try_clone().map_err(failed)?;
        let Self {
            name,
            mut backend,
            served,
        } = self;
        let stats = backend.stats();
        let of_thread = name.clone();
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                // The image stays open and locked for as long as it is served.
                let _served = served;
                if let Err(error) = backend.run(&stop) {
                    let error = chain(&error);
                    tracing::error!(name = of_thread, error, "a disk's back end gave up");
                }
            })
            .map_err(failed)?;
        Ok(RunningDevice {
            name,
            stats,
            thread,
        })
    }
}

impl RunningDevice {
    /// Waits for the thread's end.
    pub(crate) fn join(self) -> EndedDevice {
        join(&self.name, self.thread);
        EndedDevice {
            name: self.name,
            stats: self.stats,
        }
    }
}

/// A disk that is served no longer: what is left are its counters.
pub(crate) struct EndedDevice {
    name: String,
    stats: Arc<cantle_blkback::Stats>,
}

impl EndedDevice {
    /// Adds the disk's counters to the machine's.
    pub(crate) fn count(self, stats: &mut Stats) {
        let s = self.stats.snapshot();
        let counters = named(&[
            ("reads", s.reads),
            ("writes", s.writes),
            ("flushes", s.flushes),
            ("bytes_read", s.sectors_read * 512),
            ("bytes_written", s.sectors_written * 512),
            ("refused", s.refused),
            ("failed", s.failed),
            ("stops", s.stops),
            ("notifications", s.notifications),
            ("passes", s.passes),
        ]);
        stats.disks.insert(self.name, counters);
    }
}

/// Counters with their names.
pub(crate) fn named(counters: &[(&str, u64)]) -> BTreeMap<String, u64> {
    counters
        .iter()
        .map(|(name, n)| ((*name).to_owned(), *n))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_have_the_numbers_that_xen_documents() {
        assert_eq!(disk_number("xvda"), Some(51712));
        assert_eq!(disk_number("xvdb1"), Some(51729));
        assert_eq!(disk_number("xvdp15"), Some(51967));
        for wrong in ["", "xvd", "xvdq", "sda", "xvda16", "xvda01", "xvdaa"] {
            assert_eq!(disk_number(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_address_is_in_xens_range_and_depends_on_the_name() {
        assert_eq!(mac_of("a", 0)[..3], [0x00, 0x16, 0x3e]);
        assert_ne!(mac_of("a", 0), mac_of("b", 0));
        assert_ne!(mac_of("a", 0), mac_of("a", 1));
    }
}
