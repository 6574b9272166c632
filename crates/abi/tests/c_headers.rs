//! Compares every structure and constant of the crate with Xen's own C headers.
//!
//! A C program made from the tables below is compiled with `cc` against Debian's `libxen-dev` (or the include folder that
//! `$XEN_HEADERS` names) and prints what C thinks of sizes, offsets and values. Without headers or a compiler the test says so and
//! passes, except in CI (`CI=true`), where that is a failure. The tables themselves are checked for completeness without C.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: an error here is the test's failure"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "c_headers/tables.rs"]
mod tables;

use tables::{Constant, Layout};

/// A folder that holds `xen/xen.h`.
fn headers() -> Option<PathBuf> {
    std::env::var_os("XEN_HEADERS")
        .map(PathBuf::from)
        .into_iter()
        .chain(["/usr/include", "/usr/local/include"].map(PathBuf::from))
        .find(|folder| folder.join("xen/xen.h").is_file())
}

fn c_program(layouts: &[Layout], constants: &[Constant], expressions: &[(&str, u64)]) -> String {
    let mut c = String::from(
        // The tools' view: the latest interface version, and the parameters that only a toolstack sets.
        "#define __XEN_TOOLS__ 1\n\
         #include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n#include <string.h>\n",
    );
    for header in tables::HEADERS {
        writeln!(c, "#include <xen/{header}>").unwrap();
    }
    c.push_str("int main(void) {\n");
    for layout in layouts {
        let t = layout.c;
        writeln!(
            c,
            "printf(\"size|{t}|%zu\\nalign|{t}|%zu\\n\", sizeof({t}), _Alignof({t}));"
        )
        .unwrap();
        for field in &layout.fields {
            let f = &field.c;
            writeln!(
                c,
                "printf(\"field|{t}|{f}|%zu|%zu\\n\", offsetof({t}, {f}), sizeof((({t} *)0)->{f}));"
            )
            .unwrap();
        }
    }
    for constant in constants {
        let n = constant.c;
        writeln!(c, "printf(\"const|{n}|%lld\\n\", (long long)({n}));").unwrap();
    }
    for (guard, constant) in tables::newer_constants() {
        let n = constant.c;
        writeln!(
            c,
            "#ifdef {guard}\nprintf(\"const|{n}|%lld\\n\", (long long)({n}));\n#endif"
        )
        .unwrap();
    }
    for (index, (expression, _)) in expressions.iter().enumerate() {
        writeln!(
            c,
            "printf(\"expr|{index}|%lld\\n\", (long long)({expression}));"
        )
        .unwrap();
    }
    for (name, text) in tables::texts() {
        writeln!(
            c,
            "printf(\"text|{name}|%d\\n\", strcmp({name}, \"{text}\") == 0);"
        )
        .unwrap();
    }
    c.push_str("return 0; }\n");
    c
}

/// The same for 32-bit x86, as assertions to compile: what is needed to link or run such a program is seldom installed.
fn c_assertions_x86_32() -> String {
    let mut c = String::from("#define __XEN_TOOLS__ 1\n#include <stddef.h>\n#include <stdint.h>\n");
    for header in ["xen.h", "io/ring.h", "io/blkif.h"] {
        writeln!(c, "#include <xen/{header}>").unwrap();
    }
    let mut equal = |expression: &str, value: u64| {
        writeln!(
            c,
            "_Static_assert(({expression}) == {value}, \"for x86_32, {expression} is not {value}\");"
        )
        .unwrap();
    };
    for layout in tables::layouts_x86_32() {
        let t = layout.c;
        equal(&format!("sizeof({t})"), layout.size as u64);
        for field in &layout.fields {
            let f = field.c;
            equal(&format!("offsetof({t}, {f})"), field.offset as u64);
            equal(&format!("sizeof((({t} *)0)->{f})"), field.size as u64);
        }
    }
    for (expression, value) in tables::expressions_x86_32() {
        equal(expression, value);
    }
    c
}

fn compiler() -> Command {
    Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
}

fn scratch(file: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c_headers");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(file)
}

/// What C printed: the key is all of a line up to the numbers.
fn run(folder: &Path, program: &str) -> Option<BTreeMap<String, Vec<i64>>> {
    let (source, binary) = (scratch("layout.c"), scratch("layout"));
    std::fs::write(&source, program).unwrap();
    let output = compiler()
        .args(["-std=gnu11", "-m64", "-w", "-o"])
        .arg(&binary)
        .arg(&source)
        .arg("-I")
        .arg(folder)
        .output();
    let output = match output {
        Ok(output) => output,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
        Err(e) => panic!("running the C compiler: {e}"),
    };
    assert!(
        output.status.success(),
        "the C program does not compile:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = Command::new(&binary).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(parse_line).collect())
}

fn parse_line(line: &str) -> (String, Vec<i64>) {
    let mut words: Vec<&str> = line.split('|').collect();
    let numbers = if words[0] == "field" { 2 } else { 1 };
    let values = words.split_off(words.len() - numbers);
    let values = values.iter().map(|v| v.parse().unwrap()).collect();
    (words.join("|"), values)
}

/// A missing tool: a visible message, or in CI a failure.
fn skip(why: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{why}: in CI this test may not be skipped"
    );
    // Written past the harness's capture, so that it is seen in a passing run too.
    use std::io::Write as _;
    let message = format!("\n*** c_headers: SKIPPED, layouts were not compared with C: {why}\n");
    std::io::stderr().write_all(message.as_bytes()).unwrap();
}

#[test]
fn layouts_and_values_are_those_of_the_c_headers() {
    let Some(folder) = headers() else {
        return skip("no xen/xen.h (install libxen-dev, or set XEN_HEADERS)");
    };
    let (layouts, constants) = (tables::layouts(), tables::constants());
    let expressions = tables::expressions();
    let Some(c) = run(&folder, &c_program(&layouts, &constants, &expressions)) else {
        return skip("no C compiler (install gcc, or set CC)");
    };

    let mut wrong = String::new();
    let mut compare = |what: &str, rust: &[i64]| {
        let theirs = c.get(what).map(Vec::as_slice);
        if theirs != Some(rust) {
            writeln!(wrong, "{what}: Rust {rust:?}, C {theirs:?}").unwrap();
        }
    };
    let int = |n: usize| i64::try_from(n).unwrap();
    for layout in &layouts {
        compare(&format!("size|{}", layout.c), &[int(layout.size)]);
        for field in &layout.fields {
            compare(
                &format!("field|{}|{}", layout.c, field.c),
                &[int(field.offset), int(field.size)],
            );
        }
        // A structure of bytes may ask for less than C's alignment, never for more: offsets and size are the same all the same.
        let theirs = c.get(&format!("align|{}", layout.c));
        assert!(
            theirs.is_some_and(|a| int(layout.align) <= a[0]),
            "{}",
            layout.c
        );
    }
    for constant in &constants {
        compare(&format!("const|{}", constant.c), &[constant.value]);
    }
    for (_, constant) in tables::newer_constants() {
        let key = format!("const|{}", constant.c);
        if c.contains_key(&key) {
            compare(&key, &[constant.value]);
        }
    }
    for (index, (expression, value)) in expressions.iter().enumerate() {
        let value = i64::try_from(*value).unwrap();
        let theirs = c.get(&format!("expr|{index}")).map(Vec::as_slice);
        if theirs != Some(&[value]) {
            writeln!(wrong, "{expression}: Rust {value}, C {theirs:?}").unwrap();
        }
    }
    for (name, text) in tables::texts() {
        let same = c.get(&format!("text|{name}")).map(Vec::as_slice);
        if same != Some(&[1]) {
            writeln!(wrong, "{name}: Rust {text:?}, C another").unwrap();
        }
    }
    assert!(wrong.is_empty(), "differences from the headers:\n{wrong}");
    println!(
        "{} structures, {} constants and {} expressions agree with {}",
        layouts.len(),
        constants.len(),
        expressions.len(),
        folder.display()
    );
}

#[test]
fn layouts_of_32_bit_guests_are_those_of_the_c_headers() {
    let Some(folder) = headers() else {
        return skip("no xen/xen.h (install libxen-dev, or set XEN_HEADERS)");
    };
    let source = scratch("layout_x86_32.c");
    std::fs::write(&source, c_assertions_x86_32()).unwrap();
    let output = compiler()
        .args([
            "-std=gnu11",
            "-m32",
            "-ffreestanding",
            "-fsyntax-only",
            "-w",
        ])
        .arg(&source)
        .arg("-I")
        .arg(folder)
        .output();
    match output {
        Ok(output) => assert!(
            output.status.success(),
            "differences from the headers:\n{}",
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            skip("no C compiler (install gcc, or set CC)");
        }
        Err(e) => panic!("running the C compiler: {e}"),
    }
}

fn keys_are_named_in(file: &str, keys: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(folder) = headers() else {
        return skip("no xen/xen.h (install libxen-dev, or set XEN_HEADERS)");
    };
    let header = std::fs::read_to_string(folder.join("xen/io").join(file)).unwrap();
    let words: BTreeSet<&str> = header
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .collect();
    for (name, key) in keys {
        assert!(words.contains(key), "{name}: {key:?} is no key of {file}");
    }
}

#[test]
fn keys_of_block_devices_are_named_in_the_c_header() {
    keys_are_named_in("blkif.h", tables::blkif_keys());
}

#[test]
fn keys_of_network_devices_are_named_in_the_c_header() {
    keys_are_named_in("netif.h", tables::netif_keys());
}

/// All Rust sources of the crate but the ring's, which has no structure of the headers.
fn sources(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// The identifiers that follow `keyword` at the start of a line.
fn declared<'a>(source: &'a str, keyword: &str) -> BTreeSet<&'a str> {
    source
        .lines()
        .filter_map(|line| line.strip_prefix(keyword))
        .filter(|rest| !rest.starts_with("fn "))
        .filter_map(|rest| {
            rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .next()
        })
        .collect()
}

#[test]
fn no_structure_or_constant_is_left_out_of_the_tables() {
    let mut source = String::new();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut source,
    );

    let known: BTreeSet<&str> = tables::constants()
        .iter()
        .map(|c| c.c)
        .chain(tables::newer_constants().into_iter().map(|(_, c)| c.c))
        .chain(tables::CONSTANTS_WITHOUT_C.iter().copied())
        .chain(
            tables::blkif_keys()
                .chain(tables::netif_keys())
                .chain(tables::texts())
                .map(|(name, _)| name),
        )
        .collect();
    let missing: Vec<_> = declared(&source, "pub const ")
        .difference(&known)
        .copied()
        .collect();
    assert!(
        missing.is_empty(),
        "constants not in tests/c_headers/tables.rs: {missing:?}"
    );

    let known: BTreeSet<&str> = tables::layouts()
        .iter()
        .chain(&tables::layouts_x86_32())
        .map(|l| l.rust)
        .chain(tables::STRUCTURES_WITHOUT_C.iter().copied())
        .collect();
    let missing: Vec<_> = declared(&source, "pub struct ")
        .difference(&known)
        .copied()
        .collect();
    assert!(
        missing.is_empty(),
        "structures not in tests/c_headers/tables.rs: {missing:?}"
    );
}
