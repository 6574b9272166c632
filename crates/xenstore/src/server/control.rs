//! What an operator may ask of the server itself.

use cantle_abi::Errno;

use super::Server;
use super::requests::Reply;

const HELP: &str = "check\nhelp";

impl Server {
    /// `XS_CONTROL`: a command and its arguments, each with its NUL; the answer is text.
    pub(super) fn control(&mut self, payload: &[u8]) -> Result<Reply, Errno> {
        let command = payload.split(|byte| *byte == 0).next().unwrap_or_default();
        let answer = match command {
            b"" | b"help" => HELP.to_owned(),
            b"check" => self.check(),
            _ => return Err(Errno::EINVAL),
        };
        Ok(Reply::Bytes([answer.as_bytes(), b"\0"].concat()))
    }

    /// Compares what is counted with what is there.
    fn check(&self) -> String {
        let mut faults: Vec<String> = self
            .store
            .audit()
            .into_iter()
            .map(|domain| format!("nodes of domain {domain} are miscounted"))
            .collect();
        let by_connection: usize = self
            .connections
            .values()
            .map(|connection| connection.watches.len())
            .sum();
        if by_connection != self.watches.len() {
            faults.push("watches are miscounted".to_owned());
        }
        for (domid, domain) in &self.domains {
            let of_domain = || {
                self.connections
                    .values()
                    .filter(|connection| connection.actor.domid == *domid)
            };
            let watches: usize = of_domain().map(|connection| connection.watches.len()).sum();
            let open: usize = of_domain()
                .map(|connection| connection.transactions.len())
                .sum();
            let counted = (u32::try_from(watches), u32::try_from(open));
            if counted != (Ok(domain.watches), Ok(domain.transactions)) {
                faults.push(format!(
                    "watches or transactions of domain {domid} are miscounted"
                ));
            }
        }
        if faults.is_empty() {
            "OK".to_owned()
        } else {
            faults.truncate(32);
            faults.join("\n")
        }
    }
}
