//! Policies on real routing tables: the savings, and the reward beside Vowpal Wabbit's best setting.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::server::{binary, build};
use crate::{python::python, root};

/// Which tables, how often.
#[derive(Args, Debug)]
pub struct Options {
    /// Directory of the tables (NAME.csv.gz); also PAWL_DATA/routing
    #[arg(long)]
    data: Option<PathBuf>,
    /// Only these tables
    #[arg(long, value_delimiter = ',')]
    tables: Vec<String>,
    /// Passes for the savings
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// The weight of cost at which rewards are compared
    #[arg(long, default_value_t = 100.0)]
    weight: f64,
    /// Leave Vowpal Wabbit out
    #[arg(long)]
    alone: bool,
}

/// The grid of weights of cost: the same for every table.
const GRID: &str = "1,5,10,20,30,50,70,100,140,200,300,400,500,700,1000,1400,2000,3000,5000";
/// The version of the peer.
pub const VOWPAL_WABBIT: &str = "vowpalwabbit==9.11.9";
/// Seeds on which the peer's setting is picked, and on which both are compared.
const PICKED_ON: std::ops::Range<u64> = 0..5;
const COMPARED_ON: std::ops::Range<u64> = 5..15;

/// The peer's settings; MIN and MAX stand for the costs of the table.
fn settings() -> Vec<String> {
    let explore = [
        "--squarecb",
        "--squarecb --gamma_scale 100",
        "--regcbopt --mellowness 0.01 --cb_min_cost MIN --cb_max_cost MAX",
        "--epsilon 0.02",
        "--cover 5",
        "--bag 5",
    ];
    explore.iter().flat_map(|e| [(*e).to_owned(), format!("{e} --ignore_linear S")]).collect()
}

/// Where the tables are.
fn data(options: &Options) -> Result<PathBuf> {
    let environment = std::env::var_os("PAWL_DATA").map(|d| Path::new(&d).join("routing"));
    let candidates = [options.data.clone(), environment];
    let found = candidates.into_iter().flatten().find(|p| p.is_dir());
    found.context("the routing tables are absent: give --data DIR or set PAWL_DATA")
}

/// Runs `pawl simulate` and gives its object.
fn simulate(spec: &Path, table: &Path, arguments: &[&str]) -> Result<Value> {
    let output = Command::new(binary("pawl"))
        .arg("simulate")
        .arg(spec)
        .arg("--data")
        .arg(table)
        .args(["--json"])
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("`pawl simulate` failed on `{}`", table.display());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The peer's job for a spec file.
fn job(
    spec: &Path,
    table: &Path,
    weight: f64,
    seeds: std::ops::Range<u64>,
    settings: &[String],
) -> Result<Value> {
    let spec: toml::Value = toml::from_str(&std::fs::read_to_string(spec)?)?;
    let features: Vec<Value> = spec["features"]
        .as_table()
        .context("features")?
        .iter()
        .map(|(name, f)| {
            let scale = f.get("scale").and_then(toml::Value::as_str).unwrap_or("raw");
            let kind = if f["type"].as_str() == Some("category") { "category" } else { scale };
            json!([name, kind, f.get("edges").cloned()])
        })
        .collect();
    let terms: Vec<Value> = match spec["metrics"]["quality"].get("features") {
        Some(listed) => listed
            .as_array()
            .context("features of quality")?
            .iter()
            .filter_map(|t| Some(json!(t.as_str()?.split('*').collect::<Vec<_>>())))
            .collect(),
        None => features.iter().map(|f| json!([f[0]])).collect(),
    };
    Ok(json!({
        "table": table, "features": features, "terms": terms, "actions": spec["actions"], "weight": weight,
        "seeds": seeds.collect::<Vec<_>>(), "settings": settings,
    }))
}

type Rewards = BTreeMap<String, BTreeMap<String, f64>>;

fn peer(python: &Path, job: &Value) -> Result<Rewards> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bench/peers.py");
    let mut child =
        Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("no input")?.write_all(job.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("the peer failed");
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

/// Pawl's reward minus the peer's best setting's, seed by seed.
fn compare(
    python: &Path,
    spec: &Path,
    table: &Path,
    weight: f64,
) -> Result<(String, f64, f64, f64)> {
    let picking = peer(python, &job(spec, table, weight, PICKED_ON, &settings())?)?;
    let total = |by_seed: &BTreeMap<String, f64>| by_seed.values().sum::<f64>();
    let best = picking.iter().max_by(|a, b| total(a.1).total_cmp(&total(b.1)));
    let best = best.context("no setting")?.0.clone();
    let theirs =
        peer(python, &job(spec, table, weight, COMPARED_ON, std::slice::from_ref(&best))?)?;
    let weight = weight.to_string();
    let arguments = ["--seeds", "10", "--first-seed", "5", "--trade-off", &weight];
    let ours = simulate(spec, table, &arguments)?;
    let ours = ours["rewards"].as_object().context("rewards")?.clone();
    let differences: Vec<f64> = theirs[&best]
        .iter()
        .filter_map(|(seed, theirs)| Some(ours.get(seed)?.as_f64()? - theirs))
        .collect();
    let (mean, error) = mean_and_error(&differences);
    let reward = theirs[&best].values().sum::<f64>() / theirs[&best].len() as f64;
    Ok((best, reward, mean, error))
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    build()?;
    let data = data(options)?;
    let specs = root().join("examples/routing");
    let mut names: Vec<String> = std::fs::read_dir(&specs)?
        .filter_map(|e| Some(e.ok()?.path().file_stem()?.to_string_lossy().into_owned()))
        .filter(|n| options.tables.is_empty() || options.tables.contains(n))
        .collect();
    names.sort();
    let python = if options.alone { None } else { Some(python("bench/venv", &[VOWPAL_WABBIT])?) };
    println!(
        "saving at a share of the best single action's quality, {} passes; reward at weight {}",
        options.seeds, options.weight
    );
    for name in names {
        let (spec, table) =
            (specs.join(format!("{name}.toml")), data.join(format!("{name}.csv.gz")));
        let report =
            simulate(&spec, &table, &["--seeds", &options.seeds.to_string(), "--trade-off", GRID])?;
        let at = |level: &str| {
            let saving = &report["saving_at"][level];
            match (saving["mean"].as_f64(), saving["se"].as_f64()) {
                (Some(mean), Some(se)) => format!("{:5.1} ± {:.1} %", 100.0 * mean, 100.0 * se),
                _ => "–".to_owned(),
            }
        };
        print!("{name:18} .99 {:14} .98 {:14} .95 {:14}", at("0.99"), at("0.98"), at("0.95"));
        match &python {
            None => println!(),
            Some(python) => {
                let (setting, reward, mean, error) =
                    compare(python, &spec, &table, options.weight)?;
                println!(
                    " vw {reward:.4} ({setting}), pawl − vw {mean:+.4} ± {error:.4} = {:+.1} standard errors",
                    mean / error.max(1e-12)
                );
            }
        }
    }
    Ok(())
}
