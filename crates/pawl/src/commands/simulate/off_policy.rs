//! What policies would have got, from a log of one whose probabilities are known.

use core::fmt::Write as _;
use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use comfy_table::{Table as Grid, presets};
use pawl_domain::{
    CheckedSpec, Event,
    event::{self, Caller, Outcome},
};
use pawl_judge::{Estimate, Logged, OffPolicy};
use pawl_model::{
    HashKey, Request,
    context::Context,
    snapshot::{Made, Workspace},
};
use pawl_stats::rng::mix;
use serde_json::{Map, Value, json};

use super::run;
use crate::commands::history::History;

/// Fewer decisions of a policy's own than this many would say as much: its value is little more than a guess.
const EFFECTIVE_MIN: f64 = 100.0;

/// A policy and what the log says of it, by metric.
struct Judged {
    name: String,
    metrics: Vec<OffPolicy>,
}

/// What a log says.
pub struct Values {
    metrics: Vec<String>,
    rows: usize,
    logged: Vec<(u64, f64)>,
    judged: Vec<Judged>,
}

impl Values {
    /// Judges each setting and each action alone. A setting learns along the log, and is judged at each decision by what
    /// it had learned before it.
    pub fn of(specs: &[(Option<f64>, CheckedSpec)], history: &History) -> Result<Self> {
        let Some((_, spec)) = specs.first() else { bail!("nothing to judge") };
        if specs.iter().any(|(_, spec)| !spec.floors().is_empty()) {
            bail!(
                "a floor is opened by decisions of its own, which a log of another policy does not hold: give the spec \
                 `[objective] weights`, or judge weights with `--trade-off 10,20,50`"
            );
        }
        let mut judged = Vec::new();
        for (i, (weight, spec)) in specs.iter().enumerate() {
            let (policy, alone) = follow(spec, history)?;
            let name = weight.map_or("policy".to_owned(), |w| format!("weight {w}"));
            judged.push(Judged { name, metrics: policy });
            if i + 1 == specs.len() {
                judged.extend(alone);
            }
        }
        let logged = (0..spec.metrics().len()).map(|m| {
            let values = history.entries.iter().filter_map(|e| e.values[m]);
            let (n, sum) = values.fold((0, 0.0), |(n, sum), v| (n + 1, sum + v));
            (n, sum / (n as f64).max(1.0))
        });
        Ok(Self {
            metrics: spec.metrics().iter().map(|m| m.name.clone()).collect(),
            rows: history.entries.len(),
            logged: logged.collect(),
            judged,
        })
    }

    /// The object of `--json`.
    pub fn to_json(&self) -> Value {
        let both = |e: Estimate| json!({"value": e.value, "interval": e.interval()});
        let logged: Map<String, Value> = self
            .metrics
            .iter()
            .zip(&self.logged)
            .map(|(name, (n, mean))| (name.clone(), json!({"n": n, "mean": mean})))
            .collect();
        let policy = |j: &Judged| {
            let metric = |(name, of): (&String, &OffPolicy)| {
                let value = json!({
                    "n": of.n(), "effective": of.effective(), "dr": both(of.dr()), "ips": both(of.ips()),
                    "snips": both(of.snips()),
                });
                (name.clone(), value)
            };
            let metrics: Map<String, Value> =
                self.metrics.iter().zip(&j.metrics).map(metric).collect();
            (j.name.clone(), Value::Object(metrics))
        };
        let policies: Map<String, Value> = self.judged.iter().map(policy).collect();
        json!({"rows": self.rows, "logged": logged, "policies": policies})
    }

    /// For a person.
    pub fn to_text(&self) -> String {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING);
        let heads = ["".to_owned()].into_iter().chain(self.metrics.iter().cloned());
        grid.set_header(heads.chain(["effective".to_owned()]));
        let mut row = vec!["as logged".to_owned()];
        row.extend(self.logged.iter().map(|(_, mean)| format!("{mean:.5}")));
        row.push(self.rows.to_string());
        grid.add_row(row);
        let mut doubtful = Vec::new();
        for j in &self.judged {
            let mut row = vec![j.name.clone()];
            for of in &j.metrics {
                let e = of.dr();
                let [low, high] = e.interval();
                row.push(format!("{:.5} ({low:.5} to {high:.5})", e.value));
            }
            let least = j.metrics.iter().map(OffPolicy::effective).fold(f64::INFINITY, f64::min);
            row.push(format!("{least:.0}"));
            grid.add_row(row);
            if least < EFFECTIVE_MIN {
                doubtful.push(format!("`{}`", j.name));
            }
        }
        let mut out = format!(
            "{} decisions of another policy; doubly robust values with 95 % intervals, and how many decisions of its own \
             would say as much\n{grid}\n",
            self.rows
        );
        if !doubtful.is_empty() {
            let _infallible = writeln!(
                out,
                "little more than a guess, the log has too few decisions like theirs: {}",
                doubtful.join(", ")
            );
        }
        out
    }
}

/// One pass along the log: the policy of `spec` as it learns, and each action alone.
fn follow(spec: &CheckedSpec, history: &History) -> Result<(Vec<OffPolicy>, Vec<Judged>)> {
    let (log, mut fold) = run::begin(spec)?;
    let metrics = spec.metrics();
    let mut policy = vec![OffPolicy::default(); metrics.len()];
    let alone = |a: &pawl_domain::spec::Action| Judged {
        name: format!("always {}", a.name),
        metrics: policy.clone(),
    };
    let mut alone: Vec<Judged> = spec.actions().iter().map(alone).collect();
    let (mut rows, mut eligible) = (0_usize, vec![0_usize; alone.len()]);
    let mut work = Workspace::default();
    for (at_ms, entry) in history.entries.iter().enumerate() {
        fold.catch_up()?;
        let snapshot =
            fold.engine_mut().snapshot(spec.name()).context("the model is not enrolled")?;
        let context = Context::read(spec, &HashKey::default(), &entry.context)?;
        let nonce = mix(mix(0x5EED).wrapping_add(at_ms as u64));
        let request = Request { context: &context, actions: None, seed: nonce };
        let choice = snapshot.decide(&request, &mut work)?;
        let scores = snapshot.scores(&context, &choice.eligible);
        let taken = choice.eligible.iter().position(|a| usize::from(*a) == entry.action);
        let probability = entry.probability.context("a log with probabilities")?;
        for (m, value) in entry.values.iter().enumerate() {
            let Some(value) = *value else { continue };
            let expected = &scores.predicted[m];
            // A logged action that the spec's rules forbid here is one that no policy of it takes: its weight is 0.
            let expected_logged = taken.map_or(value, |taken| expected[taken]);
            let take = |of: &mut OffPolicy, target: f64, all: f64| {
                of.take(&Logged { value, probability, target, expected_logged, expected: all });
            };
            let all = choice.probabilities.iter().zip(expected).map(|(p, q)| p * q).sum();
            take(&mut policy[m], taken.map_or(0.0, |taken| choice.probabilities[taken]), all);
            for (i, action) in choice.eligible.iter().enumerate() {
                let of = &mut alone[usize::from(*action)].metrics[m];
                take(of, f64::from(u8::from(Some(i) == taken)), expected[i]);
            }
        }
        rows += 1;
        for action in &choice.eligible {
            eligible[usize::from(*action)] += 1;
        }
        let metrics = metrics.iter().zip(&entry.values);
        let metrics = metrics.filter_map(|(m, v)| Some((m.name.clone(), (*v)?))).collect();
        let made =
            Made { epoch: log.epoch(), nonce, at_ms: at_ms as u64, caller: Caller::default() };
        let mut decided = snapshot.record(&context, choice, made);
        if let Some(taken) = taken {
            decided = event::Decided {
                chosen: taken as u16,
                outcome: Outcome::Elsewhere,
                metrics,
                ..decided
            };
            log.append_event(&Event::Decided(decided))?;
        }
    }
    // An action that is not eligible everywhere has no value "always".
    let mut everywhere = eligible.iter().map(|n| *n == rows);
    alone.retain(|_| everywhere.next().unwrap_or(false));
    Ok((policy, alone))
}

/// What a log without probabilities holds: no estimate, but what was done, spent and measured, and for which requests.
pub fn describe(spec: &CheckedSpec, history: &History) -> Value {
    let metrics = spec.metrics();
    let of = |entries: &[usize]| {
        let metric = |(m, metric): (usize, &pawl_domain::spec::Metric)| {
            let values = entries.iter().filter_map(|i| history.entries[*i].values[m]);
            let (n, sum) = values.fold((0_u64, 0.0), |(n, sum), v| (n + 1, sum + v));
            let mean = (n > 0).then(|| sum / n as f64);
            (metric.name.clone(), json!({"n": n, "sum": sum, "mean": mean}))
        };
        let metrics: Map<String, Value> = metrics.iter().enumerate().map(metric).collect();
        json!({"n": entries.len(), "metrics": metrics})
    };
    let group = |key: &dyn Fn(usize) -> Option<String>| {
        let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for i in 0..history.entries.len() {
            groups.entry(key(i).unwrap_or_else(|| "(empty)".to_owned())).or_default().push(i);
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, rows)| core::cmp::Reverse(rows.len()));
        groups.truncate(SEGMENTS_MAX);
        groups.into_iter().map(|(name, rows)| (name, of(&rows))).collect::<Map<_, _>>()
    };
    let all: Vec<usize> = (0..history.entries.len()).collect();
    let actions = group(&|i| Some(spec.actions()[history.entries[i].action].name.to_string()));
    let categories = spec
        .features()
        .iter()
        .filter(|f| f.encoding.kind() == pawl_domain::spec::FeatureType::Category);
    let segments: Map<String, Value> = categories
        .map(|f| {
            let values = group(&|i| history.entries[i].fields.text(&f.name));
            (f.name.clone(), Value::Object(values))
        })
        .collect();
    json!({"rows": all.len(), "all": of(&all), "actions": actions, "segments": segments})
}

/// Most segments of a feature that are told.
const SEGMENTS_MAX: usize = 12;

/// [`describe`] for a person.
pub fn described(v: &Value) -> String {
    let names: Vec<&String> =
        v["all"]["metrics"].as_object().into_iter().flat_map(|m| m.keys()).collect();
    let mut grid = Grid::new();
    grid.load_style(presets::NOTHING);
    let heads =
        names.iter().flat_map(|n| [format!("{n} sum"), "mean".to_owned(), "known".to_owned()]);
    grid.set_header(["".to_owned(), "requests".to_owned()].into_iter().chain(heads));
    let mut row = |name: String, of: &Value| {
        let n = of["n"].as_f64().unwrap_or(0.0);
        let mut cells = vec![name, n.to_string()];
        for metric in &names {
            let m = &of["metrics"][metric.as_str()];
            let known = 100.0 * m["n"].as_f64().unwrap_or(0.0) / n.max(1.0);
            cells.push(format!("{:.4}", m["sum"].as_f64().unwrap_or(0.0)));
            cells.push(m["mean"].as_f64().map_or("–".to_owned(), |x| format!("{x:.5}")));
            cells.push(format!("{known:.0} %"));
        }
        grid.add_row(cells);
    };
    row("all".to_owned(), &v["all"]);
    for (name, of) in v["actions"].as_object().into_iter().flatten() {
        row(name.clone(), of);
    }
    for (feature, values) in v["segments"].as_object().into_iter().flatten() {
        for (name, of) in values.as_object().into_iter().flatten() {
            row(format!("{feature} = {name}"), of);
        }
    }
    format!(
        "{grid}\nno estimate: the log has no column `probability`, so what another policy would have got cannot be told from \
         it. `--sample 500 --out sample.jsonl` draws requests to run through every action (examples/collect.py); \
         `pawl import` teaches a model what is here."
    )
}
