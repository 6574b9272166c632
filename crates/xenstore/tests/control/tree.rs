//! The whole store as text.

use cantle_abi::io::xs_wire::{XS_CONTROL, XS_RM, XS_SET_PERMS, XS_WRITE};
use cantle_xenstore::server::{ConnId, Server};

use crate::support::{ask, table, world};

/// All pages of the tree below a path.
fn pages(server: &mut Server, dom0: ConnId, path: &str) -> Vec<String> {
    let mut pages = Vec::new();
    let mut request = format!("tree\0{path}\0");
    loop {
        let page = ask(server, dom0, XS_CONTROL, request.as_bytes());
        assert!(page.len() <= 4096);
        let Some(last) = page.lines().last() else {
            return pages;
        };
        let (after, _) = last.split_once(' ').unwrap();
        request = format!("tree\0{path}\0{after}\0");
        pages.push(page);
    }
}

#[test]
fn nodes_with_permissions_and_values() {
    let (mut server, dom0, _) = world();
    let s = &mut server;
    let writes = [
        ("/a/b|two\nlines \"q\" \u{7f}", "OK|"),
        ("/a-b|", "OK|"),
        ("/a/c|3", "OK|"),
    ];
    table(s, dom0, XS_WRITE, &writes);
    table(s, dom0, XS_SET_PERMS, &[("/a/c|n5|r7|b0|", "OK|")]);
    let whole = "\
/ (n0) = \"\"
/a (n0) = \"\"
/a/b (n0) = \"two\\nlines \\\"q\\\" \\x7f\"
/a/c (n5,r7,b0) = \"3\"
/a-b (n0) = \"\"
/local (n0) = \"\"
/local/domain (n0) = \"\"
/local/domain/5 (n5) = \"\"
/tool (n0) = \"\"
/tool/xenstored (n0) = \"\"
";
    let rows = [
        ("tree|", whole),
        ("tree|/|", whole),
        ("tree|/a/c|", "/a/c (n5,r7,b0) = \"3\"\n"),
        ("tree|/a|/a/b|", "/a/c (n5,r7,b0) = \"3\"\n"),
        // Whether what came last is still there does not matter.
        ("tree|/a|/a/bb/x|", "/a/c (n5,r7,b0) = \"3\"\n"),
        ("tree|/a|/a/c|", ""),
        ("tree|/a|/a-b|", "!EINVAL"),
        ("tree|/a|/|", "!EINVAL"),
        ("tree|/none|", "!ENOENT"),
        ("tree|//|", "!EINVAL"),
        ("tree|/a|/a/|", "!EINVAL"),
        ("tree|/a|/a/b|/x|", "!EINVAL"),
    ];
    table(s, dom0, XS_CONTROL, &rows);
}

#[test]
fn a_whole_store_is_read_by_pages() {
    let (mut server, dom0, _) = world();
    let s = &mut server;
    let mut wanted = Vec::new();
    for number in 0..700 {
        let path = format!("/x/{}/{number:04}", number / 300);
        let value = "v".repeat(number % 50);
        let payload = format!("{path}\0{value}");
        assert_eq!(ask(s, dom0, XS_WRITE, payload.as_bytes()), "OK|");
        wanted.push(format!("{path} (n0) = \"{value}\""));
    }
    let pages = pages(s, dom0, "/x");
    assert!(pages.len() > 5);
    let leaves = |pages: &[String]| -> Vec<String> {
        let lines = pages.iter().flat_map(|page| page.lines());
        lines
            .filter(|line| line.matches('/').count() == 3)
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(leaves(&pages), wanted);
    // What is removed between two pages is missing, and nothing else.
    let (after, _) = pages[0].lines().last().unwrap().split_once(' ').unwrap();
    assert_eq!(ask(s, dom0, XS_RM, format!("{after}\0").as_bytes()), "OK|");
    let next = ask(
        s,
        dom0,
        XS_CONTROL,
        format!("tree\0/x\0{after}\0").as_bytes(),
    );
    assert_eq!(next, pages[1]);
}

#[test]
fn a_value_longer_than_a_page_is_cut() {
    let (mut server, dom0, _) = world();
    let s = &mut server;
    let long = [&b"/x/long\0"[..], &[0xff; 3000]].concat();
    assert_eq!(ask(s, dom0, XS_WRITE, &long), "OK|");
    table(s, dom0, XS_WRITE, &[("/x/short|1", "OK|")]);
    let pages = pages(s, dom0, "/x");
    assert_eq!(pages.len(), 3);
    assert_eq!(pages[1].len(), 4096);
    assert!(pages[1].starts_with("/x/long (n0) = \"\\xff\\xff") && pages[1].ends_with("...\n"));
    assert_eq!(pages[2], "/x/short (n0) = \"1\"\n");
}
