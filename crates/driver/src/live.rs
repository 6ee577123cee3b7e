//! A fold on a thread of its own: publishes, checkpoints, trims, answers what only it knows.

mod erase;
mod rewind;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use pawl_domain::{Alert, ModelName, Sha256};
use pawl_engine::{Model, State};
use pawl_store::{Disk, Log};

pub use erase::Erased;

use crate::{
    clock::Clock,
    fold::{Fold, RecoverError, write_checkpoint},
    published::Published,
    retention::{self, Retention},
};

/// Records applied between two looks at the clock and the commands.
const GROUP: u32 = 512;
/// The least time between two publications while there is work.
const PUBLISH_EVERY: Duration = Duration::from_millis(2);
/// A checkpoint is written when the tail would take longer than this to fold.
const TAIL_MAX: Duration = Duration::from_secs(1);

/// How the thread works.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Time between two checkpoints.
    pub checkpoint_every: Duration,
    /// How long records are kept.
    pub retention: Retention,
}

/// What only the fold knows.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The state at one position.
    pub state: State,
    /// Its digest.
    pub sha256: Sha256,
}

/// What is known of one model.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its state.
    pub model: Model,
    /// The position it is known at.
    pub position: u64,
    /// Whether a rewind is under way, of this model or another.
    pub rewinding: bool,
}

/// Why the fold stopped while serving goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("learning has stopped: {0}")]
pub struct Stopped(pub String);

enum Command {
    Inspect(mpsc::Sender<Inspection>),
    Model(ModelName, mpsc::Sender<Option<Known>>),
    Checkpoint(mpsc::Sender<Result<u64, String>>),
    /// A checkpoint at or after an offset, and none before it.
    Base(u64, mpsc::Sender<Result<u64, String>>),
    Stop,
}

/// Handle of the running fold.
#[derive(Debug)]
pub struct Live {
    pub(crate) log: Arc<Log>,
    published: Published,
    position: Arc<AtomicU64>,
    asleep: Arc<AtomicBool>,
    stopped: Arc<std::sync::OnceLock<Stopped>>,
    checkpoint_error: Arc<Mutex<Option<String>>>,
    checkpoint_written: Arc<Mutex<Instant>>,
    rewind_failed: Arc<Mutex<Option<String>>>,
    commands: mpsc::Sender<Command>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Worker {
    fold: Fold,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    settings: Settings,
    published: Published,
    position: Arc<AtomicU64>,
    asleep: Arc<AtomicBool>,
    stopped: Arc<std::sync::OnceLock<Stopped>>,
    checkpoint_error: Arc<Mutex<Option<String>>>,
    /// When the last one was on the disk; the start counts as one.
    checkpoint_written: Arc<Mutex<Instant>>,
    commands: mpsc::Receiver<Command>,
    /// When and where the last checkpoint was begun.
    checkpointed: (Instant, u64),
    writing: Option<thread::JoinHandle<Result<(), String>>>,
    /// Seconds a byte of log takes to fold, a running mean.
    pace: f64,
    last_published: Instant,
    /// Models that changed since they were published, and since when.
    unpublished: BTreeMap<ModelName, Instant>,
    /// The fold that does a rewind: what asked for it, and its thread.
    rewinding: Option<(u64, thread::JoinHandle<Result<Fold, String>>)>,
    /// Why the last rewind could not be done.
    rewind_failed: Arc<Mutex<Option<String>>>,
    /// The last rewind that was begun: each is tried once.
    begun: Option<u64>,
    /// A checkpoint spares the next start a rewind.
    checkpoint_now: bool,
}

impl Live {
    /// Publishes what `fold` knows and lets it follow its log.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn spawn(
        fold: Fold,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        settings: Settings,
    ) -> std::io::Result<Self> {
        let (commands, received) = mpsc::channel();
        let log = fold.log().clone();
        let published = Published::default();
        let position = Arc::new(AtomicU64::new(fold.position()));
        let asleep = Arc::new(AtomicBool::new(false));
        let stopped = Arc::new(std::sync::OnceLock::new());
        let checkpoint_error = Arc::new(Mutex::new(None));
        let checkpoint_written = Arc::new(Mutex::new(Instant::now()));
        let rewind_failed = Arc::new(Mutex::new(None));
        let mut worker = Worker {
            checkpointed: (Instant::now(), fold.position()),
            fold,
            disk,
            clock,
            settings,
            published: published.clone(),
            position: position.clone(),
            asleep: asleep.clone(),
            stopped: stopped.clone(),
            checkpoint_error: checkpoint_error.clone(),
            checkpoint_written: checkpoint_written.clone(),
            commands: received,
            writing: None,
            pace: 1e-9,
            last_published: Instant::now(),
            unpublished: BTreeMap::new(),
            rewinding: None,
            rewind_failed: rewind_failed.clone(),
            begun: None,
            checkpoint_now: false,
        };
        worker.publish();
        let panicked = stopped.clone();
        let run = move || {
            let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.run()));
            if ran.is_err() {
                let _first = panicked.set(Stopped("the fold panicked".to_owned()));
            }
        };
        let thread = Some(thread::Builder::new().name("pawl-fold".to_owned()).spawn(run)?);
        Ok(Self {
            log,
            published,
            position,
            asleep,
            stopped,
            checkpoint_error,
            checkpoint_written,
            rewind_failed,
            commands,
            thread,
        })
    }

    /// The snapshots that answer.
    #[must_use]
    pub const fn published(&self) -> &Published {
        &self.published
    }

    /// The offset up to which everything is folded and published.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// Bytes of the log that are not yet folded.
    #[must_use]
    pub fn lag_bytes(&self) -> u64 {
        self.log.head().saturating_sub(self.position())
    }

    /// Why learning has stopped, if it has.
    #[must_use]
    pub fn stopped(&self) -> Option<&Stopped> {
        self.stopped.get()
    }

    /// Why the last checkpoint could not be written, if it could not.
    #[must_use]
    pub fn checkpoint_error(&self) -> Option<String> {
        self.checkpoint_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long ago the last checkpoint was written, or the server started.
    #[must_use]
    pub fn checkpoint_age(&self) -> Duration {
        self.checkpoint_written.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Why the last rewind could not be done, if it could not.
    #[must_use]
    pub fn rewind_error(&self) -> Option<String> {
        let failed = self.rewind_failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.clone()
    }

    /// Says that something was appended.
    pub fn wake(&self) {
        if self.asleep.swap(false, Ordering::AcqRel)
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
    }

    fn ask<T>(&self, command: impl FnOnce(mpsc::Sender<T>) -> Command) -> Result<T, Stopped> {
        let (reply, answer) = mpsc::channel();
        let gone = |_| Stopped("its thread has ended".to_owned());
        self.commands
            .send(command(reply))
            .map_err(|_| Stopped("its thread has ended".to_owned()))?;
        self.asleep.store(true, Ordering::Release);
        self.wake();
        answer.recv().map_err(gone)
    }

    /// The state and its digest, at the present position.
    ///
    /// # Errors
    /// If the thread has ended.
    pub fn inspect(&self) -> Result<Inspection, Stopped> {
        self.ask(Command::Inspect)
    }

    /// What is known of `model`; `None` if there is no such model.
    ///
    /// # Errors
    /// If the thread has ended.
    pub fn model(&self, model: ModelName) -> Result<Option<Known>, Stopped> {
        self.ask(|reply| Command::Model(model, reply))
    }

    /// Writes a checkpoint now. Returns its position.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn checkpoint(&self) -> Result<u64, Stopped> {
        self.ask(Command::Checkpoint)?.map_err(Stopped)
    }

    /// Folds what is there, writes a checkpoint and ends the thread.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _gone = self.commands.send(Command::Stop);
        self.asleep.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
    }
}

/// Says in the log of the process what happened.
fn say(alert: &Alert) {
    let (model, what) = (&alert.model, alert.what.as_str());
    tracing::warn!(%model, what, position = alert.raised.0, "{}", alert.what);
}

impl Worker {
    fn run(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => break,
                Ok(command) => {
                    self.answer(command);
                    continue;
                }
                Err(mpsc::TryRecvError::Empty) => {}
            }
            if self.stopped.get().is_some() {
                self.sleep(Duration::from_millis(100));
                continue;
            }
            match self.work() {
                Ok(true) => {}
                Ok(false) => self.rest(),
                Err(e) => {
                    let _first = self.stopped.set(Stopped(e.to_string()));
                }
            }
        }
        let caught_up = self.stopped.get().is_none() && self.fold.catch_up().is_ok();
        self.end_writing();
        // After a failure the state may be half an event ahead: the last good checkpoint stands.
        if caught_up && self.fold.position() != self.checkpointed.1 {
            let state = self.fold.engine().state();
            let _unwritten = write_checkpoint(self.disk.as_ref(), self.fold.log(), state);
        }
    }

    /// Applies a group of records. False if there was nothing to do.
    fn work(&mut self) -> Result<bool, RecoverError> {
        let (begun, from) = (Instant::now(), self.fold.position());
        let mut applied = 0;
        while applied < GROUP && self.fold.step()? {
            applied += 1;
        }
        if self.fold.tick(self.clock.now_ms())? {
            self.fold.step()?;
            applied += 1;
        }
        for alert in self.fold.tell()? {
            say(&alert);
            applied += 1;
        }
        if applied > 0 {
            let bytes = (self.fold.position() - from).max(1) as f64;
            self.pace += 0.05 * (begun.elapsed().as_secs_f64() / bytes - self.pace);
        }
        if applied < GROUP || self.last_published.elapsed() >= PUBLISH_EVERY {
            self.publish();
        }
        self.rewind_if_asked()?;
        self.checkpoint_if_due();
        Ok(applied > 0)
    }

    /// Publishes every model that changed, unless its batch is still gathering.
    fn publish(&mut self) {
        for name in self.fold.engine_mut().take_changed() {
            self.unpublished.entry(name).or_insert_with(Instant::now);
        }
        let engine = self.fold.engine_mut();
        let published = &self.published;
        self.unpublished.retain(|name, since| {
            let enrolled = engine.state().models.get(name).and_then(Model::production);
            let Some(enrolled) = enrolled else {
                published.remove(name);
                return false;
            };
            let before = published.get(name.as_str()).filter(|s| s.learner == enrolled.id());
            // An order of an operator waits for no batch.
            let before = before.filter(|s| {
                let model = engine.state().models.get(name);
                model.is_some_and(|m| m.levers == s.levers && m.archived.0 == s.archived)
            });
            let gathers = enrolled.batch_due_ms().is_some();
            if enrolled.spec().policy().online.is_some() {
                // Batches are the unit of publication, and what waits in one is not in the position yet.
                let learned_to = enrolled.learned_to(engine.state().position);
                if before.is_none_or(|b| b.position != learned_to)
                    && let Some(snapshot) = engine.snapshot(name)
                {
                    published.put(name, snapshot);
                }
                return gathers;
            }
            // A position promises that everything before it is learned: not while a batch gathers.
            if before.is_some() && gathers {
                return true;
            }
            if let (Some(batch), Some(before)) = (enrolled.spec().policy().batch, before) {
                let news = enrolled.examples().saturating_sub(before.examples);
                let waited = since.elapsed() >= Duration::from_millis(batch.after.ms());
                if news < u64::from(batch.size) && !waited {
                    return true;
                }
            }
            if let Some(snapshot) = engine.snapshot(name) {
                published.put(name, snapshot);
            }
            false
        });
        self.position.store(self.fold.position(), Ordering::Release);
        self.last_published = Instant::now();
    }

    /// How long until a gathering batch must be published.
    fn publish_in(&self) -> Option<Duration> {
        let batch = |name: &ModelName| self.published.get(name.as_str())?.spec.policy().batch;
        let left = |(name, since): (&ModelName, &Instant)| {
            Some(Duration::from_millis(batch(name)?.after.ms()).saturating_sub(since.elapsed()))
        };
        self.unpublished.iter().filter_map(left).min()
    }

    /// Nothing to do: waits until something is appended or due.
    fn rest(&mut self) {
        let now_ms = self.clock.now_ms();
        let due = self.fold.engine().next_due_ms().map(|due| due.saturating_sub(now_ms).max(1));
        let wait = Duration::from_millis(due.unwrap_or(1000).min(1000));
        // A fold that rewinds is looked after.
        let wait =
            if self.rewinding.is_some() { wait.min(Duration::from_millis(20)) } else { wait };
        let wait = self.publish_in().map_or(wait, |p| wait.min(p.max(Duration::from_millis(1))));
        self.asleep.store(true, Ordering::Release);
        // Whoever appended before it saw the flag did not wake us: look again.
        if self.fold.log().head() == self.fold.position() {
            thread::park_timeout(wait);
        }
        if self.asleep.swap(false, Ordering::AcqRel) {
            return;
        }
        // Woken by the first of several: let the others come, and take them as one group.
        thread::sleep(Duration::from_millis(1));
    }

    fn sleep(&self, wait: Duration) {
        self.asleep.store(true, Ordering::Release);
        thread::park_timeout(wait);
        self.asleep.store(false, Ordering::Release);
    }

    fn answer(&mut self, command: Command) {
        // A reply that nobody waits for any more is no failure.
        match command {
            Command::Stop => {}
            Command::Inspect(reply) => {
                let state = self.fold.engine().state().clone();
                let sha256 = state.sha256();
                let _unheard = reply.send(Inspection { state, sha256 });
            }
            Command::Model(model, reply) => {
                let state = self.fold.engine().state();
                let (position, rewinding) = (state.position, !state.rewinds.is_empty());
                let found = state.models.get(&model).cloned();
                let known = found.map(|model| Known { model, position, rewinding });
                let _unheard = reply.send(known);
            }
            Command::Base(from, reply) => {
                let _unheard = reply.send(self.new_base(from));
            }
            Command::Checkpoint(reply) => {
                if let Some(stopped) = self.stopped.get() {
                    // The state may be half an event ahead.
                    let _unheard = reply.send(Err(stopped.to_string()));
                    return;
                }
                self.end_writing();
                let state = self.fold.engine().state();
                let written = write_checkpoint(self.disk.as_ref(), self.fold.log(), state);
                if written.is_ok() {
                    self.note_written();
                }
                self.checkpointed = (Instant::now(), self.fold.position());
                let position = self.fold.position();
                let _unheard = reply.send(written.map(|_| position).map_err(|e| e.to_string()));
            }
        }
    }

    /// Waits for the checkpoint that is being written. One that failed is tried again at the next interval: learning
    /// and serving need none.
    fn end_writing(&mut self) {
        let Some(writing) = self.writing.take() else { return };
        let failed = match writing.join() {
            Ok(result) => result.err(),
            Err(_) => Some("the writer panicked".to_owned()),
        };
        if failed.is_none() {
            self.note_written();
        }
        let mut last = self.checkpoint_error.lock().unwrap_or_else(PoisonError::into_inner);
        *last = failed;
    }

    fn note_written(&self) {
        let mut written = self.checkpoint_written.lock().unwrap_or_else(PoisonError::into_inner);
        *written = Instant::now();
    }

    fn checkpoint_if_due(&mut self) {
        if self.writing.as_ref().is_some_and(thread::JoinHandle::is_finished) {
            self.end_writing();
        }
        let (when, position) = self.checkpointed;
        let tail = (self.fold.position() - position) as f64 * self.pace;
        let models = self.fold.engine().state().models.values().filter_map(Model::production);
        let asked = models.map(|e| e.spec().spec().learner.checkpoint_interval.ms());
        let every =
            asked.map(Duration::from_millis).fold(self.settings.checkpoint_every, Duration::min);
        let due = when.elapsed() >= every || tail >= TAIL_MAX.as_secs_f64();
        let due = due || (self.checkpoint_now && self.fold.engine().state().rewinds.is_empty());
        if self.writing.is_some() || !due || self.fold.position() == position {
            return;
        }
        self.checkpoint_now = false;
        self.checkpointed = (Instant::now(), self.fold.position());
        let state = self.fold.engine().state().clone();
        let (disk, log) = (self.disk.clone(), self.fold.log().clone());
        let (keep, now_ms) = (self.settings.retention, self.clock.now_ms());
        let write = move || {
            write_checkpoint(disk.as_ref(), &log, &state).map_err(|e| e.to_string())?;
            retention::trim(disk.as_ref(), &log, &state, keep, now_ms).map_err(|e| e.to_string())
        };
        let thread = thread::Builder::new().name("pawl-checkpoint".to_owned()).spawn(write);
        self.writing = thread.ok();
    }
}
