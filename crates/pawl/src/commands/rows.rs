//! Rows of a file by the names of their columns: CSV, JSON lines, plain or gzipped, or Parquet.

mod write;

use std::{
    collections::BTreeMap,
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
use serde_json::{Map, Value};

pub use write::{Cells, Format, Writer};

/// The cells of a row. A cell of CSV is text.
#[derive(Clone, Debug, Default)]
pub struct Fields(pub BTreeMap<String, Value>);

/// A file's rows, in its order.
pub struct Rows {
    /// The columns, where the file names them before its rows.
    pub header: Option<Vec<String>>,
    rows: Box<dyn Iterator<Item = Result<Fields>>>,
}

impl Iterator for Rows {
    type Item = Result<Fields>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rows.next()
    }
}

impl Rows {
    /// Opens a file. Its name says the format: `.csv` or `.jsonl`, with `.gz` behind it or not, or `.parquet`.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.to_string_lossy();
        let file = File::open(path).with_context(|| format!("cannot open `{name}`"))?;
        let plain = name.trim_end_matches(".gz");
        let reader: Box<dyn Read> = if plain.len() < name.len() {
            Box::new(MultiGzDecoder::new(BufReader::with_capacity(1 << 16, file)))
        } else {
            Box::new(file)
        };
        if plain.ends_with(".parquet") {
            from_parquet(path)
        } else if plain.ends_with(".csv") {
            from_csv(reader)
        } else if plain.ends_with(".jsonl") || plain.ends_with(".ndjson") {
            Ok(from_json_lines(reader))
        } else {
            bail!(
                "`{name}` is of an unknown format: name it .csv, .jsonl (with .gz or not) or .parquet"
            )
        }
    }
}

fn from_csv(reader: impl Read + 'static) -> Result<Rows> {
    let mut csv = csv::Reader::from_reader(BufReader::with_capacity(1 << 16, reader));
    let header: Vec<String> = csv.headers()?.iter().map(str::to_owned).collect();
    let names = header.clone();
    let rows = csv.into_records().map(move |record| {
        let record = record?;
        let cells = names.iter().zip(&record);
        Ok(Fields(cells.map(|(n, c)| (n.clone(), Value::String(c.to_owned()))).collect()))
    });
    Ok(Rows { header: Some(header), rows: Box::new(rows) })
}

fn from_json_lines(reader: impl Read + 'static) -> Rows {
    let lines = BufReader::with_capacity(1 << 16, reader).lines();
    let blank = |line: &std::io::Result<String>| line.as_ref().is_ok_and(|l| l.trim().is_empty());
    let rows = lines.filter(move |line| !blank(line));
    let rows = rows.map(|line| Ok(Fields(serde_json::from_str(&line?)?)));
    Rows { header: None, rows: Box::new(rows) }
}

#[cfg(feature = "parquet")]
fn from_parquet(path: &Path) -> Result<Rows> {
    use parquet::file::reader::SerializedFileReader;
    let reader = SerializedFileReader::new(File::open(path)?)?;
    let rows = reader.into_iter().map(|row| match row?.to_json_value() {
        Value::Object(cells) => Ok(Fields(cells.into_iter().collect())),
        other => bail!("holds `{other}`, not a row of named columns"),
    });
    Ok(Rows { header: None, rows: Box::new(rows) })
}

#[cfg(not(feature = "parquet"))]
fn from_parquet(_: &Path) -> Result<Rows> {
    bail!(
        "this binary was built without Parquet: build it with `--features parquet`, or convert the table to CSV"
    )
}

impl Fields {
    /// Whether there is such a column.
    pub fn has(&self, column: &str) -> bool {
        self.0.contains_key(column)
    }

    /// The cell of a column, where it is not empty.
    pub fn get(&self, column: &str) -> Option<&Value> {
        let cell = self.0.get(column)?;
        let empty = cell.is_null() || cell.as_str().is_some_and(|s| s.trim().is_empty());
        (!empty).then_some(cell)
    }

    /// The cell as text, without quotes.
    pub fn text(&self, column: &str) -> Option<String> {
        Some(match self.get(column)? {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }

    /// The cell as a finite number; `None` if it is empty.
    pub fn number(&self, column: &str) -> Result<Option<f64>> {
        let Some(cell) = self.get(column) else { return Ok(None) };
        let number = match cell {
            Value::String(text) => text.trim().parse().ok(),
            Value::Bool(b) => Some(f64::from(u8::from(*b))),
            other => other.as_f64(),
        };
        match number {
            Some(n) if n.is_finite() => Ok(Some(n)),
            _ => bail!("column `{column}` holds {cell}, not a finite number"),
        }
    }

    /// The same of a metric, within its bounds.
    pub fn metric(&self, spec: &CheckedSpec, metric: usize, column: &str) -> Result<Option<f64>> {
        let value = self.number(column)?;
        if let (Some(x), Some([low, high])) = (value, spec.metrics()[metric].bounds)
            && !(low..=high).contains(&x)
        {
            bail!("column `{column}` holds `{x}`, outside the metric's bounds {low} to {high}");
        }
        Ok(value)
    }

    /// The declared features as a JSON object.
    pub fn context(&self, spec: &CheckedSpec) -> Result<String> {
        let mut context = Map::new();
        for feature in spec.features() {
            let Some(cell) = self.0.get(&feature.name) else { continue };
            let value = match cell {
                Value::String(text) if text.is_empty() => continue,
                Value::String(text) => typed(feature, text)?,
                other => other.clone(),
            };
            context.insert(feature.name.clone(), value);
        }
        Ok(Value::Object(context).to_string())
    }
}

/// Text as the JSON value that its feature declares.
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
