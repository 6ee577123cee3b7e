//! `pawl simulate`: what a policy would have done on a table of what every action would have given, or on a log.

mod off_policy;
mod report;
mod run;
mod table;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use pawl_domain::{CheckedSpec, spec::Goal};

use self::{report::Setting, run::Pass, table::Table};
use super::{
    history::{ACTION, History},
    read_spec,
    rows::Rows,
};

/// Options of `pawl simulate`.
#[derive(Args, Debug)]
pub struct Simulate {
    /// The model's spec, TOML
    spec: PathBuf,
    /// A table with columns METRIC__ACTION, or a log with `action`, `probability` where known, and the metrics; a row a
    /// request (.csv or .jsonl, with .gz or not)
    #[arg(long)]
    data: PathBuf,
    /// Number of passes: seed 0 is stream order, seed s a permutation
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// Sweep the weight of cost over these values and print the frontier
    #[arg(long, value_delimiter = ',', conflicts_with = "keep")]
    trade_off: Vec<f64>,
    /// Instead of the spec's weights: keep this part of the incumbent's quality at any time, and minimise cost
    #[arg(long)]
    keep: Option<f64>,
    /// Of a table: give feedback on metrics of goal `max` for this share of the requests only
    #[arg(long, default_value_t = 1.0)]
    observed: f64,
    /// Of a log: write so many of its rows, drawn from every kind of request, to run them through the other actions
    #[arg(long, requires = "out")]
    sample: Option<usize>,
    /// Where the sample goes, JSON lines
    #[arg(long, requires = "sample")]
    out: Option<PathBuf>,
}

impl Simulate {
    /// Runs the command.
    pub fn run(&self, json: bool) -> Result<()> {
        if !(self.observed > 0.0 && self.observed <= 1.0) {
            bail!("`--observed` is {}: give a share above 0 and at most 1", self.observed);
        }
        let spec = self.with_floor(read_spec(&self.spec)?)?;
        let name = self.data.display();
        let mut rows = Rows::open(&self.data)?;
        let Some(first) = rows.next() else { bail!("`{name}` has no rows") };
        let first = first.with_context(|| format!("in `{name}`, in row 1"))?;
        if first.has(ACTION) && !Table::is_row(&spec, &first) {
            let history = History::read(&spec, first, rows);
            return self.judge_log(&spec, &history.with_context(|| format!("in `{name}`"))?, json);
        }
        let table = Table::read(&spec, first, rows).with_context(|| format!("in `{name}`"))?;
        if self.sample.is_some() {
            bail!(
                "`--sample` draws from a log; `{name}` is a table of what every action would have given already"
            );
        }
        let specs = self.settings(&spec)?;
        let passes = self.passes(&specs, &table)?;
        let settings: Vec<Setting> = specs
            .iter()
            .zip(passes)
            .map(|((weight, spec), passes)| Setting { weight: *weight, spec, passes })
            .collect();
        let report = report::Report::new(&spec, &table, &settings)?;
        if json {
            say!("{}", serde_json::to_string(&report.to_json(self.first_seed))?);
        } else {
            say!("{}", report.to_text().trim_end());
        }
        Ok(())
    }

    /// Says what a log says, or writes a sample of it.
    fn judge_log(&self, spec: &CheckedSpec, history: &History, json: bool) -> Result<()> {
        if self.seeds != 1 || self.first_seed != 0 || self.observed < 1.0 {
            bail!(
                "a log is followed once, in its order, as it is: leave `--seeds`, `--first-seed` and `--observed` out"
            );
        }
        if let Some((n, path)) = self.sample.zip(self.out.as_ref()) {
            let sample = history.sample(spec, n);
            let lines = sample
                .iter()
                .map(|f| serde_json::to_string(&f.0))
                .collect::<Result<Vec<_>, _>>()?;
            let shown = path.display();
            std::fs::write(path, lines.join("\n") + "\n")
                .with_context(|| format!("cannot write `{shown}`"))?;
            say!("{} of {} requests written to {shown}", sample.len(), history.entries.len());
            return Ok(());
        }
        if history.has_probabilities()? {
            let values = off_policy::Values::of(&self.settings(spec)?, history)?;
            let text = if json { values.to_json().to_string() } else { values.to_text() };
            say!("{}", text.trim_end());
            return Ok(());
        }
        let described = off_policy::describe(spec, history);
        if json {
            say!("{described}");
        } else {
            say!("{}", off_policy::described(&described));
        }
        Ok(())
    }

    /// The spec as written, or with a floor in place of its weights.
    fn with_floor(&self, spec: CheckedSpec) -> Result<CheckedSpec> {
        let Some(part) = self.keep else { return Ok(spec) };
        let metrics = report::cost_metric(&spec).zip(report::quality_metric(&spec));
        let Some((cost, quality)) = metrics else {
            bail!("`--keep` needs a metric with `goal = \"min\"` and one with `goal = \"max\"`");
        };
        let name = |m: usize| spec.metrics()[m].name.clone();
        let mut changed = spec.spec().clone();
        let mut objective = changed.objective.take().unwrap_or_default();
        objective.weights.clear();
        objective.minimize = Some(name(cost));
        objective.keep = BTreeMap::from([(name(quality), part)]);
        changed.objective = Some(objective);
        Ok(changed.check()?)
    }

    /// The spec as written, or one a weight of cost.
    fn settings(&self, spec: &CheckedSpec) -> Result<Vec<(Option<f64>, CheckedSpec)>> {
        if self.trade_off.is_empty() {
            return Ok(vec![(None, spec.clone())]);
        }
        let Some(cost) = report::cost_metric(spec) else {
            bail!("`--trade-off` needs a metric with `goal = \"min\"`; the spec has none");
        };
        let with = |&weight: &f64| {
            let mut changed = spec.spec().clone();
            let mut objective = changed.objective.take().unwrap_or_default();
            // In place of a floor.
            objective.minimize = None;
            objective.keep.clear();
            if objective.weights.is_empty() {
                let gains = spec.metrics().iter().filter(|m| m.goal == Goal::Max);
                objective.weights =
                    gains.map(|m| (m.name.clone(), 1.0)).collect::<BTreeMap<_, _>>();
            }
            objective.weights.insert(spec.metrics()[cost].name.clone(), -weight.abs());
            changed.objective = Some(objective);
            Ok((Some(weight), changed.check()?))
        };
        self.trade_off.iter().map(with).collect()
    }

    /// Every pass of every setting, on all cores: `[settings][seeds]`.
    fn passes(
        &self,
        specs: &[(Option<f64>, CheckedSpec)],
        table: &Table,
    ) -> Result<Vec<Vec<Pass>>> {
        let seeds = self.seeds as usize;
        let total = specs.len() * seeds;
        let bar = ProgressBar::new((total * table.rows.len()) as u64);
        bar.set_style(ProgressStyle::with_template(
            "{bar:40} {human_pos}/{human_len} requests, {per_sec}, {eta} left",
        )?);
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<Option<Result<Pass>>>> =
            Mutex::new((0..total).map(|_| None).collect());
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(total);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let job = next.fetch_add(1, Ordering::Relaxed);
                        let Some((_, spec)) = specs.get(job / seeds) else { break };
                        let seed = self.first_seed + (job % seeds) as u64;
                        let pass = run::run(spec, table, seed, self.observed, &|n| bar.inc(n));
                        results.lock().unwrap_or_else(PoisonError::into_inner)[job] = Some(pass);
                    }
                });
            }
        });
        bar.finish_and_clear();
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter();
        let mut passes = Vec::new();
        for _ in specs {
            let of_setting: Result<Vec<Pass>> = results.by_ref().take(seeds).flatten().collect();
            passes.push(of_setting?);
        }
        Ok(passes)
    }
}
