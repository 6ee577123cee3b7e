//! The gateways of `examples/gateways`, against the real packages.

use std::{path::Path, process::Command};

/// LiteLLM's proxy with Pawl up, stopped, dead and restarted. `cargo xtask test` makes the environment and names its Python.
#[test]
fn litellm_serves_whatever_becomes_of_pawl() {
    let Some(python) = std::env::var_os("PAWL_LITELLM") else {
        eprintln!("skipped: PAWL_LITELLM names no Python; run `cargo xtask test`");
        return;
    };
    let check =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/gateways/litellm/check.py");
    let run = Command::new(python).arg(check).arg(env!("CARGO_BIN_EXE_pawl")).output().unwrap();
    let told = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{told}\n{}", String::from_utf8_lossy(&run.stderr));
    println!("{told}");
}
