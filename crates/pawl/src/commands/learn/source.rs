//! Where examples come from, and the thread that makes them into events.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use anyhow::{Context as _, Result, anyhow, bail};
use flate2::read::MultiGzDecoder;
use pawl_domain::{
    CheckedSpec, Event, Label,
    examples::{Examples, Head, Rows},
    spec::Kind,
};
use pawl_model::{
    HashKey,
    context::{Context, stored_features},
};
use pawl_store::{
    Disk, Log, RealDisk,
    log::{Config, OpenError},
};
use serde_json::value::RawValue;

use super::cells::{Columns, Maker};

/// Examples of one event.
const ROWS: usize = 2048;

/// Examples on their way from the reader to the fold.
pub struct Chunk {
    event: Event,
    /// Rows without a label.
    pub unlabelled: u64,
    /// Bytes of the source read so far.
    pub read: u64,
}

impl Chunk {
    fn new(spec: &CheckedSpec, features: Vec<String>) -> Self {
        let examples = Examples {
            model: spec.name().clone(),
            received_ms: 0,
            principal: None,
            metadata: None,
            features,
            rows: Rows::default(),
        };
        Self { event: Event::Examples(examples), unlabelled: 0, read: 0 }
    }

    /// The event.
    pub const fn event(&self) -> &Event {
        &self.event
    }

    const fn rows(&mut self) -> Option<&mut Rows> {
        match &mut self.event {
            Event::Examples(examples) => Some(&mut examples.rows),
            _ => None,
        }
    }

    /// Whether it has no rows.
    pub const fn is_empty(&self) -> bool {
        match &self.event {
            Event::Examples(examples) => examples.rows.is_empty(),
            _ => true,
        }
    }
}

/// The two ends of the reader: full chunks out, used ones back.
pub struct Pipe<'a> {
    full: &'a mpsc::SyncSender<Chunk>,
    used: &'a mpsc::Receiver<Chunk>,
    spec: &'a CheckedSpec,
    features: Vec<String>,
    read: &'a AtomicU64,
    chunk: Option<Chunk>,
}

impl Pipe<'_> {
    fn chunk(&mut self) -> &mut Chunk {
        let (used, spec, features) = (self.used, self.spec, &self.features);
        self.chunk.get_or_insert_with(|| {
            let mut chunk = used.try_recv().unwrap_or_else(|_| Chunk::new(spec, features.clone()));
            chunk.unlabelled = 0;
            if let Some(rows) = chunk.rows() {
                rows.clear();
            }
            chunk
        })
    }

    /// The rows that gather.
    pub fn rows(&mut self) -> Result<&mut Rows> {
        self.chunk().rows().ok_or_else(|| anyhow!("a chunk of another kind"))
    }

    /// Counts a row without a label.
    pub fn unlabelled(&mut self) {
        self.chunk().unlabelled += 1;
    }

    /// Hands the chunk on once it is full. False if nobody takes it any more.
    pub fn pass(&mut self) -> Result<bool> {
        if self.rows()?.len() < ROWS {
            return Ok(true);
        }
        Ok(self.flush())
    }

    fn flush(&mut self) -> bool {
        let Some(mut chunk) = self.chunk.take() else { return true };
        chunk.read = self.read.load(Ordering::Relaxed);
        self.full.send(chunk).is_ok()
    }
}

/// What a file holds.
enum Format {
    Csv,
    JsonLines,
    Log,
}

/// A source of labelled examples.
pub struct Source {
    spec: Arc<CheckedSpec>,
    key: HashKey,
    path: PathBuf,
    format: Format,
    gzip: bool,
    bytes: u64,
    target: String,
    weight: Option<String>,
}

/// Counts the bytes that pass.
struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl Source {
    /// Looks at the source. The name of a file says its format.
    pub fn open(
        path: &Path,
        spec: &Arc<CheckedSpec>,
        key: HashKey,
        target: &str,
        weight: Option<&str>,
    ) -> Result<Self> {
        let name = path.to_string_lossy();
        let metadata = std::fs::metadata(path).with_context(|| format!("cannot open `{name}`"))?;
        let plain = name.trim_end_matches(".gz");
        let format = if metadata.is_dir() {
            Format::Log
        } else if plain.ends_with(".csv") {
            Format::Csv
        } else if plain.ends_with(".jsonl") || plain.ends_with(".ndjson") {
            Format::JsonLines
        } else {
            bail!(
                "`{name}` is of an unknown format: name it .csv or .jsonl (with .gz or not), or give a data directory"
            )
        };
        Ok(Self {
            spec: spec.clone(),
            key,
            path: path.to_owned(),
            format,
            gzip: plain.len() < name.len(),
            bytes: metadata.len(),
            target: target.to_owned(),
            weight: weight.map(str::to_owned),
        })
    }

    /// Its size, for the progress bar.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads it through, and hands on every example.
    pub fn read(&self, full: &mpsc::SyncSender<Chunk>, used: &mpsc::Receiver<Chunk>) -> Result<()> {
        let read = Arc::new(AtomicU64::new(0));
        let mut pipe = Pipe {
            full,
            used,
            spec: &self.spec,
            features: stored_features(&self.spec).map(str::to_owned).collect(),
            read: &read,
            chunk: None,
        };
        if let Format::Log = self.format {
            return self.read_log(full, used, &read);
        }
        let file = Counted { inner: File::open(&self.path)?, read: read.clone() };
        let reader: Box<dyn Read> =
            if self.gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        match self.format {
            Format::Csv => {
                let columns = |header: &[&str]| {
                    Columns::find(&self.spec, header, &self.target, self.weight.as_deref())
                };
                let mut maker = Maker { spec: &self.spec, key: &self.key, pipe: &mut pipe };
                super::cells::read(reader, columns, &mut maker)?;
            }
            _ => self.read_json_lines(reader, &mut pipe)?,
        }
        pipe.flush();
        Ok(())
    }

    fn read_json_lines(&self, reader: impl Read, pipe: &mut Pipe<'_>) -> Result<()> {
        use io::BufRead as _;
        for (i, line) in io::BufReader::with_capacity(1 << 16, reader).lines().enumerate() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            self.json_line(&line, pipe).with_context(|| format!("in line {}", i + 1))?;
            if !pipe.pass()? {
                break;
            }
        }
        Ok(())
    }

    /// An example is an object with the features and the label as its fields.
    fn json_line(&self, line: &str, pipe: &mut Pipe<'_>) -> Result<()> {
        let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(line)?;
        let number = |raw: &RawValue| raw.get().parse::<f64>().ok();
        let label = fields.get(self.target.as_str()).map_or("null", |raw| raw.get());
        let text: String;
        let label = match label.as_bytes() {
            [b'n', ..] => {
                pipe.unlabelled();
                return Ok(());
            }
            [b'"', ..] => {
                text = serde_json::from_str(label)?;
                named(&self.spec, &text)?
            }
            _ => named(&self.spec, label)?,
        };
        let weight = match &self.weight {
            None => 1.0,
            Some(name) => fields
                .get(name.as_str())
                .and_then(|raw| number(raw))
                .filter(|w| *w >= 0.0 && w.is_finite())
                .with_context(|| format!("field `{name}` is not a weight of 0 or more"))?,
        };
        let context = Context::read(&self.spec, &self.key, line)?;
        let values: Vec<_> = context.stored(&self.spec).collect();
        let head = Head { label, weight, at_ms: None, id: None };
        pipe.rows()?.push(&head, values.iter().map(|v| &**v));
        Ok(())
    }

    /// The examples of this model in the log of a stopped server.
    fn read_log(
        &self,
        full: &mpsc::SyncSender<Chunk>,
        used: &mpsc::Receiver<Chunk>,
        read: &AtomicU64,
    ) -> Result<()> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(&self.path)?);
        let config = Config { read_only: true, ..Config::default() };
        let (log, _) = Log::open(disk, config, 0, false)
            .map_err(|e: OpenError| anyhow!("cannot read the log: {e}"))?;
        let log = Arc::new(log);
        // Below, contexts were taken out.
        let mut reader = log.reader(log.first().max(log.redacted_below()));
        while let Some(entry) = reader.next_entry()? {
            let Event::Examples(examples) = &entry.event else { continue };
            if examples.model != *self.spec.name() {
                continue;
            }
            while used.try_recv().is_ok() {} // they are not used again
            read.store(entry.next, Ordering::Relaxed);
            let chunk = Chunk { event: entry.event, unlabelled: 0, read: entry.next };
            if full.send(chunk).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// A label as it is written, checked against the spec.
pub fn named<'a>(spec: &CheckedSpec, text: &'a str) -> Result<Label<'a>> {
    if spec.kind() == Kind::Classifier {
        if spec.label(Label::Class(text)).is_some() {
            return Ok(Label::Class(text));
        }
        if let Ok(y) = text.parse::<f64>()
            && spec.label(Label::Number(y)).is_some()
        {
            return Ok(Label::Number(y));
        }
        bail!("`{text}` is not a class of `{}`; add it to `label.classes`", spec.name());
    }
    let y: f64 = text
        .parse()
        .ok()
        .filter(|y: &f64| y.abs() <= 1e15)
        .with_context(|| format!("the label `{text}` is not a number, or larger than 1e15"))?;
    if let Some([low, high]) = spec.metrics()[0].bounds
        && !(low..=high).contains(&y)
    {
        bail!("the label `{text}` is outside its bounds, {low} to {high}");
    }
    Ok(Label::Number(y))
}

#[cfg(test)]
pub mod tests {
    use pawl_domain::Value;

    use super::*;

    /// What a reader makes: label and first value of every row.
    pub fn through(
        spec: &CheckedSpec,
        work: impl FnOnce(&mut Pipe<'_>) -> Result<()>,
    ) -> Result<Vec<(String, Value<'static>)>> {
        let (full, chunks) = mpsc::sync_channel(1024);
        let (_empty, used) = mpsc::channel();
        let features = stored_features(spec).map(str::to_owned).collect();
        let read = AtomicU64::new(0);
        let mut pipe = Pipe { full: &full, used: &used, spec, features, read: &read, chunk: None };
        work(&mut pipe)?;
        pipe.flush();
        drop(full);
        let mut rows = Vec::new();
        for chunk in chunks {
            let Event::Examples(examples) = chunk.event else { continue };
            let mut reader = examples.rows.reader();
            while let Some(head) = reader.head() {
                let label = match head.label {
                    Label::Class(name) => name.to_owned(),
                    Label::Number(y) => y.to_string(),
                };
                let value = match reader.value().unwrap_or_default() {
                    Value::Text(text) => Value::Text(text.into_owned().into()),
                    Value::Number(x) => Value::Number(x),
                    _ => Value::Missing,
                };
                rows.push((label, value));
            }
        }
        Ok(rows)
    }
}
