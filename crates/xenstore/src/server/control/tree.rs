//! `tree`: the whole store as text, in pages that fit in a message.

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::XENSTORE_PAYLOAD_MAX;

use crate::path::{components, resolve};
use crate::server::Server;
use crate::store::NodeRef;

/// A page has no more lines than this; none is shorter than 8 bytes.
const LINES_MAX: usize = XENSTORE_PAYLOAD_MAX / 8;

/// A node whose turn is to come, with its path.
type Waiting<'t> = (String, NodeRef<'t>);

impl Server {
    /// A line for each node at and below a path, parents first and children in order: path, permissions, and the value,
    /// escaped. As many as fit in a message; `after` is the path of the last line that the caller has, which may have gone
    /// meanwhile. Nothing where there is no more.
    ///
    /// A value that is too long for a page of its own is cut, and ends in dots instead of a quotation mark.
    pub(super) fn tree(&self, path: &str, after: Option<&str>) -> Result<String, Errno> {
        let path = resolve(path.as_bytes(), "")?.path;
        let top = self.store.tree.get(&path).ok_or(Errno::ENOENT)?;
        let mut waiting = Vec::new();
        match after {
            None => waiting.push((path.into_owned(), top)),
            Some(after) => {
                let after = resolve(after.as_bytes(), "")?.path;
                seek(&mut waiting, &path, top, &after)?;
            }
        }
        let mut page = String::new();
        while let Some((path, node)) = waiting.pop() {
            let mut line = line(&path, &node);
            if page.is_empty() && line.len() > XENSTORE_PAYLOAD_MAX {
                // All of it is ASCII.
                line.truncate(XENSTORE_PAYLOAD_MAX - 4);
                line.push_str("...\n");
            }
            if page.len() + line.len() > XENSTORE_PAYLOAD_MAX {
                break;
            }
            page.push_str(&line);
            push_children(&mut waiting, &path, &node, None);
        }
        Ok(page)
    }
}

/// What comes after a path, the nearest last.
fn seek<'t>(
    waiting: &mut Vec<Waiting<'t>>,
    top: &str,
    mut node: NodeRef<'t>,
    after: &str,
) -> Result<(), Errno> {
    let mut path = top.to_owned();
    let mut below = components(after);
    if !components(top).all(|name| below.next() == Some(name)) {
        return Err(Errno::EINVAL);
    }
    for name in below {
        push_children(waiting, &path, &node, Some(name));
        let Some(child) = node.child(name) else {
            return Ok(());
        };
        path = join(&path, name);
        node = child;
    }
    push_children(waiting, &path, &node, None);
    Ok(())
}

/// The children, those after a name where one is given, the first of them last. No more of them than a page may need.
fn push_children<'t>(
    waiting: &mut Vec<Waiting<'t>>,
    path: &str,
    node: &NodeRef<'t>,
    after: Option<&str>,
) {
    let children = node
        .children()
        .skip_while(|(name, _)| after.is_some_and(|after| *name <= after))
        .take(LINES_MAX)
        .map(|(name, child)| (join(path, name), child));
    let from = waiting.len();
    waiting.extend(children);
    if let Some(new) = waiting.get_mut(from..) {
        new.reverse();
    }
}

fn join(path: &str, name: &str) -> String {
    let base = if path == "/" { "" } else { path };
    format!("{base}/{name}")
}

fn line(path: &str, node: &NodeRef<'_>) -> String {
    let perms = String::from_utf8(node.perms().emit()).unwrap_or_default();
    let perms = perms.trim_end_matches('\0').replace('\0', ",");
    format!("{path} ({perms}) = \"{}\"\n", node.value().escape_ascii())
}
