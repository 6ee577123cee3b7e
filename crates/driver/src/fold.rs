//! A log and the engine that follows it.

use core::fmt;
use std::{io, sync::Arc};

use pawl_domain::{
    Alert, Event, ModelName, Sha256,
    event::{Change, ChangeKind, JoinLimits, LearnerChange, Target},
    rewind::Conditions,
};
use pawl_engine::{
    At, Engine, FOLD_VERSION, Halt, History, MissingArtifact, Recorded, State, Unreadable,
};
use pawl_store::{
    Disk, Log, LogError, artifacts, checkpoints,
    log::{Config, Entry, OpenError, Reader, Recovery},
};

/// A log and the engine that follows it.
pub struct Fold {
    log: Arc<Log>,
    engine: Engine,
    reader: Reader,
    history: LogHistory,
    /// Where checkpoints are: a rewind folds on from an old one.
    disk: Option<Arc<dyn Disk>>,
    /// What is passed over.
    excluded: Vec<Exclusion>,
    /// Rewinds that passing over does.
    done: Vec<u64>,
    /// A fold that does what the change at an offset asked, ready or nearly.
    prepared: Option<(u64, Box<Fold>)>,
    /// Alerts that were written and not folded yet.
    telling: Vec<Alert>,
}

impl fmt::Debug for Fold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fold").field("position", &self.position()).finish_non_exhaustive()
    }
}

/// Feedback and examples that a rewind leaves out.
#[derive(Clone, Debug)]
struct Exclusion {
    model: ModelName,
    /// From this record on, …
    from: u64,
    /// … before this one, …
    until: u64,
    /// … where this holds.
    without: Conditions,
}

/// Why a fold could not begin.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// A checkpoint could not be read.
    #[error("checkpoints cannot be read: {0}")]
    Checkpoints(#[from] io::Error),
    /// The log could not be opened.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// There is nothing to begin from.
    #[error(
        "no checkpoint can be read, and the log no longer holds its beginning: restore a backup, or put the files of `checkpoints` back"
    )]
    NoBeginning,
    /// The fold stopped.
    #[error(transparent)]
    Halt(#[from] Halt),
    /// The log could not be read or written.
    #[error(transparent)]
    Read(#[from] LogError),
}

/// A fold at the checkpoint from which it goes on.
#[derive(Debug)]
pub struct Recovered {
    /// The fold.
    pub fold: Fold,
    /// The position of its checkpoint; 0 if there was none.
    pub checkpoint: u64,
    /// The head that was found at opening, before anything was appended.
    pub head: u64,
    /// What opening the log found.
    pub recovery: Recovery,
}

/// Older records, read from the log, and artifacts.
struct LogHistory {
    log: Arc<Log>,
    closing: Reader,
    disk: Option<Arc<dyn Disk>>,
}

fn recorded(entry: Entry) -> Option<Recorded> {
    let at = At { offset: entry.offset, next: entry.next, ordinal: entry.ordinal };
    match entry.event {
        Event::Decided(decided) => Some(Recorded { at, decided: Arc::new(decided) }),
        _ => None,
    }
}

impl History for LogHistory {
    fn decision(&mut self, offset: u64) -> Result<Option<Recorded>, Unreadable> {
        match self.log.read(offset) {
            Ok(entry) => Ok(recorded(entry)),
            // An offset in an id comes from a caller: nothing there is an answer, not a fault.
            Err(LogError::Absent(_) | LogError::UnknownKind(_)) => Ok(None),
            Err(e) => Err(Unreadable { offset, why: e.to_string() }),
        }
    }

    fn next_decision(&mut self, from: u64, below: u64) -> Result<Option<Recorded>, Unreadable> {
        self.closing.seek(from);
        let entry = self.closing.next_decision(below);
        let entry = entry.map_err(|e| Unreadable { offset: from, why: e.to_string() })?;
        Ok(entry.and_then(recorded))
    }

    fn artifact(&mut self, digest: Sha256) -> Result<Vec<u8>, MissingArtifact> {
        let missing = |why: String| MissingArtifact { digest, why };
        let disk = self.disk.as_ref().ok_or_else(|| missing("there is no disk".to_owned()))?;
        let found = artifacts::get(disk.as_ref(), digest).map_err(|e| missing(e.to_string()))?;
        found.ok_or_else(|| missing("it is not there, or damaged".to_owned()))
    }
}

impl Fold {
    /// Follows `log` with `engine`, from the engine's position.
    #[must_use]
    pub fn new(log: Arc<Log>, engine: Engine) -> Self {
        let reader = log.reader(engine.state().position);
        let history = LogHistory { log: log.clone(), closing: log.reader(0), disk: None };
        Self {
            log,
            engine,
            reader,
            history,
            disk: None,
            excluded: Vec::new(),
            done: Vec::new(),
            prepared: None,
            telling: Vec::new(),
        }
    }

    fn with_disk(mut self, disk: &Arc<dyn Disk>) -> Self {
        self.disk = Some(disk.clone());
        self.history.disk = Some(disk.clone());
        self
    }

    /// Opens the log on `disk` at wall time `now_ms` and takes the newest valid checkpoint. The fold still has to
    /// [`Fold::catch_up`].
    ///
    /// # Errors
    /// If the log is damaged (see [`Log::open`]) or the disk refuses.
    pub fn recover(
        disk: &Arc<dyn Disk>,
        config: Config,
        limits: JoinLimits,
        accept_loss: bool,
        now_ms: u64,
    ) -> Result<Recovered, RecoverError> {
        let (mut engine, mut checkpoint) = newest(disk.as_ref(), u64::MAX)?;
        let older = if checkpoint == 0 { newest_older(disk.as_ref())? } else { None };
        let known = older.as_ref().map_or(checkpoint, |(_, position)| *position);
        let (log, recovery) = Log::open(disk.clone(), config, known, accept_loss)?;
        let log = Arc::new(log);
        // A whole log is folded again by the present rules; of another one, what the fold before had come to is all there is.
        if checkpoint == 0 && !is_whole(&log) {
            match older {
                Some(found) => (engine, checkpoint) = found,
                None if log.first() == 0 && accept_loss => {}
                None => return Err(RecoverError::NoBeginning),
            }
        }
        log.count_from(engine.state().join.decisions());
        let head = log.head();
        log.append_event(&Event::Opened { epoch: log.epoch(), at_ms: now_ms, limits })?;
        log.append_event(&Event::FoldVersion(FOLD_VERSION))?;
        log.sync()?;
        let fold = Self::new(log, engine).with_disk(disk);
        Ok(Recovered { fold, checkpoint, head, recovery })
    }

    /// Opens the log on `disk` without changing anything, and folds it from the first record or, where that is
    /// trimmed, from the oldest valid checkpoint. Returns the fold and the position it starts from.
    ///
    /// # Errors
    /// As [`Fold::recover`].
    pub fn replay(disk: &Arc<dyn Disk>) -> Result<(Self, u64), RecoverError> {
        let config = Config { read_only: true, ..Config::default() };
        let newest = newest(disk.as_ref(), u64::MAX)?.1;
        let (log, _) = Log::open(disk.clone(), config, newest, false)?;
        let log = Arc::new(log);
        if is_whole(&log) {
            return Ok((Self::new(log, Engine::new()).with_disk(disk), 0));
        }
        for position in checkpoints::positions(disk.as_ref())? {
            if position >= log.first()
                && let Some(bytes) = checkpoints::read(disk.as_ref(), position)?
                && let Ok(state) = State::from_bytes(&bytes)
                && foldable(&log, &state)
            {
                let fold = Self::new(log, Engine::from_state(state)).with_disk(disk);
                return Ok((fold, position));
            }
        }
        Err(LogError::Absent(0).into())
    }

    /// A second fold over the same open log, from the newest checkpoint at or before `position`, brought to exactly
    /// `position`: what answered from there.
    ///
    /// # Errors
    /// If the log no longer holds what is needed, or `position` is not the place of a record.
    pub fn at(disk: &Arc<dyn Disk>, log: &Arc<Log>, position: u64) -> Result<Self, RecoverError> {
        let (engine, checkpoint) = newest(disk.as_ref(), position)?;
        if !foldable(log, engine.state()) {
            return Err(LogError::Absent(checkpoint).into());
        }
        let mut fold = Self::new(log.clone(), engine).with_disk(disk);
        while fold.position() < position {
            if !fold.step()? {
                return Err(LogError::Absent(position).into());
            }
        }
        if fold.position() > position {
            return Err(LogError::Absent(position).into());
        }
        Ok(fold)
    }

    /// The log.
    #[must_use]
    pub const fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The engine.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine, to take what changed. Only the fold applies events.
    pub const fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The offset of the next record to apply.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.engine.state().position
    }

    /// Applies the next record. False at the head.
    ///
    /// # Errors
    /// If the fold must stop, or the record cannot be read.
    pub fn step(&mut self) -> Result<bool, RecoverError> {
        let Some(entry) = self.reader.next_entry()? else { return Ok(false) };
        let at = At { offset: entry.offset, next: entry.next, ordinal: entry.ordinal };
        if let Event::Rewound { asked } = entry.event
            && !self.done.contains(&asked)
        {
            self.rewind(asked, entry.offset)?;
        }
        if self.excludes(&entry)? {
            self.engine.skip(at, &entry.event, &mut self.history)?;
        } else {
            apply(&mut self.engine, at, &entry.event, &mut self.history)?;
        }
        Ok(true)
    }

    /// Whether a rewind leaves this record out.
    fn excludes(&self, entry: &Entry) -> Result<bool, LogError> {
        if self.excluded.is_empty() {
            return Ok(false);
        }
        let (model, principal, metadata) = match &entry.event {
            Event::Examples(e) => (e.model.clone(), &e.principal, &e.metadata),
            Event::Feedback(f) => {
                let model = match &f.target {
                    Target::Request { model, .. } => model.clone(),
                    Target::Decision(id) => match self.log.read(id.position.offset) {
                        Ok(Entry { event: Event::Decided(d), .. }) => d.model,
                        Ok(_) | Err(LogError::Absent(_) | LogError::UnknownKind(_)) => {
                            return Ok(false);
                        }
                        Err(e) => return Err(e),
                    },
                };
                (model, &f.principal, &f.metadata)
            }
            _ => return Ok(false),
        };
        Ok(self.excluded.iter().any(|x| {
            x.model == model
                && (x.from..x.until).contains(&entry.offset)
                && x.without.hold(principal.as_deref(), metadata.as_deref())
        }))
    }

    /// A fold that does what the change at `asked` asked for, at the newest checkpoint from which it can.
    ///
    /// # Errors
    /// If the log no longer holds what is needed.
    pub fn rewinding(&self, asked: u64) -> Result<Self, RecoverError> {
        let mut excluded = vec![self.exclusion(asked)?];
        // Rewinds that were done after the beginning of this one are done in the same pass, and what they leave out
        // may begin earlier.
        let mut done = Vec::new();
        let mut first = excluded[0].from;
        while let Some((earlier, _)) = self
            .engine
            .state()
            .rewound
            .iter()
            .find(|(earlier, at)| *at >= first && *earlier != asked && !done.contains(earlier))
        {
            let exclusion = self.exclusion(*earlier)?;
            first = first.min(exclusion.from);
            excluded.push(exclusion);
            done.push(*earlier);
        }
        let disk = self.disk.as_ref().ok_or(LogError::Absent(first))?;
        let mut fold = Self::before(disk, &self.log, first)?;
        (fold.excluded, fold.done) = (excluded, done);
        Ok(fold)
    }

    /// What the change at `asked` leaves out.
    fn exclusion(&self, asked: u64) -> Result<Exclusion, RecoverError> {
        let entry = self.log.read(asked)?;
        match entry.event {
            Event::Changed(Change {
                kind: ChangeKind::Learner { model, change: LearnerChange::Rewind { to, without } },
                ..
            }) => Ok(Exclusion { model, from: to, until: asked, without }),
            _ => Err(LogError::Absent(asked).into()),
        }
    }

    /// The change whose fold is prepared.
    #[must_use]
    pub fn prepared(&self) -> Option<u64> {
        self.prepared.as_ref().map(|(asked, _)| *asked)
    }

    /// A fold at the newest checkpoint at or before `position` from which the log can be folded on.
    ///
    /// # Errors
    /// If there is none, and the log does not begin at its beginning.
    pub fn before(
        disk: &Arc<dyn Disk>,
        log: &Arc<Log>,
        position: u64,
    ) -> Result<Self, RecoverError> {
        let positions = checkpoints::positions(disk.as_ref())?;
        for at in positions.into_iter().rev().filter(|p| *p <= position) {
            if let Some(bytes) = checkpoints::read(disk.as_ref(), at)?
                && let Ok(state) = State::from_bytes(&bytes)
                && foldable(log, &state)
            {
                return Ok(Self::new(log.clone(), Engine::from_state(state)).with_disk(disk));
            }
        }
        if is_whole(log) {
            return Ok(Self::new(log.clone(), Engine::new()).with_disk(disk));
        }
        Err(LogError::Absent(position).into())
    }

    /// Keeps a fold from [`Fold::rewinding`] for the record that puts it in place.
    pub fn prepare(&mut self, asked: u64, fold: Self) {
        self.prepared = Some((asked, Box::new(fold)));
    }

    /// Takes the state of the fold that does what the change at `asked` asked for, at `offset`.
    fn rewind(&mut self, asked: u64, offset: u64) -> Result<(), RecoverError> {
        let mut other = match self.prepared.take() {
            Some((prepared, fold)) if prepared == asked && fold.position() <= offset => *fold,
            _ => self.rewinding(asked)?,
        };
        while other.position() < offset {
            if !other.step()? {
                return Err(LogError::Absent(offset).into());
            }
        }
        self.engine = other.engine;
        Ok(())
    }

    /// Applies everything up to the head. Returns how many records that were.
    ///
    /// # Errors
    /// As [`Fold::step`].
    pub fn catch_up(&mut self) -> Result<u64, RecoverError> {
        let mut n = 0;
        while self.step()? {
            n += 1;
        }
        Ok(n)
    }

    /// Writes the alerts that the fold has raised. Returns them, each once.
    ///
    /// # Errors
    /// If the log refuses.
    pub fn tell(&mut self) -> Result<Vec<Alert>, LogError> {
        let raised = &self.engine.state().alerts;
        if raised.is_empty() && self.telling.is_empty() {
            return Ok(Vec::new());
        }
        self.telling.retain(|told| raised.contains(told));
        let news: Vec<Alert> =
            raised.iter().filter(|a| !self.telling.contains(a)).cloned().collect();
        for alert in &news {
            self.log.append_event(&Event::Alerted(alert.clone()))?;
            self.telling.push(alert.clone());
        }
        Ok(news)
    }

    /// Appends a tick if something is due at `now_ms`. True if it did.
    ///
    /// # Errors
    /// If the log refuses.
    pub fn tick(&mut self, now_ms: u64) -> Result<bool, LogError> {
        if self.engine.next_due_ms().is_none_or(|due| due > now_ms) {
            return Ok(false);
        }
        self.log.append_event(&Event::Tick { now_ms })?;
        Ok(true)
    }
}

/// The one caller of the engine.
fn apply(
    engine: &mut Engine,
    at: At,
    event: &Event,
    history: &mut dyn History,
) -> Result<(), Halt> {
    #[expect(clippy::disallowed_methods, reason = "the driver is the one caller")]
    engine.apply(at, event, history)
}

/// A fold of events that are in no log: examples of a file, learned once. Nothing older can be asked for.
#[derive(Debug, Default)]
pub struct Unlogged {
    engine: Engine,
    decisions: u64,
}

struct Nothing;

impl History for Nothing {
    fn decision(&mut self, _: u64) -> Result<Option<Recorded>, Unreadable> {
        Ok(None)
    }

    fn next_decision(&mut self, _: u64, _: u64) -> Result<Option<Recorded>, Unreadable> {
        Ok(None)
    }

    fn artifact(&mut self, digest: Sha256) -> Result<Vec<u8>, MissingArtifact> {
        Err(MissingArtifact { digest, why: "there is no disk".to_owned() })
    }
}

impl Unlogged {
    /// The engine.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine, to take what changed. Only the fold applies events.
    pub const fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Applies an event.
    ///
    /// # Errors
    /// If the fold must stop.
    pub fn apply(&mut self, event: &Event) -> Result<(), Halt> {
        let offset = self.engine.state().position;
        let at = At { offset, next: offset + 8, ordinal: self.decisions };
        self.decisions += u64::from(matches!(event, Event::Decided(_)));
        apply(&mut self.engine, at, event, &mut Nothing)
    }
}

/// Whether the log holds everything that was ever written.
pub(crate) fn is_whole(log: &Log) -> bool {
    log.first() == 0 && log.redacted_below() == 0 && log.erased_below() == 0
}

/// Whether the log still holds everything that folding on from `state` asks for.
fn foldable(log: &Log, state: &State) -> bool {
    let redacted = log.redacted_below();
    let closed = state.position >= redacted && state.needed_from() >= redacted;
    state.trimmed >= log.first() && closed && state.position >= log.erased_below()
}

/// The engine at the newest valid checkpoint at or before `at_most`, and its position.
pub(crate) fn newest(disk: &dyn Disk, at_most: u64) -> io::Result<(Engine, u64)> {
    for position in checkpoints::positions(disk)?.into_iter().rev().filter(|p| *p <= at_most) {
        let state = checkpoints::read(disk, position)?;
        if let Some(Ok(state)) = state.map(|bytes| State::from_bytes(&bytes)) {
            return Ok((Engine::from_state(state), position));
        }
    }
    Ok((Engine::new(), 0))
}

/// The engine at the newest checkpoint of the fold before this one, and its position.
pub(crate) fn newest_older(disk: &dyn Disk) -> io::Result<Option<(Engine, u64)>> {
    for position in checkpoints::positions(disk)?.into_iter().rev() {
        let state = checkpoints::read(disk, position)?;
        if let Some(Ok(state)) = state.map(|bytes| State::from_older(&bytes)) {
            return Ok(Some((Engine::from_state(state), position)));
        }
    }
    Ok(None)
}

/// Writes the state as a checkpoint, after the log below it is on the disk.
pub(crate) fn write_checkpoint(
    disk: &dyn Disk,
    log: &Log,
    state: &State,
) -> Result<Sha256, RecoverError> {
    if log.synced() < state.position {
        log.sync()?;
    }
    Ok(checkpoints::write(disk, state.position, &state.to_bytes())?)
}
