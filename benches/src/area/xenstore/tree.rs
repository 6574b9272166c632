//! A full host's store: many domains with the nodes that such have.

use anyhow::Result;

use super::daemons::Daemon;
use super::load::{converse, dial};
use super::script;

/// Nodes of a domain, directories included.
pub(super) const NODES: usize = 60;

/// The leaves' directories: with the home itself, these and their parents, sixty nodes.
const DIRECTORIES: [&str; 5] = [
    "device/vbd/51712",
    "device/vif/0",
    "memory",
    "control",
    "data",
];
const LEAVES: usize = 51;

/// A leaf of a domain; any number is one.
pub(super) fn path(domain: usize, leaf: usize) -> String {
    let leaf = leaf % LEAVES;
    let directory = DIRECTORIES[leaf % DIRECTORIES.len()];
    format!("/local/domain/{}/{directory}/key-{leaf:04}", domain + 1)
}

/// Makes so many domains' nodes.
pub(super) fn plant(daemon: &Daemon, domains: usize) -> Result<()> {
    let stream = dial(daemon.socket())?;
    for domain in 0..domains {
        let mut requests = Vec::new();
        for leaf in 0..LEAVES {
            requests.extend(script::write(&path(domain, leaf))?);
        }
        converse(&stream, &requests, LEAVES)?;
    }
    Ok(())
}

/// Bytes of the names and values of a domain's nodes.
pub(super) fn payload(domain: usize) -> usize {
    let mut seen = std::collections::HashSet::new();
    for leaf in 0..LEAVES {
        let path = path(domain, leaf);
        let mut end = "/local/domain".len();
        while end < path.len() {
            end = path[end + 1..]
                .find('/')
                .map_or(path.len(), |more| end + 1 + more);
            seen.insert(path[..end].to_owned());
        }
    }
    assert_eq!(seen.len(), NODES, "what is said above");
    let names = seen
        .iter()
        .map(|path| path.rsplit('/').next().unwrap_or_default().len());
    // A leaf's value is of 16 bytes.
    names.sum::<usize>() + LEAVES * 16
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_domain_has_sixty_nodes() {
        assert!(super::payload(7) > 60 * 4);
    }
}
