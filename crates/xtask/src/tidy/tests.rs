//! The workspace is tidy, and each rule rejects a deliberate violation.

use std::process::Command;

use super::*;

fn sources(files: &[(&str, &str)]) -> BTreeMap<PathBuf, String> {
    files.iter().map(|(p, t)| (PathBuf::from(p), (*t).to_owned())).collect()
}

#[test]
fn the_workspace_is_tidy() {
    assert_eq!(violations(&crate::root()).unwrap(), Vec::<String>::new());
}

#[test]
fn a_forbidden_import_is_rejected() {
    let manifest = "[dependencies]\npawl-store.workspace = true\n";
    let files = sources(&[("src/lib.rs", "//! x\nuse pawl_store::Log;")]);
    let found = check_imports("engine", manifest, &files).unwrap();
    assert_eq!(found, ["crates/engine may not import pawl-store"]);
}

#[test]
fn an_unused_internal_dependency_is_rejected() {
    let manifest = "[dependencies]\npawl-stats.workspace = true\n";
    let found = check_imports("model", manifest, &sources(&[("src/lib.rs", "//! x")])).unwrap();
    assert_eq!(found, ["crates/model declares pawl-stats and does not use it"]);
}

#[test]
fn a_longer_name_or_a_comment_is_no_use() {
    let manifest = "[dependencies]\nserde.workspace = true\n";
    let unused = sources(&[(
        "src/lib.rs",
        "//! x\n// serde::Serialize\nuse serde_json::json;\nuse my_serde::x;",
    )]);
    let found = check_imports("model", manifest, &unused).unwrap();
    assert_eq!(found, ["crates/model declares serde and does not use it"]);
    let used = sources(&[("src/lib.rs", "//! x\nuse serde::Serialize;")]);
    assert!(check_imports("model", manifest, &used).unwrap().is_empty());
}

#[test]
fn an_orphan_file_is_rejected() {
    let files = sources(&[
        ("src/lib.rs", "//! x\nmod a;"),
        ("src/a.rs", "//! x\nmod b;"),
        ("src/a/b.rs", "//! x"),
        ("src/b.rs", "//! x"),
        ("tests/it/main.rs", "//! x\nmod kill;"),
        ("tests/it/kill.rs", "//! x"),
    ]);
    assert_eq!(check_orphans("x", &files), ["crates/x/src/b.rs is compiled by nobody"]);
}

#[test]
fn a_file_without_purpose_or_end_is_rejected() {
    assert_eq!(check_file("a.rs", "fn main() {}").len(), 1);
    assert_eq!(check_file("a.rs", &format!("//! x\n{}", "\n".repeat(600))).len(), 1);
    assert_eq!(check_file("a/mod.rs", "//! x\n").len(), 1);
}

/// Runs clippy on a crate of one file under one of our clippy.toml. Returns what it says.
fn clippy(name: &str, config: &str, dependency: Option<&str>, source: &str) -> String {
    let root = crate::root();
    let dir = root.join("target/tidy").join(name);
    fs::create_dir_all(dir.join("src")).unwrap();
    let dependency = dependency
        .map_or_else(String::new, |d| format!("pawl-{d} = {{ path = \"../../../crates/{d}\" }}\n"));
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[dependencies]\n{dependency}[workspace]\n"
    );
    fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    fs::write(dir.join("src/lib.rs"), source).unwrap();
    fs::copy(root.join("Cargo.lock"), dir.join("Cargo.lock")).unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["clippy", "--quiet", "--", "--deny", "warnings"])
        .env("CLIPPY_CONF_DIR", root.join(config))
        .env("CARGO_TARGET_DIR", root.join("target/tidy/target"))
        .current_dir(&dir)
        .output()
        .unwrap();
    assert!(!output.status.success(), "clippy accepted {name}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_clock_and_the_exponential_of_std_are_rejected_in_a_pure_crate() {
    for pure in PURE {
        let source = "//! x\n/// x\npub fn f(x: f64) -> f64 { let _ = std::time::Instant::now(); x.exp() }\n";
        let said = clippy("tidy-impure", &format!("crates/{pure}"), None, source);
        assert!(said.contains("time enters the fold only through ticks"), "{said}");
        assert!(said.contains("libm::exp"), "{said}");
    }
}

#[test]
fn a_second_caller_of_apply_is_rejected() {
    let source = "//! x\n/// x\npub fn f(e: &mut pawl_engine::Engine, at: pawl_engine::At, h: &mut dyn pawl_engine::History) {\n    \
                  let _ = e.apply(at, &Event::FoldVersion(1), h);\n}\nuse pawl_engine::Event;\n";
    let said = clippy("tidy-apply", ".", Some("engine"), source);
    assert!(said.contains("only the driver folds"), "{said}");
}
