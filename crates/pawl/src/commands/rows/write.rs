//! Rows into a file: JSON lines or CSV, plain or gzipped, or Parquet.

use std::{io::Write, path::Path};

use anyhow::{Result, bail};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Map, Value};

/// Rows of a row group of Parquet.
#[cfg(feature = "parquet")]
const GROUP: usize = 65_536;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cells {
    Text,
    Number,
    Integer,
    Boolean,
}

/// How a file is written, as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    kind: Kind,
    gzip: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    JsonLines,
    Csv,
    Parquet,
}

impl Format {
    /// The format that a file's name says.
    pub fn of(path: &Path) -> Result<Self> {
        let name = path.to_string_lossy();
        let plain = name.trim_end_matches(".gz");
        let gzip = plain.len() < name.len();
        let kind = match plain.rsplit('.').next() {
            Some("jsonl" | "ndjson") => Kind::JsonLines,
            Some("csv") => Kind::Csv,
            Some("parquet") if !gzip && cfg!(feature = "parquet") => Kind::Parquet,
            Some("parquet") if !gzip => {
                bail!(
                    "this binary was built without Parquet: build it with `--features parquet`, or name the file .jsonl"
                )
            }
            _ => bail!(
                "`{name}` is of an unknown format: name it .jsonl or .csv (with .gz or not), or .parquet"
            ),
        };
        Ok(Self { kind, gzip })
    }
}

/// Where plain or gzipped bytes go.
enum Sink<W: Write> {
    Plain(W),
    Gzip(Box<GzEncoder<W>>),
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(to) => to.write(bytes),
            Self::Gzip(to) => to.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(to) => to.flush(),
            Self::Gzip(to) => to.flush(),
        }
    }
}

impl<W: Write> Sink<W> {
    fn finish(self) -> Result<W> {
        Ok(match self {
            Self::Plain(to) => to,
            Self::Gzip(to) => to.finish()?,
        })
    }
}

enum Rows<W: Write + Send> {
    JsonLines(Sink<W>),
    Csv(Box<csv::Writer<Sink<W>>>),
    #[cfg(feature = "parquet")]
    Parquet(parquet::Table<W>),
}

/// Writes rows of named cells.
pub struct Writer<W: Write + Send> {
    columns: Vec<(String, Cells)>,
    rows: Rows<W>,
}

impl<W: Write + Send> Writer<W> {
    /// Begins a file of these columns.
    pub fn new(format: Format, to: W, columns: Vec<(String, Cells)>) -> Result<Self> {
        let sink = |to| {
            if format.gzip {
                Sink::Gzip(Box::new(GzEncoder::new(to, Compression::default())))
            } else {
                Sink::Plain(to)
            }
        };
        let rows = match format.kind {
            Kind::JsonLines => Rows::JsonLines(sink(to)),
            Kind::Csv => {
                let mut csv = csv::Writer::from_writer(sink(to));
                csv.write_record(columns.iter().map(|(name, _)| name))?;
                Rows::Csv(Box::new(csv))
            }
            #[cfg(feature = "parquet")]
            Kind::Parquet => Rows::Parquet(parquet::Table::new(to, &columns)?),
            #[cfg(not(feature = "parquet"))]
            Kind::Parquet => bail!("this binary was built without Parquet"),
        };
        Ok(Self { columns, rows })
    }

    /// Writes a row. Cells of other columns are left out, except from JSON lines.
    pub fn row(&mut self, mut row: Map<String, Value>) -> Result<()> {
        match &mut self.rows {
            Rows::JsonLines(to) => writeln!(to, "{}", Value::Object(row))?,
            Rows::Csv(csv) => {
                csv.write_record(self.columns.iter().map(|(name, _)| text(row.remove(name))))?;
            }
            #[cfg(feature = "parquet")]
            Rows::Parquet(table) => table.row(&self.columns, row)?,
        }
        Ok(())
    }

    /// Ends the file.
    pub fn finish(self) -> Result<W> {
        match self.rows {
            Rows::JsonLines(to) => to.finish(),
            Rows::Csv(csv) => match csv.into_inner() {
                Ok(to) => to.finish(),
                Err(e) => bail!("{}", e.error()),
            },
            #[cfg(feature = "parquet")]
            Rows::Parquet(table) => table.finish(&self.columns),
        }
    }
}

/// A cell as text; a missing one is empty.
fn text(value: Option<Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
    }
}

#[cfg(feature = "parquet")]
mod parquet {
    use std::{io::Write, sync::Arc};

    use anyhow::Result;
    use parquet::{
        basic::{Compression, ConvertedType, Repetition, Type as Physical},
        data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type},
        file::{
            properties::WriterProperties,
            writer::{SerializedColumnWriter, SerializedFileWriter},
        },
        schema::types::Type,
    };
    use serde_json::{Map, Value};

    use super::{Cells, GROUP, text};

    /// Rows, held until there are enough for a row group.
    pub struct Table<W: Write + Send> {
        file: SerializedFileWriter<W>,
        held: Vec<Map<String, Value>>,
    }

    fn field((name, cells): &(String, Cells)) -> Result<Arc<Type>> {
        let (physical, converted) = match cells {
            Cells::Text => (Physical::BYTE_ARRAY, ConvertedType::UTF8),
            Cells::Number => (Physical::DOUBLE, ConvertedType::NONE),
            Cells::Integer => (Physical::INT64, ConvertedType::NONE),
            Cells::Boolean => (Physical::BOOLEAN, ConvertedType::NONE),
        };
        let built = Type::primitive_type_builder(name, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_converted_type(converted)
            .build()?;
        Ok(Arc::new(built))
    }

    /// Writes those cells that are there.
    fn put<T: DataType>(
        column: &mut SerializedColumnWriter<'_>,
        cells: impl Iterator<Item = Option<T::T>>,
    ) -> Result<()> {
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        for cell in cells {
            levels.push(i16::from(cell.is_some()));
            values.extend(cell);
        }
        column.typed::<T>().write_batch(&values, Some(&levels), None)?;
        Ok(())
    }

    impl<W: Write + Send> Table<W> {
        pub fn new(to: W, columns: &[(String, Cells)]) -> Result<Self> {
            let fields = columns.iter().map(field).collect::<Result<_>>()?;
            let schema = Type::group_type_builder("decisions").with_fields(fields).build()?;
            let properties =
                WriterProperties::builder().set_compression(Compression::SNAPPY).build();
            let file = SerializedFileWriter::new(to, Arc::new(schema), Arc::new(properties))?;
            Ok(Self { file, held: Vec::new() })
        }

        pub fn row(&mut self, columns: &[(String, Cells)], row: Map<String, Value>) -> Result<()> {
            self.held.push(row);
            if self.held.len() < GROUP { Ok(()) } else { self.group(columns) }
        }

        fn group(&mut self, columns: &[(String, Cells)]) -> Result<()> {
            let mut held = core::mem::take(&mut self.held);
            let mut group = self.file.next_row_group()?;
            for (name, cells) in columns {
                let Some(mut open) = group.next_column()? else { break };
                let column = &mut open;
                let given = held.iter_mut().map(|row| row.remove(name).filter(|v| !v.is_null()));
                match cells {
                    Cells::Number => put::<DoubleType>(column, given.map(|v| v?.as_f64()))?,
                    Cells::Integer => put::<Int64Type>(column, given.map(|v| v?.as_i64()))?,
                    Cells::Boolean => put::<BoolType>(column, given.map(|v| v?.as_bool()))?,
                    Cells::Text => {
                        let cell =
                            |v: Option<Value>| Some(ByteArray::from(text(Some(v?)).as_str()));
                        put::<ByteArrayType>(column, given.map(cell))?;
                    }
                }
                open.close()?;
            }
            group.close()?;
            Ok(())
        }

        pub fn finish(mut self, columns: &[(String, Cells)]) -> Result<W> {
            if !self.held.is_empty() {
                self.group(columns)?;
            }
            Ok(self.file.into_inner()?)
        }
    }
}
