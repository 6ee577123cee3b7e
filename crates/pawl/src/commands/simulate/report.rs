//! What a simulation says: the policy against its baselines, and the frontier.

use core::fmt::Write as _;

use anyhow::{Result, bail};
use comfy_table::{Table as Grid, presets};
use pawl_domain::{
    CheckedSpec,
    spec::{Goal, Keep},
};
use serde_json::{Map, Value, json};

use super::{run::Pass, table::Table};

/// A spec and its passes.
pub struct Setting<'a> {
    /// The weight of cost, in a sweep.
    pub weight: Option<f64>,
    /// The spec.
    pub spec: &'a CheckedSpec,
    /// One a seed.
    pub passes: Vec<Pass>,
}

/// A mean over seeds with its standard error.
#[derive(Clone, Copy, Debug)]
struct Estimate {
    mean: f64,
    se: f64,
}

/// The least and the most quality levels at which a saving is read off the frontier.
const LEVELS: [f64; 3] = [0.95, 0.98, 0.99];

/// Everything that a simulation says.
pub struct Report {
    rows: usize,
    seeds: usize,
    policy: [Estimate; 3],
    relative_quality: Estimate,
    saving: Estimate,
    regret: Estimate,
    rewards: Vec<f64>,
    curve: Vec<[f64; 2]>,
    baselines: Vec<(String, [f64; 3])>,
    best: String,
    frontier: Vec<(f64, Estimate, Estimate)>,
    saving_at: Vec<(f64, Option<Estimate>)>,
    floors: Vec<FloorReport>,
}

/// What was kept of a floor.
struct FloorReport {
    metric: String,
    part: f64,
    incumbent: String,
    kept: Estimate,
    least: f64,
    shown_broken: usize,
}

fn floors(spec: &CheckedSpec, passes: &[Pass]) -> Vec<FloorReport> {
    let incumbent =
        spec.incumbent().map_or_else(String::new, |i| spec.actions()[i].name.to_string());
    let report = |(i, keep): (usize, &Keep)| {
        let kept = passes.iter().map(|p| p.floors[i].sums[0] / p.floors[i].sums[1]);
        FloorReport {
            metric: spec.metrics()[keep.metric].name.clone(),
            part: keep.part,
            incumbent: incumbent.clone(),
            kept: estimate(kept.clone()),
            least: kept.fold(f64::INFINITY, f64::min),
            shown_broken: passes.iter().filter(|p| p.floors[i].shown_broken).count(),
        }
    };
    spec.floors().iter().enumerate().map(report).collect()
}

/// The metric that counts as cost: `cost_usd`, or the first with goal `min`.
pub fn cost_metric(spec: &CheckedSpec) -> Option<usize> {
    let named = spec.metric("cost_usd");
    named.or_else(|| spec.metrics().iter().position(|m| m.goal == Goal::Min))
}

/// The metric that counts as quality: `quality`, or the first with goal `max`.
pub fn quality_metric(spec: &CheckedSpec) -> Option<usize> {
    let named = spec.metric("quality");
    named.or_else(|| spec.metrics().iter().position(|m| m.goal == Goal::Max))
}

fn estimate(values: impl Iterator<Item = f64> + Clone) -> Estimate {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    let squares: f64 = values.map(|v| (v - mean) * (v - mean)).sum();
    let se = if n > 1.0 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 };
    Estimate { mean, se }
}

fn reward(spec: &CheckedSpec, values: impl Fn(usize) -> f64) -> f64 {
    spec.metrics().iter().enumerate().map(|(m, metric)| metric.weight * values(m)).sum()
}

impl Report {
    /// Compares the settings with the baselines of the table.
    pub fn new(spec: &CheckedSpec, table: &Table, settings: &[Setting<'_>]) -> Result<Self> {
        let Some(quality) = quality_metric(spec) else {
            bail!("the spec has no metric with `goal = \"max\"` to compare quality by");
        };
        let cost = cost_metric(spec);
        let rows = table.rows.len();
        let n = rows as f64;
        // The setting reported in full: the only one, or the first of a sweep.
        let Some(main) = settings.first() else { bail!("nothing was simulated") };
        let baselines = baselines(main.spec, table, quality, cost);
        let single = &baselines[..spec.actions().len()];
        let best = single.iter().fold(&single[0], |b, s| if s.1[0] > b.1[0] { s } else { b });
        let best_reward = single.iter().map(|s| s.1[2]).fold(f64::NEG_INFINITY, f64::max);
        let of = |p: &Pass, m: Option<usize>| m.map_or(0.0, |m| p.sums[m] / n);
        let relative = |p: &Pass| of(p, Some(quality)) / best.1[0];
        let saved = |p: &Pass| 1.0 - of(p, cost) / best.1[1];
        let rewarded = |p: &Pass| reward(main.spec, |m| p.sums[m] / n);
        let passes = || main.passes.iter();
        let tenth = |i: usize, m: Option<usize>| {
            let size = ((i + 1) * rows).div_ceil(10) - (i * rows).div_ceil(10);
            let sum: f64 = passes().map(|p| m.map_or(0.0, |m| p.tenths[i][m])).sum();
            sum / (size.max(1) * main.passes.len()) as f64
        };
        let sweep: Vec<_> = settings.iter().filter_map(|s| Some((s.weight?, &s.passes))).collect();
        let points: Vec<Vec<(f64, f64)>> = sweep
            .iter()
            .map(|(_, p)| p.iter().map(|p| (relative(p), saved(p))).collect())
            .collect();
        Ok(Self {
            rows,
            seeds: main.passes.len(),
            policy: [
                estimate(passes().map(|p| of(p, Some(quality)))),
                estimate(passes().map(|p| of(p, cost))),
                estimate(passes().map(rewarded)),
            ],
            floors: floors(main.spec, &main.passes),
            relative_quality: estimate(passes().map(relative)),
            saving: estimate(passes().map(saved)),
            regret: estimate(passes().map(|p| n * (best_reward - rewarded(p)))),
            rewards: passes().map(rewarded).collect(),
            curve: (0..10).map(|i| [tenth(i, Some(quality)), tenth(i, cost)]).collect(),
            best: best.0.clone(),
            frontier: sweep
                .iter()
                .map(|(w, p)| (*w, estimate(p.iter().map(relative)), estimate(p.iter().map(saved))))
                .collect(),
            saving_at: LEVELS.iter().map(|q| (*q, saving_at(&points, *q))).collect(),
            baselines,
        })
    }

    /// The object of `--json`; `rewards` is by seed.
    pub fn to_json(&self, first_seed: u64) -> Value {
        let both = |e: &Estimate| json!({"mean": e.mean, "se": e.se});
        let triple = |v: &[f64; 3]| json!({"quality": v[0], "cost_usd": v[1], "reward": v[2]});
        let policy = [self.policy[0].mean, self.policy[1].mean, self.policy[2].mean];
        let baselines: Map<String, Value> =
            self.baselines.iter().map(|(name, v)| (name.clone(), triple(v))).collect();
        let curve: Vec<Value> =
            self.curve.iter().map(|[q, c]| json!({"quality": q, "cost_usd": c})).collect();
        let rewards: Map<String, Value> = (first_seed..)
            .zip(&self.rewards)
            .map(|(seed, reward)| (seed.to_string(), json!(reward)))
            .collect();
        let mut object = json!({
            "rewards": rewards,
            "rows": self.rows,
            "seeds": self.seeds,
            "policy": triple(&policy),
            "policy_se": triple(&[self.policy[0].se, self.policy[1].se, self.policy[2].se]),
            "baselines": baselines,
            "best_single": self.best,
            "relative_quality": both(&self.relative_quality),
            "saving": both(&self.saving),
            "regret": both(&self.regret),
            "curve": curve,
        });
        for f in &self.floors {
            object["floors"][&f.metric] = json!({
                "part": f.part, "incumbent": f.incumbent, "kept": both(&f.kept), "least": f.least,
                "shown_broken": f.shown_broken,
            });
        }
        if !self.frontier.is_empty() {
            let point = |(w, q, s): &(f64, Estimate, Estimate)| json!({"weight": w, "relative_quality": both(q), "saving": both(s)});
            object["frontier"] = self.frontier.iter().map(point).collect();
            let at = |(q, s): &(f64, Option<Estimate>)| {
                (format!("{q}"), s.as_ref().map_or(Value::Null, both))
            };
            object["saving_at"] = Value::Object(self.saving_at.iter().map(at).collect());
        }
        object
    }

    /// What was kept of each floor.
    fn tell_floors(&self, out: &mut String) {
        for f in &self.floors {
            let _infallible = writeln!(
                out,
                "floor {} of {} of `{}`: kept {:.4} ± {:.4}, at least {:.4}; a 1 % confidence sequence shows it broken in {} of {} passes",
                f.part,
                f.metric,
                f.incumbent,
                f.kept.mean,
                f.kept.se,
                f.least,
                f.shown_broken,
                self.seeds
            );
            if f.kept.mean == 1.0 && f.kept.se == 0.0 {
                let _infallible = writeln!(
                    out,
                    "the floor never opened: {} requests are too few to be certain, see docs/floor.md",
                    self.rows
                );
            }
        }
    }

    /// For a person.
    pub fn to_text(&self) -> String {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING);
        grid.set_header(["", "quality", "cost a request", "reward", "quality ÷ best", "saving"]);
        let best = self.baselines.iter().find(|b| b.0 == self.best).map_or([1.0; 3], |b| b.1);
        let [q, c, r] = self.policy.map(|e| e.mean);
        let mut row = |name: &str, [q, c, r]: [f64; 3]| {
            grid.add_row([
                name.to_owned(),
                format!("{q:.4}"),
                format!("{c:.6}"),
                format!("{r:.4}"),
                format!("{:.3}", q / best[0]),
                format!("{:.1} %", 100.0 * (1.0 - c / best[1])),
            ]);
        };
        row("policy", [q, c, r]);
        for (name, values) in &self.baselines {
            let mark = if *name == self.best { " (best single)" } else { "" };
            row(&format!("{name}{mark}"), *values);
        }
        let weight =
            self.frontier.first().map(|(w, ..)| format!("; the policy is that of weight {w}"));
        let weight = weight.unwrap_or_default();
        let mut out = format!("{} requests, {} passes{weight}\n{grid}\n", self.rows, self.seeds);
        let _infallible = writeln!(
            out,
            "\nrelative quality {:.4} ± {:.4}, saving {:.1} ± {:.1} %, regret against the best single action {:.1} ± {:.1}",
            self.relative_quality.mean,
            self.relative_quality.se,
            100.0 * self.saving.mean,
            100.0 * self.saving.se,
            self.regret.mean,
            self.regret.se
        );
        self.tell_floors(&mut out);
        let tenths = |m: usize, digits: usize| -> String {
            self.curve.iter().map(|v| format!(" {:.digits$}", v[m])).collect()
        };
        let _infallible = writeln!(out, "quality by tenth:{}", tenths(0, 3));
        let _infallible = writeln!(out, "cost by tenth:   {}", tenths(1, 6));
        for (weight, q, s) in &self.frontier {
            let _infallible = writeln!(
                out,
                "weight {weight:>8}: quality {:.4} ± {:.4}, saving {:5.1} ± {:.1} %",
                q.mean,
                q.se,
                100.0 * s.mean,
                100.0 * s.se
            );
        }
        if !self.frontier.is_empty() {
            for (level, s) in &self.saving_at {
                let text = s.map_or("not reached".to_owned(), |s| {
                    format!("{:.1} ± {:.1} %", 100.0 * s.mean, 100.0 * s.se)
                });
                let _infallible =
                    writeln!(out, "saving at {level} of the best single action's quality: {text}");
            }
        }
        out
    }
}

/// Each single action, uniform, and the per-request oracle: mean quality, cost and reward.
fn baselines(
    spec: &CheckedSpec,
    table: &Table,
    quality: usize,
    cost: Option<usize>,
) -> Vec<(String, [f64; 3])> {
    let n = table.rows.len() as f64;
    let k = spec.actions().len();
    let at = |row: usize, action: usize| {
        let cost = cost.map_or(0.0, |m| table.value(row, m, action));
        [table.value(row, quality, action), cost, reward(spec, |m| table.value(row, m, action))]
    };
    let mut sums = vec![[0.0; 3]; k + 2];
    for row in 0..table.rows.len() {
        let all: Vec<[f64; 3]> = (0..k).map(|a| at(row, a)).collect();
        let best = all.iter().fold(all[0], |b, v| if v[2] > b[2] { *v } else { b });
        for i in 0..3 {
            for (sum, value) in sums.iter_mut().zip(&all) {
                sum[i] += value[i] / n;
            }
            sums[k][i] += all.iter().map(|v| v[i]).sum::<f64>() / k as f64 / n;
            sums[k + 1][i] += best[i] / n;
        }
    }
    let names = spec.actions().iter().map(|a| a.name.to_string());
    names.chain(["uniform".to_owned(), "oracle".to_owned()]).zip(sums).collect()
}

/// The largest saving of the mean frontier at relative quality `level`, linear between neighbouring weights; its
/// error by the jackknife over seeds. `points` is `[weights][seeds]` of (relative quality, saving).
fn saving_at(points: &[Vec<(f64, f64)>], level: f64) -> Option<Estimate> {
    let seeds = points.first()?.len();
    let read = |without: Option<usize>| -> Option<f64> {
        let mean: Vec<(f64, f64)> = points
            .iter()
            .map(|p| {
                let kept =
                    || p.iter().enumerate().filter(|(i, _)| Some(*i) != without).map(|(_, v)| v);
                let n = kept().count() as f64;
                (kept().map(|v| v.0).sum::<f64>() / n, kept().map(|v| v.1).sum::<f64>() / n)
            })
            .collect();
        let inside = mean.iter().filter(|(q, _)| *q >= level).map(|p| p.1);
        let crossing = mean.windows(2).filter_map(|pair| {
            let [(q0, s0), (q1, s1)] = [pair[0], pair[1]];
            let t = (q0 - level) / (q0 - q1);
            ((q0 >= level) != (q1 >= level)).then_some(s0 + t * (s1 - s0))
        });
        let reached = mean.iter().any(|(q, _)| *q < level);
        inside.chain(crossing).filter(|_| reached).max_by(f64::total_cmp)
    };
    let mean = read(None)?;
    if seeds < 2 {
        return Some(Estimate { mean, se: 0.0 });
    }
    let without: Option<Vec<f64>> = (0..seeds).map(|i| read(Some(i))).collect();
    let without = without?;
    let centre = without.iter().sum::<f64>() / seeds as f64;
    let squares: f64 = without.iter().map(|v| (v - centre) * (v - centre)).sum();
    Some(Estimate { mean, se: (squares * (seeds as f64 - 1.0) / seeds as f64).sqrt() })
}
