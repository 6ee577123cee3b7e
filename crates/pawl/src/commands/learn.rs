//! `pawl learn`: a regressor or classifier from a file of labelled examples, through the engine of the server.

mod cells;
mod report;
mod source;

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use pawl_domain::{
    CheckedSpec, Event,
    event::Change,
    spec::{Kind, LABEL},
};
use pawl_driver::Unlogged;
use pawl_engine::Status;
use pawl_model::HashKey;
use pawl_store::registry::Registry;

use self::source::{Chunk, Source};
use super::{model, read_spec};
use crate::client::{Server, segment};

/// Options of `pawl learn`.
#[derive(Args, Debug)]
pub struct Learn {
    /// The model's spec, TOML
    spec: PathBuf,
    /// Labelled examples: .csv or .jsonl, with .gz or not, or the data directory of a stopped server
    #[arg(long)]
    data: PathBuf,
    /// The column or field of the label
    #[arg(long, default_value = LABEL)]
    target: String,
    /// A column or field with the importance of each example
    #[arg(long)]
    weight: Option<String>,
    /// Leave what was learned in this file (.safetensors)
    #[arg(long)]
    out: Option<PathBuf>,
    /// Leave what was learned on the server: a new model, or a new version of the one of that name
    #[arg(long)]
    leave: bool,
}

/// What came of it.
struct Learned {
    fold: Unlogged,
    /// Rows without a label.
    unlabelled: u64,
    seconds: f64,
}

impl Learn {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        let spec = Arc::new(read_spec(&self.spec)?);
        if let Some(out) =
            self.out.as_ref().filter(|o| o.extension().is_none_or(|e| e != "safetensors"))
        {
            bail!("`--out {}` must end in .safetensors", out.display());
        }
        if spec.kind() == Kind::Policy {
            bail!("`{}` is a policy, which `pawl simulate` runs over a table", spec.name());
        }
        let key = self.hash_key(&spec, server)?;
        let learned = self.learn(&spec, key)?;
        let state = learned.fold.engine().state();
        let enrolled = state.models.get(spec.name()).and_then(|m| m.production());
        let enrolled = enrolled.ok_or_else(|| anyhow!("the model is not enrolled"))?;
        if let Status::Quarantined { why, at_example } = enrolled.status() {
            bail!("learning stopped at example {at_example}: {why}");
        }
        let report = report::Report {
            spec: &spec,
            enrolled,
            tally: &state.models[spec.name()].tally,
            unlabelled: learned.unlabelled,
            seconds: learned.seconds,
        };
        let mut json = report.to_json();
        let mut text = report.to_text().trim_end().to_owned();
        if self.out.is_some() || self.leave {
            let bytes = enrolled.artifact(&key)?;
            if let Some(out) = &self.out {
                model::write_artifact(out, &bytes)?;
                text.push_str(&format!("\nwritten to `{}`", out.display()));
            }
            if self.leave {
                let (reply, say) = model::leave(server, &spec, bytes)?;
                text.push_str(&format!("\n{}", say(&reply)));
                json["left"] = reply;
            }
        }
        if server.json {
            say!("{json}");
        } else {
            say!("{text}");
        }
        Ok(())
    }

    /// The key under which words are hashed where the model will answer. A run that leaves nothing needs none.
    fn hash_key(&self, spec: &CheckedSpec, server: &Server) -> Result<HashKey> {
        if !spec.is_keyed() || (self.out.is_none() && !self.leave) {
            return Ok(HashKey::default());
        }
        if self.data.is_dir() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let path = self.data.join("registry.sqlite");
            let secret = runtime.block_on(Registry::hash_secret_of(&path))?;
            let secret = secret.with_context(|| {
                let shown = self.data.display();
                format!("`{shown}` was last used by a version without a hash key: start `pawl serve` on it once")
            })?;
            return Ok(HashKey::of(secret.bytes(), spec.name()));
        }
        let path = format!("/v1/models/{}/hash-key", segment(spec.name().as_str()));
        let reply = server.get(&path).context(
            "features with `log = \"encoded\"` are hashed under the key of the server that will answer",
        )?;
        Ok(model::text(&reply, "hash_key").parse()?)
    }

    /// One thread reads and parses, this one learns.
    fn learn(&self, spec: &Arc<CheckedSpec>, key: HashKey) -> Result<Learned> {
        let begun = Instant::now();
        let source = Source::open(&self.data, spec, key, &self.target, self.weight.as_deref())?;
        let bar = ProgressBar::new(source.bytes());
        bar.set_style(ProgressStyle::with_template(
            "{bar:40} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left",
        )?);
        let (full, chunks) = mpsc::sync_channel::<Chunk>(4);
        let (empty, used) = mpsc::channel::<Chunk>();
        let reader = thread::Builder::new()
            .name("pawl-read".to_owned())
            .spawn(move || source.read(&full, &used))?;
        let mut fold = Unlogged::default();
        fold.apply(&Event::Changed(Change::first(spec, 1)))?;
        let mut unlabelled = 0;
        for chunk in chunks {
            unlabelled += chunk.unlabelled;
            bar.set_position(chunk.read);
            if !chunk.is_empty() {
                fold.apply(chunk.event())?;
            }
            // The reader may be done and gone.
            let _unneeded = empty.send(chunk);
        }
        reader
            .join()
            .map_err(|_| anyhow!("the reader panicked"))?
            .with_context(|| format!("in `{}`", self.data.display()))?;
        bar.finish_and_clear();
        // What still waits for its batch is learned now: there is no later.
        if let Some(due) = fold.engine().next_due_ms() {
            fold.apply(&Event::Tick { now_ms: due })?;
        }
        Ok(Learned { fold, unlabelled, seconds: begun.elapsed().as_secs_f64() })
    }
}
