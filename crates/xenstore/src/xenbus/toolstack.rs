//! What a toolstack writes so that domains and devices exist.

use cantle_abi::io::xenbus::XenbusState;
use cantle_abi::{DomId, Gfn, Port};

use super::{DeviceId, domain_path, error_directory};
use crate::prelude::*;
use crate::{Access, Error, Perms, TxId};

/// What a new domain's home says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainSpec {
    /// Its number.
    pub domid: DomId,
    /// Its name.
    pub name: String,
    /// Its memory in KiB: what `memory/target` and `memory/static-max` tell the guest's balloon driver.
    pub memory_kib: u64,
    /// How many virtual CPUs it has; all of them are `online`.
    pub vcpus: u32,
    /// Its xenstore page and port.
    pub store: Option<(Gfn, Port)>,
    /// Its console page and port.
    pub console: Option<(Gfn, Port)>,
}

/// Writes a domain's home, in one transaction: what only the toolstack may change is readable by the domain, and the
/// places where it talks to the toolstack (`data`, `control/shutdown`, `device` and so on) are its own.
///
/// # Errors
///
/// What the store answered.
pub fn create_domain(client: &dyn Client, spec: &DomainSpec) -> Result<(), Error> {
    let home = domain_path(spec.domid);
    let readable = Perms::new(DomId::DOM0, Access::None).and(spec.domid, Access::Read);
    let own = Perms::new(spec.domid, Access::None);
    client.transact(|tx| {
        client.rm_if_there(tx, &home)?;
        make_dir(client, tx, &home, &readable)?;
        for (key, value) in told(spec) {
            client.write(tx, &format!("{home}/{key}"), value.as_bytes())?;
        }
        for dir in OWN_DIRS {
            make_dir(client, tx, &format!("{home}/{dir}"), &own)?;
        }
        Ok(())
    })
}

/// Nodes of a domain's home that are the domain's own.
const OWN_DIRS: [&str; 10] = [
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
    "control/shutdown",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "control/sysrq",
];

/// Keys of a domain's home that it may only read.
fn told(spec: &DomainSpec) -> Vec<(String, String)> {
    let memory = spec.memory_kib.to_string();
    let mut keys: Vec<(String, String)> = [
        ("name", spec.name.as_str()),
        ("domid", &spec.domid.to_string()),
        ("memory/static-max", &memory),
        ("memory/target", &memory),
        ("memory/videoram", "0"),
        ("control/platform-feature-multiprocessor-suspend", "1"),
        ("control/platform-feature-xs_reset_watches", "1"),
        ("device", ""),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    for cpu in 0..spec.vcpus {
        keys.push((format!("cpu/{cpu}/availability"), "online".to_owned()));
    }
    for (name, page) in [("store", spec.store), ("console", spec.console)] {
        if let Some((gfn, port)) = page {
            keys.push((format!("{name}/ring-ref"), gfn.to_string()));
            keys.push((format!("{name}/port"), port.to_string()));
        }
    }
    if spec.console.is_some() {
        keys.push(("console/type".to_owned(), "cantle".to_owned()));
        keys.push(("console/limit".to_owned(), "1048576".to_owned()));
    }
    keys
}

/// Removes a domain's home and everything below it.
///
/// # Errors
///
/// What the store answered.
pub fn destroy_domain(client: &dyn Client, domid: DomId) -> Result<(), Error> {
    client.rm_if_there(TxId::NONE, &domain_path(domid))
}

/// Writes a device's two directories, in one transaction: the front end's belongs to the front end and is readable by the
/// back end; the back end's the other way round. `front_keys` and `back_keys` are added to the usual ones; what was there
/// before is gone.
///
/// # Errors
///
/// What the store answered.
pub fn create_device(
    client: &dyn Client,
    id: &DeviceId,
    front_keys: &[(&str, &str)],
    back_keys: &[(&str, &str)],
) -> Result<(), Error> {
    let (front, back) = (id.frontend_path(), id.backend_path());
    let front_perms = Perms::new(id.frontend, Access::None).and(id.backend, Access::Read);
    let back_perms = Perms::new(id.backend, Access::None).and(id.frontend, Access::Read);
    let initialising = XenbusState::INITIALISING.0.to_string();
    let (front_id, back_id) = (id.frontend.to_string(), id.backend.to_string());
    client.transact(|tx| {
        client.rm_if_there(tx, &front)?;
        client.rm_if_there(tx, &back)?;
        // The back end first: a front end that sees its directory finds the other one.
        make_dir(client, tx, &back, &back_perms)?;
        let usual = [
            ("frontend", front.as_str()),
            ("frontend-id", front_id.as_str()),
            ("online", "1"),
            ("state", initialising.as_str()),
        ];
        for (key, value) in usual.iter().chain(back_keys) {
            client.write(tx, &format!("{back}/{key}"), value.as_bytes())?;
        }
        make_dir(client, tx, &front, &front_perms)?;
        let usual = [
            ("backend", back.as_str()),
            ("backend-id", back_id.as_str()),
            ("state", initialising.as_str()),
        ];
        for (key, value) in usual.iter().chain(front_keys) {
            client.write(tx, &format!("{front}/{key}"), value.as_bytes())?;
        }
        Ok(())
    })
}

/// Asks for a device's orderly removal: `online` is 0 and the back end's state is `Closing`. When the back end has
/// reached `Closed`, [`destroy_device`] takes the directories away: [`Removal`](super::Removal) does all of it.
///
/// # Errors
///
/// `ENOENT` where there is no such device; else what the store answered.
pub fn remove_device(client: &dyn Client, id: &DeviceId) -> Result<(), Error> {
    let back = id.backend_path();
    client.transact(|tx| {
        client.read(tx, &format!("{back}/state"))?;
        client.write(tx, &format!("{back}/online"), b"0")?;
        let closing = XenbusState::CLOSING.0.to_string();
        client.write(tx, &format!("{back}/state"), closing.as_bytes())
    })
}

/// Takes a device's directories away, whatever its state, and what its ends have said of their failures. Which directories these are
/// is by the [`DeviceId`] alone: what a guest has written into its own changes nothing (XSA-175, XSA-178).
///
/// # Errors
///
/// What the store answered.
pub fn destroy_device(client: &dyn Client, id: &DeviceId) -> Result<(), Error> {
    client.transact(|tx| {
        for path in [id.frontend_path(), id.backend_path()] {
            if let Some(errors) = error_directory(&path) {
                client.rm_if_there(tx, &errors)?;
            }
            client.rm_if_there(tx, &path)?;
        }
        Ok(())
    })
}

fn make_dir(client: &dyn Client, tx: TxId, path: &str, perms: &Perms) -> Result<(), Error> {
    client.mkdir(tx, path)?;
    client.set_perms(tx, path, perms)
}
