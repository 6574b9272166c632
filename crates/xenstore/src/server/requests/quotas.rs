//! `XS_GET_QUOTA` and `XS_SET_QUOTA`: the limits that new domains get, and those of one domain.

use std::sync::Arc;

use cantle_abi::{DomId, Errno};

use super::{Reply, number};
use crate::limits::Limits;
use crate::perms::parse_domid;
use crate::server::Server;

impl Server {
    /// Without arguments, the names of all values, with a blank between; with a name, the value for new domains; with a
    /// domain's number before it, that domain's.
    pub(super) fn get_quota(&self, payload: &[u8]) -> Result<Reply, Errno> {
        let words = words(payload)?;
        let (limits, name) = match *words.as_slice() {
            [] => {
                let names: Vec<_> = self.quotas.defaults.named().map(|(name, _)| name).collect();
                return Ok(Reply::text(&names.join(" ")));
            }
            [name] => (&*self.quotas.defaults, name),
            [domid, name] => {
                let budget = self.quotas.budgets.get(&real_domid(domid)?);
                (&*budget.ok_or(Errno::ENOENT)?.limits, name)
            }
            _ => return Err(Errno::EINVAL),
        };
        let value = limits.named_value(name).ok_or(Errno::EINVAL)?;
        Ok(Reply::text(&value.to_string()))
    }

    /// Sets the value for new domains, or one domain's. A domain may be given its own before it is introduced; it keeps them
    /// until it is released.
    pub(super) fn set_quota(&mut self, payload: &[u8]) -> Result<Reply, Errno> {
        match *words(payload)?.as_slice() {
            [name, value] => {
                set(&mut self.quotas.defaults, name, value)?;
                self.note_quotas();
            }
            [domid, name, value] => {
                let domid = real_domid(domid)?;
                let mut limits = Arc::clone(&self.quotas.budget(domid).limits);
                let result = set(&mut limits, name, value);
                if result.is_ok() {
                    let budget = self.quotas.budget(domid);
                    budget.limits = limits;
                    budget.special = true;
                    self.note_domain(domid);
                }
                self.tidy(domid);
                result?;
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(Reply::Done)
    }
}

/// The strings of a payload, each with its NUL; none where there is nothing, or nothing but a NUL.
fn words(payload: &[u8]) -> Result<Vec<&str>, Errno> {
    if matches!(payload, b"" | b"\0") {
        return Ok(Vec::new());
    }
    let text = core::str::from_utf8(payload).map_err(|_| Errno::EINVAL)?;
    let text = text.strip_suffix('\0').ok_or(Errno::EINVAL)?;
    Ok(text.split('\0').collect())
}

fn real_domid(digits: &str) -> Result<DomId, Errno> {
    parse_domid(digits.as_bytes())
        .ok()
        .filter(|domid| domid.is_real())
        .ok_or(Errno::EINVAL)
}

fn set(limits: &mut Arc<Limits>, name: &str, value: &str) -> Result<(), Errno> {
    let value = u32::try_from(number(value.as_bytes())?).map_err(|_| Errno::EINVAL)?;
    let mut changed = Limits::clone(limits);
    *changed.named_mut(name).ok_or(Errno::EINVAL)? = value;
    *limits = Arc::new(changed);
    Ok(())
}
