//! The invariants of ARCHITECTURE.md that neither compiler nor clippy checks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Longest source file.
const LINES_MAX: usize = 600;

/// The import table: which of our crates each crate may use, tests aside.
const IMPORTS: &[(&str, &[&str])] = &[
    ("stats", &[]),
    ("domain", &[]),
    ("model", &["domain", "stats"]),
    ("learn", &["domain", "stats", "model"]),
    ("judge", &["domain", "stats"]),
    ("engine", &["domain", "stats", "model", "learn", "judge"]),
    ("store", &["domain"]),
    ("driver", &["domain", "engine", "model", "store"]),
    ("server", &["domain", "stats", "model", "learn", "judge", "engine", "store", "driver"]),
    (
        "pawl",
        &["domain", "stats", "model", "learn", "judge", "engine", "store", "driver", "server"],
    ),
    ("sim", &["domain", "stats", "model", "engine", "store", "driver"]),
    ("xtask", &["domain", "stats", "model", "learn", "engine", "store", "driver"]),
];

/// Crates without clock, network, threads and arithmetic that differs between machines: clippy.toml bans those.
const PURE: &[&str] = &["stats", "domain", "model", "learn", "judge", "engine"];
/// Crates that a pure crate must not depend on.
const IMPURE: &[&str] =
    &["tokio", "rand", "reqwest", "hyper", "axum", "sqlx", "getrandom", "jiff", "rayon"];

/// Every violation below `root`, in words.
pub fn violations(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let crates = root.join("crates");
    let mut names = Vec::new();
    for entry in fs::read_dir(&crates).context("no `crates`")? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    for name in &names {
        let dir = crates.join(name);
        let manifest = fs::read_to_string(dir.join("Cargo.toml"))
            .with_context(|| format!("crates/{name} has no Cargo.toml"))?;
        let sources = sources(&dir)?;
        found.extend(check_imports(name, &manifest, &sources)?);
        found.extend(check_purity(name, &dir, &manifest)?);
        found.extend(check_orphans(name, &sources));
        for (path, text) in &sources {
            found.extend(check_file(&format!("crates/{name}/{}", path.display()), text));
        }
    }
    Ok(found)
}

/// Every Rust file of a crate, relative to it.
fn sources(dir: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path)?;
                found.insert(path.strip_prefix(dir)?.to_owned(), text);
            }
        }
    }
    Ok(found)
}

fn section(manifest: &toml::Table, key: &str) -> Vec<String> {
    let table = manifest.get(key).and_then(toml::Value::as_table);
    table.map(|t| t.keys().cloned().collect()).unwrap_or_default()
}

/// Whether code, comments aside, names the crate `ident`: as a path or in a `use`, and not as part of a longer name.
fn names(text: &str, ident: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
    code.into_iter().any(|line| {
        line.match_indices(ident).any(|(at, _)| {
            let after = &line[at + ident.len()..];
            let path = after.starts_with("::") || (line.contains("use ") && after.starts_with(';'));
            path && !line[..at].ends_with(word)
        })
    })
}

fn check_imports(
    name: &str,
    manifest: &str,
    sources: &BTreeMap<PathBuf, String>,
) -> Result<Vec<String>> {
    let manifest: toml::Table = manifest.parse()?;
    let mut found = Vec::new();
    let Some((_, allowed)) = IMPORTS.iter().find(|(n, _)| *n == name) else {
        return Ok(vec![format!("crates/{name} is not in the import table")]);
    };
    let used = |dependency: &str, tests: bool| {
        let ident = dependency.replace('-', "_");
        let here = |path: &Path| tests || path.starts_with("src");
        sources.iter().any(|(path, text)| here(path) && names(text, &ident))
    };
    for dependency in section(&manifest, "dependencies") {
        if dependency.strip_prefix("pawl-").is_some_and(|d| !allowed.contains(&d)) {
            found.push(format!("crates/{name} may not import {dependency}"));
        }
        if !used(&dependency, false) {
            found.push(format!("crates/{name} declares {dependency} and does not use it"));
        }
    }
    for dependency in section(&manifest, "dev-dependencies") {
        if !used(&dependency, true) {
            found
                .push(format!("crates/{name} declares {dependency} for tests and does not use it"));
        }
    }
    Ok(found)
}

fn check_purity(name: &str, dir: &Path, manifest: &str) -> Result<Vec<String>> {
    if !PURE.contains(&name) {
        return Ok(Vec::new());
    }
    let manifest: toml::Table = manifest.parse()?;
    let mut found = Vec::new();
    for dependency in section(&manifest, "dependencies") {
        if IMPURE.contains(&dependency.as_str()) {
            found.push(format!("crates/{name} is pure and may not import {dependency}"));
        }
    }
    let bans = fs::read_to_string(dir.join("clippy.toml")).unwrap_or_default();
    for ban in ["std::time::Instant::now", "f64::exp", "std::collections::HashMap"] {
        if !bans.contains(&format!("\"{ban}\"")) {
            found.push(format!("crates/{name}/clippy.toml does not ban {ban}"));
        }
    }
    Ok(found)
}

/// Files that no `mod` reaches.
fn check_orphans(name: &str, sources: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let mut reached = BTreeSet::new();
    let is_root = |p: &Path| {
        let text = p.to_string_lossy();
        matches!(text.as_ref(), "src/lib.rs" | "src/main.rs" | "build.rs")
            || p.parent().is_some_and(|d| {
                d == Path::new("tests") || d == Path::new("benches") || d == Path::new("src/bin")
            })
            || (text.starts_with("tests/") && text.ends_with("/main.rs"))
    };
    let mut open: Vec<PathBuf> = sources.keys().filter(|p| is_root(p)).cloned().collect();
    while let Some(path) = open.pop() {
        let Some(text) = sources.get(&path) else { continue };
        if !reached.insert(path.clone()) {
            continue;
        }
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let parent = path.parent().unwrap_or(Path::new("")).to_owned();
        let base = if is_root(&path) && matches!(stem.as_str(), "lib" | "main") {
            parent
        } else {
            parent.join(stem)
        };
        for line in text.lines() {
            let line = line.trim();
            let declared = ["mod ", "pub mod ", "pub(crate) mod ", "pub(super) mod "]
                .iter()
                .find_map(|p| line.strip_prefix(p)?.strip_suffix(';'));
            if let Some(module) = declared {
                open.push(base.join(format!("{module}.rs")));
            }
        }
    }
    let orphans = sources.keys().filter(|p| !reached.contains(*p));
    orphans.map(|p| format!("crates/{name}/{} is compiled by nobody", p.display())).collect()
}

fn check_file(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !text.starts_with("//! ") {
        found.push(format!("{path} does not open with a `//!` line that says what it is for"));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        found.push(format!("{path} has {lines} lines; at most {LINES_MAX}"));
    }
    if path.ends_with("/mod.rs") {
        found.push(format!("{path}: name it after its folder instead"));
    }
    found
}

#[cfg(test)]
mod tests;
