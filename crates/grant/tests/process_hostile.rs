//! A hostile back end gets nothing but what is lent: runs the example `hostile`, which makes each attempt in a process of its own.

use std::path::PathBuf;
use std::process::Command;

#[test]
fn a_hostile_back_end_sees_nothing_but_what_is_lent() {
    // Built with the tests: `target/PROFILE/examples`, beside `target/PROFILE/deps`, which has this test.
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(|deps| deps.parent()).unwrap();
    let program: PathBuf = folder.join("examples/hostile");
    assert!(
        program.exists(),
        "{} is not built: cargo build -p cantle-grant --examples",
        program.display()
    );
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!("skipped: a_hostile_back_end_sees_nothing_but_what_is_lent needs root");
        return;
    }
    let output = Command::new(program)
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}");
    assert!(said.contains(" 0 failed"), "{said}");
}
