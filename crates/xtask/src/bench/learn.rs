//! Online learning of whole files: Pawl from CSV and from its own log, Vowpal Wabbit from its text and from its cache,
//! River and scikit-learn beside.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use pawl_domain::ModelSpec;
use pawl_stats::{logistic::sigmoid, rng::uniform};
use serde_json::{Value, json};

use super::{
    load::{Connection, post},
    median,
    routing::VOWPAL_WABBIT,
    server::{Process, Scratch, binary, build},
};
use crate::{python::python, root};

/// Options of the measurement.
#[derive(Args, Debug)]
pub struct Options {
    /// Only these sets: dense, categorical, shuttle, phishing
    #[arg(long, value_delimiter = ',')]
    sets: Vec<String>,
    /// Runs of each program; the median counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Leave River and scikit-learn out
    #[arg(long)]
    fast: bool,
}

/// Examples of the made sets, and features of each.
const N: usize = 1_000_000;
const FIELDS: usize = 20;
/// Values of a category.
const VALUES: usize = 10_000;
/// Examples of a request.
const REQUEST: usize = 1000;

/// The four sets, and whether their features are categories.
const SETS: [(&str, bool); 4] =
    [("dense", false), ("categorical", true), ("shuttle", false), ("phishing", false)];

fn header(fields: usize) -> String {
    (0..fields).fold("y".to_owned(), |mut line, j| {
        let _infallible = write!(line, ",x{j:02}");
        line
    })
}

/// The same set as a table and as Vowpal Wabbit's text.
struct Made {
    table: BufWriter<fs::File>,
    text: BufWriter<fs::File>,
}

impl Made {
    fn new(directory: &Path, name: &str) -> Result<Self> {
        let file = |suffix: &str| fs::File::create(directory.join(format!("{name}.{suffix}")));
        let mut made =
            Self { table: BufWriter::new(file("csv")?), text: BufWriter::new(file("vw")?) };
        writeln!(made.table, "{}", header(FIELDS))?;
        Ok(made)
    }

    fn label(&mut self, y: bool) -> Result<()> {
        write!(self.table, "{}", u8::from(y))?;
        write!(self.text, "{} |f", if y { "1" } else { "-1" })?;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        writeln!(self.table)?;
        writeln!(self.text)?;
        Ok(())
    }
}

/// 20 numbers with weights from −1 to 1.
fn dense(directory: &Path) -> Result<()> {
    let mut made = Made::new(directory, "dense")?;
    let w: Vec<f64> = (0..FIELDS).map(|j| 2.0 * uniform(101, j as u64) - 1.0).collect();
    for i in 0..N {
        let value = |j: usize| {
            let u = 2.0 * uniform(102, (i * FIELDS + j) as u64) - 1.0;
            (u * 3.0_f64.sqrt() * 1e4).round_ties_even() / 1e4
        };
        let x: Vec<f64> = (0..FIELDS).map(value).collect();
        let score: f64 = x.iter().zip(&w).map(|(x, w)| x * w).sum();
        made.label(uniform(103, i as u64) < sigmoid(score - 0.5))?;
        for (j, x) in x.iter().enumerate() {
            write!(made.table, ",{x:.4}")?;
            write!(made.text, " {j}:{x:.4}")?;
        }
        made.end()?;
    }
    Ok(())
}

/// 20 categories of 10,000 values, the small ones frequent.
fn categorical(directory: &Path) -> Result<()> {
    let mut made = Made::new(directory, "categorical")?;
    for i in 0..N {
        let value = |f: usize| {
            let u = uniform(202, (i * FIELDS + f) as u64);
            (VALUES as f64 * (u * u * u)) as usize
        };
        let v: Vec<usize> = (0..FIELDS).map(value).collect();
        let weight =
            |(f, v): (usize, &usize)| (2.0 * uniform(201, (f * VALUES + v) as u64) - 1.0) * 0.8;
        let score: f64 = v.iter().enumerate().map(weight).sum();
        made.label(uniform(203, i as u64) < sigmoid(score - 0.5))?;
        for (f, v) in v.iter().enumerate() {
            write!(made.table, ",{v}")?;
            write!(made.text, " {}", f * VALUES + v)?;
        }
        made.end()?;
    }
    Ok(())
}

/// The one set of hyperparameters: the defaults.
fn spec(name: &str, fields: usize, categories: bool) -> String {
    let kind = if categories { "type = \"category\", bits = 14" } else { "type = \"number\"" };
    let features = (0..fields).fold(String::new(), |mut text, j| {
        let _infallible = writeln!(text, "x{j:02} = {{ {kind} }}");
        text
    });
    format!(
        "schema = 1\nname = \"{name}\"\nkind = \"classifier\"\n[label]\nclasses = [\"0\", \"1\"]\n[features]\n{features}\
         [learner]\nalgorithm = \"sgd\"\n"
    )
}

/// Runs a program and gives its wall time and output.
fn timed(command: &mut Command) -> Result<(f64, String)> {
    let begun = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let seconds = begun.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{command:?} failed: {text}");
    }
    Ok((seconds, text))
}

fn pawl(directory: &Path, name: &str, data: &Path) -> Result<(f64, f64)> {
    let mut command = Command::new(binary("pawl"));
    command.arg("learn").arg(directory.join(format!("{name}.toml")));
    command.arg("--data").arg(data).args(["--target", "y", "--json"]);
    let (seconds, text) = timed(&mut command)?;
    let report: Value = serde_json::from_str(text.lines().last().context("no report")?)?;
    Ok((seconds, report["loss"].as_f64().unwrap_or(f64::NAN)))
}

fn vowpal_wabbit(python: &Path, data: &Path, cache: Option<&Path>) -> Result<(f64, f64)> {
    let mut command = Command::new(python);
    command.args(["-m", "vowpalwabbit", "-P", "1e9", "--loss_function", "logistic", "-b", "20"]);
    command.arg("-d").arg(data);
    if let Some(cache) = cache {
        command.arg("--cache_file").arg(cache);
    }
    let (seconds, text) = timed(&mut command)?;
    let loss = text.lines().find_map(|l| l.strip_prefix("average loss = "));
    Ok((seconds, loss.and_then(|l| l.trim().parse().ok()).unwrap_or(f64::NAN)))
}

/// The examples of a table in the log of a server, sent to it over HTTP.
fn logged(directory: &Path, name: &str, categories: bool, data: &Path) -> Result<()> {
    let server = Process::pawl(data)?;
    let spec = ModelSpec::from_toml(&fs::read_to_string(directory.join(format!("{name}.toml")))?)
        .map_err(|e| anyhow::anyhow!(e))?
        .check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connection = Connection::open(&server.address).await?;
        connection.send(&post("/v1/models", None, &spec.to_json())).await?;
        let path = format!("/v1/models/{name}/examples");
        let mut lines =
            BufReader::new(fs::File::open(directory.join(format!("{name}.csv")))?).lines();
        lines.next().context("a header")??;
        let mut batch: Vec<Value> = Vec::new();
        loop {
            let line = lines.next().transpose()?;
            if let Some(line) = &line {
                let mut cells = line.split(',');
                let label = cells.next().context("a label")?;
                let value = |cell: &str| match categories {
                    true => json!(cell),
                    false => cell.parse::<f64>().map_or(Value::Null, |x| json!(x)),
                };
                let context: serde_json::Map<String, Value> =
                    cells.enumerate().map(|(j, c)| (format!("x{j:02}"), value(c))).collect();
                batch.push(json!({"context": context, "label": label}));
            }
            if batch.len() == REQUEST || (line.is_none() && !batch.is_empty()) {
                let body = json!({"examples": std::mem::take(&mut batch)}).to_string();
                let reply = connection.send(&post(&path, None, &body)).await?;
                let reply: Value = serde_json::from_slice(reply)?;
                if reply["rejected"].as_array().is_none_or(|r| !r.is_empty()) {
                    bail!("the server rejected examples: {reply}");
                }
            }
            if line.is_none() {
                return Ok(());
            }
        }
    })
}

fn inputs(python: &Path) -> Result<PathBuf> {
    let directory = root().join("target/bench/learn");
    fs::create_dir_all(&directory)?;
    let absent = |name: &str| !directory.join(format!("{name}.done")).exists();
    let done = |name: &str| fs::write(directory.join(format!("{name}.done")), "");
    if absent("dense") {
        dense(&directory)?;
        done("dense")?;
    }
    if absent("categorical") {
        categorical(&directory)?;
        done("categorical")?;
    }
    if absent("real") {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bench/learn.py");
        let made = Command::new(python).arg(script).arg("real").current_dir(&directory).status()?;
        if !made.success() {
            bail!("the real sets could not be written");
        }
        done("real")?;
    }
    fs::write(directory.join("empty.vw"), "")?;
    Ok(directory)
}

fn median_of(runs: usize, mut run: impl FnMut() -> Result<(f64, f64)>) -> Result<(f64, f64)> {
    let mut seconds = Vec::new();
    let mut loss = f64::NAN;
    for _ in 0..runs {
        let (s, l) = run()?;
        seconds.push(s);
        loss = l;
    }
    Ok((median(seconds), loss))
}

fn line(name: &str, who: &str, n: usize, seconds: f64, loss: f64, beside: &str) {
    let rate = n as f64 / seconds;
    println!("{name:12} {who:28} {seconds:8.3} s {rate:12.0} a second   loss {loss:.5}   {beside}");
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    build()?;
    let python = python("bench/venv", &[VOWPAL_WABBIT, "river==0.26.1", "scikit-learn==1.9.0"])?;
    let directory = inputs(&python)?;
    // What a process costs before its first example: taken off, for both.
    let (vw_empty, _) =
        median_of(options.runs, || vowpal_wabbit(&python, &directory.join("empty.vw"), None))?;
    println!(
        "whole processes, median of {}, each less its run on an empty file: Vowpal Wabbit {vw_empty:.3} s",
        options.runs
    );
    for (name, categories) in SETS {
        if !options.sets.is_empty() && !options.sets.iter().any(|s| s == name) {
            continue;
        }
        let table = directory.join(format!("{name}.csv"));
        let text = directory.join(format!("{name}.vw"));
        let mut lines = BufReader::new(fs::File::open(&table)?).lines();
        let fields = lines.next().context("a header")??.split(',').count() - 1;
        let n = lines.count();
        fs::write(directory.join(format!("{name}.toml")), spec(name, fields, categories))?;
        let (vw, vw_loss) = median_of(options.runs, || vowpal_wabbit(&python, &text, None))?;
        let vw = vw - vw_empty;
        line(name, "vowpal wabbit, text", n, vw, vw_loss, "");
        let empty = directory.join("empty.csv");
        fs::write(&empty, format!("{}\n", header(fields)))?;
        let (pawl_empty, _) = median_of(options.runs, || pawl(&directory, name, &empty))?;
        let (ours, loss) = median_of(options.runs, || pawl(&directory, name, &table))?;
        let ours = ours - pawl_empty;
        line(name, "pawl, csv", n, ours, loss, &format!("{:.2} × its text", vw / ours));
        let cache = directory.join(format!("{name}.cache"));
        let _absent = fs::remove_file(&cache);
        vowpal_wabbit(&python, &text, Some(&cache))?;
        let (vw, vw_loss) =
            median_of(options.runs, || vowpal_wabbit(&python, &text, Some(&cache)))?;
        let vw = vw - vw_empty;
        line(name, "vowpal wabbit, cache", n, vw, vw_loss, "");
        let scratch = Scratch::new("learn-log")?;
        logged(&directory, name, categories, &scratch.0)?;
        let (ours, loss) = median_of(options.runs, || pawl(&directory, name, &scratch.0))?;
        let ours = ours - pawl_empty;
        line(name, "pawl, own log", n, ours, loss, &format!("{:.2} × its cache", vw / ours));
        if options.fast {
            continue;
        }
        for peer in ["river", "scikit-learn"] {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bench/learn.py");
            let mut command = Command::new(&python);
            command.arg(script).args(["run", peer, name]).current_dir(&directory);
            let (_, text) = timed(&mut command)?;
            let found: Vec<f64> = text.split_whitespace().filter_map(|w| w.parse().ok()).collect();
            let [seconds, loss] = found[..] else { bail!("{peer}: {text}") };
            line(name, peer, n, seconds, loss, "in memory, without reading");
        }
    }
    Ok(())
}
