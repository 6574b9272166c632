//! The tree, as xenstore-ls prints it.

use std::io::Write as _;

use anyhow::{Context, Result};
use cantle_xenstore::client::{Request, SocketClient};
use cantle_xenstore::prelude::*;
use cantle_xenstore::{Perms, TxId};
use rustix::termios::tcgetwinsize;

use crate::cli::Ls;
use crate::escape::escape;
use crate::output::Output;

/// The width where there is no terminal.
const WIDTH: usize = 80;
/// The column where permissions begin, where what is before them is short enough.
const PERMS_COLUMN: usize = 60;
/// What a name leaves room for: ` = "..."`.
const TAG: usize = 8;
/// The longest path that is asked for.
const PATH_MAX: usize = 3072 + 1024;
/// How many children are looked at in one round trip.
const AT_ONCE: usize = 256;

pub(crate) fn ls(client: &SocketClient, out: &mut Output, args: &Ls) -> Result<u8> {
    let tree = Tree {
        client,
        layout: Layout::new(args),
    };
    for path in &args.paths {
        let names = client.directory(TxId::NONE, path);
        let names = names
            .map_err(|error| error.errno)
            .with_context(|| format!("could not list path {path}"))?;
        tree.print(out, path, names)?;
    }
    Ok(0)
}

struct Tree<'a> {
    client: &'a SocketClient,
    layout: Layout,
}

/// A node whose children are still to be printed.
struct Level {
    path: String,
    children: std::vec::IntoIter<Child>,
}

struct Child {
    name: String,
    /// `None` where it cannot be read.
    value: Option<Vec<u8>>,
    perms: Option<Perms>,
}

impl Tree<'_> {
    /// Prints all below `path`, whose children are `names`. Levels are kept in a list: the store's depth is others' business.
    fn print(&self, out: &mut Output, path: &str, names: Vec<String>) -> Result<()> {
        let mut levels = vec![self.level(path.to_owned(), names)];
        while let Some(level) = levels.last_mut() {
            let Some(child) = level.children.next() else {
                levels.pop();
                continue;
            };
            let path = join(&level.path, &child.name);
            let depth = levels.len() - 1;
            out.write_all(self.layout.line(&path, depth, &child).as_bytes())?;
            match self.client.directory(TxId::NONE, &path) {
                Ok(names) if names.is_empty() => {}
                Ok(names) => levels.push(self.level(path, names)),
                // It went away meanwhile.
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    let said = format!("could not list path {path}");
                    return Err(anyhow::Error::from(error.errno).context(said));
                }
            }
        }
        Ok(())
    }

    /// Looks at the children of a node, many at a time.
    fn level(&self, path: String, names: Vec<String>) -> Level {
        let mut children = Vec::with_capacity(names.len());
        for names in names.chunks(AT_ONCE) {
            let paths: Vec<String> = names.iter().map(|name| join(&path, name)).collect();
            let mut requests: Vec<_> = paths.iter().map(|path| Request::read(path)).collect();
            if self.layout.perms {
                requests.extend(paths.iter().map(|path| Request::get_perms(path)));
            }
            let mut replies = self.client.request_all(TxId::NONE, &requests).into_iter();
            let values: Vec<_> = replies.by_ref().take(names.len()).collect();
            let mut perms = replies.map(|list| Perms::parse(&list.ok()?).ok());
            children.extend(names.iter().zip(values).map(|(name, value)| Child {
                name: name.clone(),
                value: value.ok(),
                perms: perms.next().flatten(),
            }));
        }
        Level {
            path,
            children: children.into_iter(),
        }
    }
}

fn join(path: &str, name: &str) -> String {
    let slash = if path.ends_with('/') { "" } else { "/" };
    let mut joined = format!("{path}{slash}{name}");
    joined.truncate(PATH_MAX);
    joined
}

/// How lines look.
struct Layout {
    flat: bool,
    perms: bool,
    /// `None` is without end.
    width: Option<usize>,
}

impl Layout {
    fn new(args: &Ls) -> Self {
        let terminal = tcgetwinsize(std::io::stdout()).ok();
        let width = terminal.map_or(WIDTH, |size| usize::from(size.ws_col).saturating_sub(2));
        Self {
            flat: args.flat,
            perms: args.prefix,
            width: (!args.flat).then_some(width),
        }
    }

    /// One node's line.
    fn line(&self, path: &str, depth: usize, child: &Child) -> String {
        let mut line = String::new();
        // The columns that count for the width: paths do not.
        let mut used = 0;
        if self.flat {
            line.push_str(path);
        } else {
            let name = cut(&child.name, self.room(depth));
            line.push_str(&" ".repeat(depth));
            line.push_str(name);
            used = depth + name.len();
        }
        match &child.value {
            None => line.push_str(":\n"),
            Some(value) => {
                let text = escape(value);
                if self
                    .width
                    .is_some_and(|width| width < used + value.len() + TAG)
                {
                    line.push_str(&format!(" = \"{}\\...\"", cut(&text, self.room(used))));
                } else {
                    line.push_str(&format!(" = \"{text}\""));
                    used += 5 + text.len();
                    if self.perms {
                        line.push(' ');
                        let column = self.width.map_or(0, |width| width.min(PERMS_COLUMN));
                        let dots = (used + 1..column).map(|at| if at % 2 == 1 { '.' } else { ' ' });
                        line.extend(dots);
                    }
                }
            }
        }
        match &child.perms {
            Some(perms) => line.push_str(&format!("  ({perms})")),
            None if self.perms => {
                eprintln!("cantle-xs: could not access permissions for {}", child.name);
            }
            None => {}
        }
        line.push('\n');
        line
    }

    /// How much of a text there is room for after `used` columns; `None` is all of it, also where there is no room at all: so
    /// does xenstore-ls.
    fn room(&self, used: usize) -> Option<usize> {
        self.width?.checked_sub(TAG)?.checked_sub(used)
    }
}

/// As much of a text as there is room for. It is ASCII: a name by the protocol, or escaped.
fn cut(text: &str, room: Option<usize>) -> &str {
    room.and_then(|room| text.get(..room)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use cantle_abi::DomId;
    use cantle_xenstore::Access;

    use super::*;

    fn line(flat: bool, depth: usize, name: &str, value: &str) -> String {
        let layout = Layout {
            flat,
            perms: true,
            width: (!flat).then_some(WIDTH),
        };
        let child = Child {
            name: name.to_owned(),
            value: Some(value.as_bytes().to_vec()),
            perms: Some(Perms::new(DomId(5), Access::Read)),
        };
        layout.line(&format!("/path/{name}"), depth, &child)
    }

    #[test]
    fn lines_are_filled_up_to_the_permissions() {
        let short = line(false, 1, "name", "value");
        let dots = " . . . . . . . . . . . . . . . . . . . . . .";
        assert_eq!(short, format!(" name = \"value\" {dots}  (r5)\n"));
        assert_eq!(
            line(true, 1, "name", "value"),
            "/path/name = \"value\"   (r5)\n"
        );
    }

    #[test]
    fn long_values_are_cut() {
        let cut = line(false, 0, "n", &"x".repeat(80));
        assert_eq!(cut, format!("n = \"{}\\...\"  (r5)\n", "x".repeat(71)));
        let deep = line(false, 90, "n", "value");
        assert!(deep.contains("n = \"value\\...\""), "{deep}");
    }
}
