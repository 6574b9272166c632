//! A guest from a file in `xl.cfg`'s syntax.
//!
//! Every key is honoured or refused, with the file, the line and the key in the message: a guest never runs with a
//! setting that was read and dropped.

pub(crate) mod disk;
pub(crate) mod net;
pub(crate) mod spec;
pub(crate) mod switch;
mod syntax;

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cantle_vmm_core::net::SwitchConfig;
use cantle_vmm_core::{
    DiskConfig, GrantConfig, GuestConfig, GuestKind, MAX_EVENT_CHANNELS, TransportChoice,
};

use syntax::{Atom, Setting, SyntaxError, Value};

/// What is done when a guest has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// It is gone.
    Destroy,
    /// It starts anew.
    Restart,
}

/// A guest and what follows its end.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// All but its interfaces.
    pub(crate) config: GuestConfig,
    pub(crate) nets: Vec<net::Net>,
    /// Switches that are described with it.
    pub(crate) switches: Vec<SwitchConfig>,
    /// A file for what it prints on its console.
    pub(crate) console: Option<PathBuf>,
    pub(crate) on_poweroff: Action,
    pub(crate) on_reboot: Action,
    pub(crate) on_crash: Action,
}

/// What is wrong, and in which line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {message}", file.display())]
struct FileError {
    file: PathBuf,
    line: usize,
    message: String,
}

/// Reads a guest's file.
pub(crate) fn read(file: &Path) -> Result<Guest> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    parse(&text).map_err(|SyntaxError { line, message }| {
        FileError {
            file: file.to_owned(),
            line,
            message,
        }
        .into()
    })
}

/// A guest from a file's text.
fn parse(text: &str) -> Result<Guest, SyntaxError> {
    let mut keys = Keys::new(syntax::parse(text)?)?;
    let guest = guest(&mut keys)?;
    keys.refuse_rest()?;
    Ok(guest)
}

fn guest(keys: &mut Keys) -> Result<Guest, SyntaxError> {
    let kind = kind(keys)?;
    let memory = keys.number("memory", |mib| {
        mib.checked_mul(1 << 20)
            .ok_or_else(|| "more memory than there can be".to_owned())
    })?;
    let memory = memory.unwrap_or(512 << 20);
    keys.number("maxmem", |mib| match mib.checked_mul(1 << 20) {
        Some(most) if most == memory => Ok(()),
        _ => Err("maxmem other than memory is not supported".to_owned()),
    })?;
    let vcpus = keys.number("vcpus", |n| {
        u32::try_from(n).map_err(|_| "too many vcpus".to_owned())
    })?;
    let vcpus = vcpus.unwrap_or(1);
    keys.number("maxvcpus", |n| match n {
        n if n == u64::from(vcpus) => Ok(()),
        _ => Err("maxvcpus other than vcpus is not supported".to_owned()),
    })?;
    let max_event_channels = keys.number("max_event_channels", |n| {
        u32::try_from(n).map_err(|_| "too many event channels".to_owned())
    })?;
    let max_event_channels = max_event_channels.unwrap_or(MAX_EVENT_CHANNELS);
    let max_event_rate = keys.number("max_event_rate", |n| {
        let rate = u32::try_from(n).ok().and_then(NonZeroU32::new);
        rate.ok_or_else(|| "not a number of events a second".to_owned())
    })?;
    let action =
        |keys: &mut Keys, key, default| Ok(keys.text(key, spec::action)?.unwrap_or(default));
    Ok(Guest {
        on_poweroff: action(keys, "on_poweroff", Action::Destroy)?,
        on_reboot: action(keys, "on_reboot", Action::Restart)?,
        on_crash: action(keys, "on_crash", Action::Destroy)?,
        nets: keys.list("vif", net::xl)?,
        switches: keys.list("switch", switch::option)?,
        console: keys.text("console", spec::path)?,
        config: GuestConfig {
            name: keys.required_text("name", spec::name)?,
            kind,
            kernel: keys.required_text("kernel", spec::path)?,
            initrd: keys.text("ramdisk", spec::path)?,
            cmdline: cmdline(keys)?,
            memory,
            vcpus,
            max_event_channels,
            max_event_rate,
            disks: keys.list::<DiskConfig>("disk", disk::xl)?,
            nets: Vec::new(),
            grants: grants(keys)?,
            transport: TransportChoice::Auto,
            xenstore_socket: keys.text("xenstore_socket", spec::path)?,
        },
    })
}

/// `type`, or else the older `builder`.
fn kind(keys: &mut Keys) -> Result<GuestKind, SyntaxError> {
    let kind = keys.text("type", |kind| match kind {
        "pvh" => Ok(GuestKind::Pvh),
        "pv" => Ok(GuestKind::Pv),
        _ => Err(format!(
            "type {kind:?} is not supported, only \"pvh\" and \"pv\""
        )),
    })?;
    let has_type = kind.is_some();
    let builder = keys.text("builder", |builder| match builder {
        _ if has_type => Err("is said by type, which is given too".to_owned()),
        "generic" | "linux" => Ok(GuestKind::Pv),
        _ => Err(format!(
            "builder {builder:?} is not supported, only \"generic\", which is type \"pv\""
        )),
    })?;
    Ok(kind.or(builder).unwrap_or_default())
}

/// The grant table's limits.
fn grants(keys: &mut Keys) -> Result<GrantConfig, SyntaxError> {
    let mut limit = |key, limits, default| {
        let given = keys.number(key, |n| spec::within(n, &limits))?;
        Ok(given.unwrap_or(default))
    };
    let GrantConfig {
        max_grant_version: version,
        max_grant_frames: frames,
        max_maptrack_frames: maptrack,
    } = GrantConfig::default();
    Ok(GrantConfig {
        max_grant_version: limit("max_grant_version", GrantConfig::VERSIONS, version)?,
        max_grant_frames: limit("max_grant_frames", GrantConfig::FRAMES, frames)?,
        max_maptrack_frames: limit(
            "max_maptrack_frames",
            GrantConfig::MAPTRACK_FRAMES,
            maptrack,
        )?,
    })
}

/// `cmdline`, or else `root` and `extra`.
fn cmdline(keys: &mut Keys) -> Result<String, SyntaxError> {
    let text = |text: &str| Ok(text.to_owned());
    let Some(line) = keys.text("cmdline", text)? else {
        let root = keys.text("root", |root| Ok(format!("root={root}")))?;
        let extra = keys.text("extra", text)?;
        return Ok([root, extra]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" "));
    };
    let instead = |_: &str| Err::<(), _>("is part of cmdline, which is given too".to_owned());
    keys.text("root", instead)?;
    keys.text("extra", instead)?;
    Ok(line)
}

/// The file's settings, each taken out when it is used.
struct Keys {
    settings: BTreeMap<String, Setting>,
    /// The file's last line, for what is missing.
    end: usize,
}

impl Keys {
    fn new(list: Vec<Setting>) -> Result<Self, SyntaxError> {
        let mut settings = BTreeMap::<String, Setting>::new();
        let end = list.last().map_or(1, |setting| setting.line);
        for setting in list {
            if let Some(first) = settings.get(&setting.key) {
                let message = format!("{} is set already, in line {}", setting.key, first.line);
                return Err(SyntaxError {
                    line: setting.line,
                    message,
                });
            }
            settings.insert(setting.key.clone(), setting);
        }
        Ok(Self { settings, end })
    }

    /// What `read` makes of a key's text.
    fn text<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, SyntaxError> {
        self.take(key, |value| match value {
            Value::Atom(Atom::Text(text)) => read(text),
            _ => Err("a text in quotes is expected".to_owned()),
        })
    }

    fn required_text<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, SyntaxError> {
        let end = self.end;
        self.text(key, read)?.ok_or_else(|| SyntaxError {
            line: end,
            message: format!("{key} is missing"),
        })
    }

    /// What `read` makes of a key's number, which may be in quotes.
    fn number<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(u64) -> Result<T, String>,
    ) -> Result<Option<T>, SyntaxError> {
        let not_one = || "a number is expected".to_owned();
        self.take(key, |value| match value {
            Value::Atom(Atom::Number(number)) => read(*number),
            Value::Atom(Atom::Text(text)) => read(text.parse().map_err(|_| not_one())?),
            Value::List(_) => Err(not_one()),
        })
    }

    /// What `read` makes of each text in a key's list.
    fn list<T>(
        &mut self,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, SyntaxError> {
        let Some(setting) = self.settings.remove(key) else {
            return Ok(Vec::new());
        };
        let fail = |line, message: String| SyntaxError {
            line,
            message: format!("{key}: {message}"),
        };
        let Value::List(items) = setting.value else {
            return Err(fail(
                setting.line,
                "a list is expected, in brackets".to_owned(),
            ));
        };
        items
            .into_iter()
            .map(|(line, atom)| match atom {
                Atom::Text(text) => read(&text).map_err(|message| fail(line, message)),
                Atom::Number(_) => Err(fail(line, "texts in quotes are expected".to_owned())),
            })
            .collect()
    }

    fn take<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Result<Option<T>, SyntaxError> {
        let Some(setting) = self.settings.remove(key) else {
            return Ok(None);
        };
        read(&setting.value)
            .map(Some)
            .map_err(|message| SyntaxError {
                line: setting.line,
                message: format!("{key}: {message}"),
            })
    }

    /// Whatever is left is nothing we know.
    fn refuse_rest(self) -> Result<(), SyntaxError> {
        match self
            .settings
            .into_values()
            .min_by_key(|setting| setting.line)
        {
            None => Ok(()),
            Some(Setting { key, line, .. }) => Err(SyntaxError {
                line,
                message: format!("unknown key {key:?}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
