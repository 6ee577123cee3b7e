//! A table of what every action would have given.

use anyhow::{Context as _, Result, bail};
use pawl_domain::CheckedSpec;

use crate::commands::rows::{Fields, Rows};

/// One request.
pub struct Row {
    /// The declared features, as a JSON object.
    pub context: String,
    /// `[metrics][actions]`.
    pub values: Vec<f64>,
}

/// A table, in stream order.
pub struct Table {
    /// The requests.
    pub rows: Vec<Row>,
    actions: usize,
}

impl Table {
    /// What metric `m` of `action` would have been for request `row`.
    pub fn value(&self, row: usize, m: usize, action: usize) -> f64 {
        self.rows[row].values[m * self.actions + action]
    }

    /// Whether a row has a column of what an action would have given.
    pub fn is_row(spec: &CheckedSpec, row: &Fields) -> bool {
        columns(spec).iter().any(|(_, column)| row.has(column))
    }

    /// Reads a table for `spec`; `first` is the row that was read already.
    pub fn read(spec: &CheckedSpec, first: Fields, rest: Rows) -> Result<Self> {
        let columns = columns(spec);
        if let Some(header) = &rest.header
            && let Some(lacking) = spec.features().iter().find(|f| !header.contains(&f.name))
        {
            bail!("there is no column `{}` for the feature of that name", lacking.name);
        }
        let mut rows = Vec::new();
        for (i, row) in std::iter::once(Ok(first)).chain(rest).enumerate() {
            let row = row.and_then(|row| read_row(spec, &columns, &row));
            rows.push(row.with_context(|| format!("in row {}", i + 1))?);
        }
        Ok(Self { rows, actions: spec.actions().len() })
    }
}

/// The metric and the name of each column, `[metrics][actions]`.
fn columns(spec: &CheckedSpec) -> Vec<(usize, String)> {
    let metrics = spec.metrics().iter().enumerate();
    let of = |(m, metric): (usize, &pawl_domain::spec::Metric)| {
        let name = metric.name.clone();
        spec.actions().iter().map(move |a| (m, format!("{name}__{}", a.name)))
    };
    metrics.flat_map(of).collect()
}

fn read_row(spec: &CheckedSpec, columns: &[(usize, String)], row: &Fields) -> Result<Row> {
    let mut values = Vec::with_capacity(columns.len());
    for (metric, column) in columns {
        if !row.has(column) {
            bail!("there is no column `{column}`");
        }
        let value = row.metric(spec, *metric, column)?;
        values.push(value.with_context(|| format!("column `{column}` is empty"))?);
    }
    Ok(Row { context: row.context(spec)?, values })
}
