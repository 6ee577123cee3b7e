//! A log of what was done: requests with the action taken, its probability where known, and what came of it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use pawl_domain::CheckedSpec;
use pawl_stats::rng::Stream;

use crate::commands::rows::{Fields, Rows};

/// One request of a log.
pub struct Entry {
    /// The declared features, as a JSON object.
    pub context: String,
    /// The action taken.
    pub action: usize,
    /// With which probability.
    pub probability: Option<f64>,
    /// What came of it, `[metrics]`.
    pub values: Vec<Option<f64>>,
    /// The row as it was.
    pub fields: Fields,
}

/// A log, in its order.
pub struct History {
    /// The requests.
    pub entries: Vec<Entry>,
}

/// The column of the action.
pub const ACTION: &str = "action";
/// The column of its probability.
pub const PROBABILITY: &str = "probability";

/// The least probability that a log may hold: one value would weigh as much as a million others.
const PROBABILITY_MIN: f64 = 1e-6;

/// Reads a row of a log.
pub fn read_entry(spec: &CheckedSpec, fields: Fields) -> Result<Entry> {
    let name = fields.text(ACTION).context("column `action` is empty")?;
    let action = spec.action(&name).with_context(|| {
        let known: Vec<&str> = spec.actions().iter().map(|a| a.name.as_str()).collect();
        format!("column `action` holds `{name}`, which is none of the spec's: {}", known.join(", "))
    })?;
    let probability = fields.number(PROBABILITY)?;
    if probability.is_some_and(|p| !(PROBABILITY_MIN..=1.0).contains(&p)) {
        bail!(
            "column `probability` holds `{}`: at least {PROBABILITY_MIN} and at most 1",
            probability.unwrap_or(0.0)
        );
    }
    let metric = |m: usize| fields.metric(spec, m, &spec.metrics()[m].name);
    let values = (0..spec.metrics().len()).map(metric).collect::<Result<_>>()?;
    Ok(Entry { context: fields.context(spec)?, action, probability, values, fields })
}

impl History {
    /// Reads a log for `spec`; `first` is the row that was read already.
    pub fn read(spec: &CheckedSpec, first: Fields, rest: Rows) -> Result<Self> {
        let mut entries = Vec::new();
        for (i, row) in std::iter::once(Ok(first)).chain(rest).enumerate() {
            let entry = row.and_then(|row| read_entry(spec, row));
            entries.push(entry.with_context(|| format!("in row {}", i + 1))?);
        }
        Ok(Self { entries })
    }

    /// Whether every action's probability is known. A log in which only some are is refused.
    pub fn has_probabilities(&self) -> Result<bool> {
        let known = self.entries.iter().filter(|e| e.probability.is_some()).count();
        if known != 0 && known != self.entries.len() {
            let n = self.entries.len();
            bail!(
                "column `probability` is empty in {} of {n} rows; fill it or leave the column out",
                n - known
            );
        }
        Ok(known > 0)
    }

    /// `n` rows, as many of each kind of request as there are in proportion, at least one while there is room. Kinds are
    /// told by the action taken and the categories among the features.
    pub fn sample(&self, spec: &CheckedSpec, n: usize) -> Vec<&Fields> {
        let categories: Vec<&str> = spec
            .features()
            .iter()
            .filter(|f| f.encoding.kind() == pawl_domain::spec::FeatureType::Category)
            .map(|f| f.name.as_str())
            .collect();
        let mut strata: BTreeMap<(usize, Vec<Option<String>>), Vec<usize>> = BTreeMap::new();
        for (i, entry) in self.entries.iter().enumerate() {
            let kinds = categories.iter().map(|c| entry.fields.text(c)).collect();
            strata.entry((entry.action, kinds)).or_default().push(i);
        }
        let all = self.entries.len();
        let n = n.min(all);
        // Largest remainders of the proportional shares, the larger strata first where they are equal.
        let mut order: Vec<(Vec<usize>, usize, f64)> = strata
            .into_values()
            .map(|rows| {
                let share = rows.len() as f64 * n as f64 / all as f64;
                (rows, share as usize, share.fract())
            })
            .collect();
        let left = n - order.iter().map(|(_, taken, _)| taken).sum::<usize>();
        order.sort_by(|a, b| {
            (a.1 > 0).cmp(&(b.1 > 0)).then(b.2.total_cmp(&a.2)).then(b.0.len().cmp(&a.0.len()))
        });
        for (_, taken, _) in order.iter_mut().take(left) {
            *taken += 1;
        }
        let mut stream = Stream::new(1);
        let mut chosen: Vec<usize> = order
            .into_iter()
            .flat_map(|(mut rows, taken, _)| {
                stream.shuffle(&mut rows);
                rows.truncate(taken);
                rows
            })
            .collect();
        chosen.sort_unstable();
        chosen.into_iter().map(|i| &self.entries[i].fields).collect()
    }
}
