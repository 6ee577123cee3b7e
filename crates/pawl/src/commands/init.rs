//! `pawl init`: a commented spec from the columns of one's own data, to be read and corrected.

use core::fmt::Write as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;

use super::{
    history::{ACTION, PROBABILITY},
    rows::{Fields, Rows},
};

/// Rows that are looked at.
const ROWS: usize = 20_000;
/// Words of a category that are listed; with more it is hashed.
const WORDS_MAX: usize = 24;
/// Most words that are told apart.
const WORDS_SEEN: usize = 1000;
/// Text longer than this in the mean is text and no category.
const TEXT_FROM: usize = 40;
/// Columns that say whose request it is, not what it is like.
const IDS: [&str; 10] = [
    "at",
    "timestamp",
    "time",
    "date",
    "id",
    "request_id",
    "targeting_key",
    "session_id",
    "user_id",
    "user",
];
/// What a column of a metric is called, the first word of it or its last.
const COSTS: [&str; 8] =
    ["cost", "latency", "price", "usd", "seconds", "duration", "errors", "failed"];
const GAINS: [&str; 9] = [
    "quality",
    "score",
    "reward",
    "success",
    "rating",
    "accuracy",
    "click",
    "conversion",
    "correct",
];

/// Options of `pawl init`.
#[derive(Args, Debug)]
pub struct Init {
    /// Requests, a row each: a table with columns METRIC__ACTION, or a log (.csv or .jsonl, with .gz or not)
    #[arg(long)]
    data: PathBuf,
    /// The model's name
    #[arg(long, default_value = "router")]
    name: String,
    /// Where the spec goes; without it to the screen
    #[arg(long, short)]
    output: Option<PathBuf>,
}

/// What a column holds.
#[derive(Default)]
struct Column {
    filled: usize,
    numbers: Vec<f64>,
    booleans: usize,
    nested: usize,
    bytes: usize,
    /// Texts, as long as there are not too many.
    words: BTreeSet<String>,
}

impl Column {
    fn take(&mut self, cell: &Value) {
        self.filled += 1;
        match cell {
            Value::Bool(_) => self.booleans += 1,
            Value::Array(_) | Value::Object(_) => self.nested += 1,
            _ => {}
        }
        let text = cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
        if matches!(text.as_str(), "true" | "false") && cell.is_string() {
            self.booleans += 1;
        }
        if let Ok(number) = text.trim().parse::<f64>() {
            self.numbers.push(number);
        }
        self.bytes += text.len();
        if self.words.len() <= WORDS_SEEN {
            self.words.insert(text);
        }
    }

    fn is_number(&self) -> bool {
        self.numbers.len() == self.filled && self.filled > 0
    }

    fn range(&self) -> [f64; 2] {
        let low = self.numbers.iter().copied().fold(f64::INFINITY, f64::min);
        [low, self.numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max)]
    }
}

/// What the data is.
struct Found {
    columns: BTreeMap<String, Column>,
    rows: usize,
    actions: Vec<String>,
    /// The most frequent action of a log; of a table the one with the best mean of its first gain.
    incumbent: Option<String>,
    /// Metric, and whether more of it is better.
    metrics: Vec<(String, bool, Column)>,
}

impl Init {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        let shown = self.data.display();
        let mut rows = Vec::new();
        for (i, row) in Rows::open(&self.data)?.take(ROWS).enumerate() {
            rows.push(row.with_context(|| format!("in `{shown}`, in row {}", i + 1))?);
        }
        if rows.is_empty() {
            bail!("`{shown}` has no rows");
        }
        let text = spec(&self.name, &shown.to_string(), find(&rows)?);
        if let Some(path) = &self.output {
            if path.exists() {
                bail!("`{}` exists: name another file, or remove it", path.display());
            }
            let out = path.display();
            std::fs::write(path, &text).with_context(|| format!("cannot write `{out}`"))?;
            say!("written to {out}: read it, correct it, then `pawl spec check {out}`");
        } else {
            say!("{}", text.trim_end());
        }
        Ok(())
    }
}

/// Whether a name speaks of a cost or of a gain.
fn speaks_of(name: &str) -> Option<bool> {
    let lower = name.to_lowercase();
    let has = |words: &[&str]| {
        lower.split(|c: char| !c.is_alphanumeric()).any(|part| words.contains(&part))
    };
    match (has(&COSTS), has(&GAINS)) {
        (true, _) => Some(false),
        (_, true) => Some(true),
        _ => None,
    }
}

fn find(rows: &[Fields]) -> Result<Found> {
    let mut columns: BTreeMap<String, Column> = BTreeMap::new();
    for row in rows {
        for name in row.0.keys() {
            let column = columns.entry(name.clone()).or_default();
            if let Some(cell) = row.get(name) {
                column.take(cell);
            }
        }
    }
    let (mut actions, mut metrics) = (Vec::new(), Vec::new());
    let mut best: BTreeMap<String, f64> = BTreeMap::new();
    let pairs: Vec<(String, String)> = columns
        .iter()
        .filter(|(_, column)| column.is_number() && !columns.contains_key(ACTION))
        .filter_map(|(name, _)| name.split_once("__"))
        .map(|(metric, action)| (metric.to_owned(), action.to_owned()))
        .collect();
    for (metric, action) in &pairs {
        if !actions.contains(action) {
            actions.push(action.clone());
        }
        let Some(column) = columns.remove(&format!("{metric}__{action}")) else { continue };
        if speaks_of(metric) == Some(true) {
            let mean = column.numbers.iter().sum::<f64>() / column.numbers.len() as f64;
            best.entry(action.clone()).or_insert(mean);
        }
        match metrics.iter_mut().find(|(name, ..): &&mut (String, bool, Column)| name == metric) {
            Some((_, _, all)) => all.numbers.extend(&column.numbers),
            None => metrics.push((metric.clone(), speaks_of(metric).unwrap_or(true), column)),
        }
    }
    if pairs.is_empty() {
        let Some(column) = columns.remove(ACTION) else {
            bail!(
                "no column is called `action` and none METRIC__ACTION: name the column of what was chosen `action`, as \
                 `pawl simulate` and `pawl import` read it"
            );
        };
        actions.extend(column.words.into_iter().take(64));
        for action in rows.iter().filter_map(|row| row.text(ACTION)) {
            *best.entry(action).or_default() += 1.0;
        }
        let named: Vec<String> = columns
            .iter()
            .filter(|(name, column)| {
                let measured = column.is_number() || column.booleans == column.filled;
                measured && column.filled > 0 && speaks_of(name).is_some()
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in named {
            let Some(column) = columns.remove(&name) else { continue };
            metrics.push((name.clone(), speaks_of(&name).unwrap_or(true), column));
        }
    }
    columns.remove(PROBABILITY);
    let incumbent = best.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(action, _)| action);
    Ok(Found { columns, rows: rows.len(), actions, incumbent, metrics })
}

/// A name as a TOML key.
fn key(name: &str) -> String {
    let bare = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare && !name.is_empty() { name.to_owned() } else { quoted(name) }
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

fn spec(name: &str, data: &str, found: Found) -> String {
    let Found { columns, rows, actions, incumbent, metrics } = found;
    let quote = |words: &[String]| words.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(", ");
    let mut out = format!(
        "# Made from {rows} rows of {data}. What Pawl guessed is marked; correct it, then: pawl spec check FILE\n\
         schema = 1\nname = {}\nkind = \"policy\"\nactions = [{}]\n\n\
         [features]                       # only what is declared is stored\n",
        quoted(name),
        quote(&actions)
    );
    let mut text = false;
    for (name, column) in &columns {
        let line = feature(name, column, rows);
        text |= line.contains("\"text\"");
        let _infallible = writeln!(out, "{line}");
    }
    out.push_str("\n[metrics]\n");
    for (name, gain, column) in &metrics {
        let [low, high] = column.range();
        let (key, boolean) = (key(name), column.numbers.is_empty());
        // One value says nothing of the bounds.
        let [low, high] = if low < high { [low, high] } else { [low.min(0.0), high.max(1.0)] };
        let _infallible = match gain {
            true if boolean || low >= 0.0 && high <= 1.0 => {
                writeln!(out, "{key} = {{ bounds = [0, 1] }}")
            }
            true => writeln!(
                out,
                "{key} = {{ bounds = [{low:?}, {high:?}] }}  # guessed from what was seen: the least and the most it can be"
            ),
            false => writeln!(out, "{key} = {{ goal = \"min\", explore = false }}"),
        };
    }
    if metrics.is_empty() {
        out.push_str("# none found: what is good and what it costs, such as\n# quality = { bounds = [0, 1] }\n");
    }
    let first = |gain: bool| metrics.iter().find(|(_, g, _)| *g == gain).map(|(name, ..)| name);
    let incumbent = incumbent.or_else(|| actions.first().cloned()).unwrap_or_default();
    let incumbent = quoted(&incumbent);
    let _infallible = writeln!(
        out,
        "\n[objective]\nincumbent = {incumbent}  # guessed: what serves today, and on failure"
    );
    match (first(false), first(true)) {
        (Some(cost), Some(gain)) => {
            let (cost, gain) = (quoted(cost), key(gain));
            let _infallible = writeln!(
                out,
                "minimize = {cost}\nkeep = {{ {gain} = 0.98 }}      # of the incumbent's, at any time\n\
                 holdback = 0.05                 # always the incumbent: the control group\n\
                 ramp = 0.10                     # share of traffic that the policy may decide"
            );
        }
        (_, Some(gain)) => {
            let _infallible = writeln!(out, "weights = {{ {} = 1.0 }}", key(gain));
        }
        _ => out.push_str("# weights = { quality = 1.0 }\n"),
    }
    out.push_str("\n[learner]\nalgorithm = \"linear_thompson\"\n");
    if text {
        out.push_str("covariance = \"block\"            # words keep variances only\n");
    }
    out
}

/// The line of a column: a feature, or why it is none.
fn feature(name: &str, column: &Column, rows: usize) -> String {
    let lower = name.to_lowercase();
    let id = IDS.contains(&lower.as_str()) || lower.ends_with("_id");
    let key = key(name);
    let words = column.words.len();
    let dropped = |why: &str| format!("# {key}: {why}");
    if id {
        return dropped(
            "says whose or when, not what; send it as `targeting_key`, `request_id` or `at`",
        );
    }
    if column.filled == 0 || words <= 1 {
        return dropped("always the same");
    }
    if column.nested > 0 {
        return dropped("holds lists or objects; take out of them what tells requests apart");
    }
    if column.booleans == column.filled {
        return format!("{key} = {{ type = \"boolean\" }}");
    }
    if column.is_number() {
        let [low, high] = column.range();
        let mut sorted = column.numbers.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted[sorted.len() / 2].abs();
        // Sizes and counts: most are small and some are very large.
        let skewed = low >= 0.0 && high > 20.0 * median.max(1.0) || high > 1000.0;
        let scale = if skewed { ", scale = \"log\"" } else { "" };
        return format!("{key} = {{ type = \"number\"{scale} }}  # {low} to {high}");
    }
    if column.bytes / column.filled > TEXT_FROM {
        return format!("{key} = {{ type = \"text\", bits = 12 }}");
    }
    if words > WORDS_SEEN || words * 2 > rows && rows > 50 {
        return dropped(
            "too many words: an id? With `type = \"category\", bits = 8` they would share buckets",
        );
    }
    if words <= WORDS_MAX {
        let words: Vec<String> = column.words.iter().map(|w| quoted(w)).collect();
        return format!("{key} = {{ type = \"category\", vocabulary = [{}] }}", words.join(", "));
    }
    let bits = (usize::BITS - words.leading_zeros() + 1).min(8);
    format!("{key} = {{ type = \"category\", bits = {bits} }}  # {words} words")
}
