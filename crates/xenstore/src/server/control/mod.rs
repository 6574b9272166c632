//! What an operator may ask of the server itself.

mod check;

use cantle_abi::io::xs_wire::XENSTORE_PAYLOAD_MAX;
use cantle_abi::{DomId, Errno};

use super::requests::Reply;
use super::{HostCommand, Server};
use crate::perms::parse_domid;

const HELP: &str = "check\nhelp\nlive-update\nlogfile\nmemreport\nprint\nstats";

impl Server {
    /// `XS_CONTROL`: a command and its arguments, each with its NUL; the answer is text.
    pub(super) fn control(&mut self, payload: &[u8]) -> Result<Reply, Errno> {
        let payload = payload.strip_suffix(b"\0").unwrap_or(payload);
        let text = core::str::from_utf8(payload).map_err(|_| Errno::EINVAL)?;
        let words: Vec<&str> = text.split('\0').collect();
        let answer = match *words.as_slice() {
            [""] | ["help"] => HELP.to_owned(),
            ["check"] => self.check(),
            ["stats"] => return Ok(self.stats_from(DomId::DOM0)),
            ["stats", first] => return Ok(self.stats_from(parse_domid(first.as_bytes())?)),
            ["live-update", ref words @ ..] => {
                let words = words.iter().copied().map(str::to_owned).collect();
                return Ok(Reply::Later(HostCommand::LiveUpdate(words)));
            }
            ["logfile", file] => return Ok(Reply::Later(HostCommand::LogFile(file.to_owned()))),
            ["memreport"] => return Ok(Reply::Later(HostCommand::MemReport(None))),
            ["memreport", file] => {
                return Ok(Reply::Later(HostCommand::MemReport(Some(file.to_owned()))));
            }
            ["print", line] => return Ok(Reply::Later(HostCommand::Print(line.to_owned()))),
            _ => return Err(Errno::EINVAL),
        };
        Ok(Reply::Bytes([answer.as_bytes(), b"\0"].concat()))
    }

    /// The lines without a NUL, so that an empty answer is empty.
    fn stats_from(&self, first: DomId) -> Reply {
        Reply::Bytes(self.stats_text(first, XENSTORE_PAYLOAD_MAX).into_bytes())
    }
}
