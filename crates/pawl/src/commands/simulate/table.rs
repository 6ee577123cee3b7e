//! A table of what every action would have given: CSV or JSON lines, plain or gzipped, or Parquet.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use flate2::read::MultiGzDecoder;
use pawl_domain::{
    CheckedSpec,
    spec::{Feature, FeatureType},
};
use serde_json::{Map, Value, value::RawValue};

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

    /// Reads a table for `spec`. The name says the format: `.csv` or `.jsonl`, with `.gz` behind it or not.
    pub fn read(spec: &CheckedSpec, path: &Path) -> Result<Self> {
        let name = path.to_string_lossy();
        let file = File::open(path).with_context(|| format!("cannot open `{name}`"))?;
        let plain = name.trim_end_matches(".gz");
        let reader: Box<dyn Read> = if plain.len() < name.len() {
            Box::new(MultiGzDecoder::new(file))
        } else {
            Box::new(file)
        };
        let rows = if plain.ends_with(".parquet") {
            from_parquet(spec, path)
        } else if plain.ends_with(".csv") {
            from_csv(spec, reader)
        } else if plain.ends_with(".jsonl") || plain.ends_with(".ndjson") {
            from_json_lines(spec, reader)
        } else {
            bail!("`{name}` is of an unknown format: name it .csv, .jsonl (with .gz or not) or .parquet")
        }
        .with_context(|| format!("in `{name}`"))?;
        if rows.is_empty() {
            bail!("`{name}` has no rows");
        }
        Ok(Self { rows, actions: spec.actions().len() })
    }
}

fn columns(spec: &CheckedSpec) -> impl Iterator<Item = (&str, &str)> {
    let metrics = spec.metrics().iter();
    metrics.flat_map(|m| spec.actions().iter().map(|a| (m.name.as_str(), a.name.as_str())))
}

fn check_value(spec: &CheckedSpec, metric: &str, column: &str, value: f64) -> Result<f64> {
    let bounds = spec.metric(metric).and_then(|m| spec.metrics()[m].bounds);
    if !value.is_finite() || bounds.is_some_and(|[low, high]| !(low..=high).contains(&value)) {
        bail!(
            "column `{column}` holds `{value}`, which is not finite or outside the metric's bounds"
        );
    }
    Ok(value)
}

fn from_csv(spec: &CheckedSpec, reader: impl Read) -> Result<Vec<Row>> {
    let mut csv = csv::Reader::from_reader(BufReader::with_capacity(1 << 16, reader));
    let header = csv.headers()?.clone();
    let find = |name: &str| header.iter().position(|h| h == name);
    let mut places = Vec::new();
    for (metric, action) in columns(spec) {
        let column = format!("{metric}__{action}");
        let Some(place) = find(&column) else { bail!("there is no column `{column}`") };
        places.push((metric, column, place));
    }
    let mut features = Vec::new();
    for feature in spec.features() {
        let Some(place) = find(&feature.name) else {
            bail!("there is no column `{}` for the feature of that name", feature.name)
        };
        features.push((feature, place));
    }
    let mut rows = Vec::new();
    for (i, record) in csv.records().enumerate() {
        let record = record?;
        let line = || format!("in row {}", i + 1);
        let mut context = Map::new();
        for (feature, place) in &features {
            let cell = record.get(*place).unwrap_or_default();
            if !cell.is_empty() {
                context.insert(feature.name.clone(), typed(feature, cell).with_context(line)?);
            }
        }
        let mut values = Vec::with_capacity(places.len());
        for (metric, column, place) in &places {
            let cell = record.get(*place).unwrap_or_default();
            let value: f64 = cell.trim().parse().with_context(|| {
                format!("column `{column}` holds `{cell}`, not a number, {}", line())
            })?;
            values.push(check_value(spec, metric, column, value).with_context(line)?);
        }
        rows.push(Row { context: Value::Object(context).to_string(), values });
    }
    Ok(rows)
}

/// A cell as the JSON value that its feature declares.
fn typed(feature: &Feature, cell: &str) -> Result<Value> {
    match feature.encoding.kind() {
        FeatureType::Category | FeatureType::Text => Ok(Value::String(cell.to_owned())),
        FeatureType::Number | FeatureType::Vector | FeatureType::Boolean => {
            serde_json::from_str(cell.trim()).with_context(|| {
                let kind = feature.encoding.kind().as_str();
                format!("column `{}` holds `{cell}`, not a {kind}", feature.name)
            })
        }
    }
}

fn from_json_lines(spec: &CheckedSpec, reader: impl Read) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (i, line) in BufReader::with_capacity(1 << 16, reader).lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let row: Row = json_row(spec, &line).with_context(|| format!("in line {}", i + 1))?;
        rows.push(row);
    }
    Ok(rows)
}

/// Rows of a Parquet file, by the names of its columns.
#[cfg(feature = "parquet")]
fn from_parquet(spec: &CheckedSpec, path: &Path) -> Result<Vec<Row>> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let reader = SerializedFileReader::new(File::open(path)?)?;
    let mut rows = Vec::new();
    for (i, row) in reader.get_row_iter(None)?.enumerate() {
        let line = row?.to_json_value().to_string();
        rows.push(json_row(spec, &line).with_context(|| format!("in row {}", i + 1))?);
    }
    Ok(rows)
}

#[cfg(not(feature = "parquet"))]
fn from_parquet(_: &CheckedSpec, _: &Path) -> Result<Vec<Row>> {
    bail!(
        "this binary was built without Parquet: build it with `--features parquet`, or convert the table to CSV"
    )
}

fn json_row(spec: &CheckedSpec, line: &str) -> Result<Row> {
    let fields: std::collections::BTreeMap<String, &RawValue> = serde_json::from_str(line)?;
    let mut values = Vec::new();
    for (metric, action) in columns(spec) {
        let column = format!("{metric}__{action}");
        let Some(raw) = fields.get(&column) else { bail!("there is no field `{column}`") };
        let value: f64 = serde_json::from_str(raw.get())
            .with_context(|| format!("field `{column}` holds `{}`, not a number", raw.get()))?;
        values.push(check_value(spec, metric, &column, value)?);
    }
    let declared = spec.features().iter().filter_map(|f| {
        let key = serde_json::to_string(&f.name).ok()?;
        Some(format!("{key}:{}", fields.get(&f.name)?.get()))
    });
    let context = format!("{{{}}}", declared.collect::<Vec<_>>().join(","));
    Ok(Row { context, values })
}
