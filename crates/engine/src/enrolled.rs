//! A learner in service: guarded, so that its failure is an outcome and not the end of the fold.

mod feed;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use pawl_domain::{
    CheckedSpec, Examples, Happening, LearnerId, Sha256,
    event::{Decided, LearnerChange},
    spec::{Gradient, Policy},
};
use pawl_learn::{Artifact, ArtifactError, Example, Learner, Monitor, Progress, online::Scratch};
use pawl_model::{Encoded, HashKey, Snapshot, Views, context::Context};
use semver::Version;
use serde::{Deserialize, Serialize};

use feed::Feed;
pub(crate) use feed::Taken;

/// Examples after which the good copy is renewed. Part of the fold.
const GOOD_EVERY: u64 = 1024;

/// Why a learner of exact statistics fails.
const DEGENERATE: &str = "its statistics are degenerate";

/// Whether a learner learns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It does.
    Learning,
    /// It failed, stands at its last good state, serves from it and learns no more.
    Quarantined {
        /// Examples it had taken when it failed.
        at_example: u64,
        /// The failure.
        why: String,
    },
    /// It was told to serve and not to learn.
    Frozen,
}

/// A learner enrolled on a version.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Enrolled {
    version: Version,
    id: LearnerId,
    spec: Arc<CheckedSpec>,
    views: Arc<Views>,
    learner: Learner,
    status: Status,
    /// Where the record stands whose examples wait for their batch, the first of them.
    pending_from: Option<u64>,
    said: Said,
    work: Work,
}

/// What alerts were raised of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    /// By metric: how often it had gone back, accepted, drifted.
    monitors: Vec<[u64; 3]>,
    quarantined: bool,
}

/// Memory that batches of examples use again.
#[derive(Clone, Debug, Default)]
struct Work {
    batch: Vec<(Example, Encoded)>,
    encoded: Encoded,
    scratch: Scratch,
}

/// [`Enrolled`] without what follows from the spec.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    version: Version,
    id: LearnerId,
    spec: CheckedSpec,
    learner: Learner,
    status: Status,
    pending_from: Option<u64>,
    said: Said,
}

impl From<Enrolled> for Stored {
    fn from(e: Enrolled) -> Self {
        let spec = e.spec.as_ref().clone();
        Self {
            version: e.version,
            id: e.id,
            spec,
            learner: e.learner,
            status: e.status,
            pending_from: e.pending_from,
            said: e.said,
        }
    }
}

impl From<Stored> for Enrolled {
    fn from(s: Stored) -> Self {
        let views = Arc::new(Views::of(&s.spec));
        let spec = Arc::new(s.spec);
        Self {
            version: s.version,
            id: s.id,
            spec,
            views,
            learner: s.learner,
            status: s.status,
            pending_from: s.pending_from,
            said: s.said,
            work: Work::default(),
        }
    }
}

/// One value to learn: metric, action and value, by index in the learner's own spec.
pub(crate) struct Lesson {
    pub metric: usize,
    pub action: u16,
    pub value: f64,
}

/// Where and when the fold stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// The offset of the record that is applied.
    pub position: u64,
    /// Log time.
    pub ms: u64,
}

impl Enrolled {
    pub(crate) fn new(
        spec: Arc<CheckedSpec>,
        version: Version,
        id: LearnerId,
        old: Option<&mut Self>,
    ) -> Self {
        let views = Arc::new(Views::of(&spec));
        let fresh = || Learner::new(&spec, &views);
        // What quarantined a learner may stand in its good copy too: its successor starts anew.
        let sound = old.filter(|old| !matches!(old.status, Status::Quarantined { .. }));
        let frozen = sound.as_ref().is_some_and(|old| old.status == Status::Frozen);
        let mut learner = sound.map_or_else(fresh, |old| {
            old.flush();
            let inherited = catch_unwind(AssertUnwindSafe(|| old.learner.inherit(&spec, &views)));
            inherited.ok().and_then(Result::ok).unwrap_or_else(fresh)
        });
        learner.mark_good();
        let status = if frozen { Status::Frozen } else { Status::Learning };
        let (said, work) = (Said::default(), Work::default());
        Self { version, id, spec, views, learner, status, pending_from: None, said, work }
    }

    /// One that begins from an artifact, in the place of `old`.
    pub(crate) fn restored(
        artifact: Artifact,
        version: Version,
        id: LearnerId,
        old: Option<&Self>,
    ) -> Self {
        let Artifact { spec, mut learner, .. } = artifact;
        // Open decisions carry the clock of the model's learners before it.
        if let Some(old) = old {
            learner.set_clock(&old.learner);
        }
        let frozen = old.is_some_and(|old| old.status == Status::Frozen);
        let views = Arc::new(Views::of(&spec));
        let mut restored = Self {
            version,
            id,
            spec: Arc::new(spec),
            views,
            learner,
            status: if frozen { Status::Frozen } else { Status::Learning },
            pending_from: None,
            said: Said::default(),
            work: Work::default(),
        };
        // What happened elsewhere is no news.
        restored.news();
        restored
    }

    /// Lets go of what was learned of slots that meant something else in an older version of the fold.
    pub(crate) fn renew(&mut self) {
        if self.learner.fits(&self.spec, &self.views) {
            return;
        }
        self.flush();
        let inherit = || self.learner.inherit(&self.spec, &self.views);
        let inherited = catch_unwind(AssertUnwindSafe(inherit)).ok().and_then(Result::ok);
        self.learner = inherited.unwrap_or_else(|| Learner::new(&self.spec, &self.views));
        self.learner.mark_good();
        self.pending_from = None;
        self.said = Said::default();
    }

    /// What it knows, as a file. Its words were hashed under `key`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn artifact(&self, key: &HashKey) -> Result<Vec<u8>, ArtifactError> {
        Artifact::write(&self.spec, &self.learner, key)
    }

    /// The version it is enrolled on.
    #[must_use]
    pub const fn version(&self) -> &Version {
        &self.version
    }

    /// Its id within the model.
    #[must_use]
    pub const fn id(&self) -> LearnerId {
        self.id
    }

    /// The spec of its version.
    #[must_use]
    pub fn spec(&self) -> &CheckedSpec {
        &self.spec
    }

    pub(crate) fn shared_spec(&self) -> Arc<CheckedSpec> {
        self.spec.clone()
    }

    /// Whether it learns.
    #[must_use]
    pub const fn status(&self) -> &Status {
        &self.status
    }

    /// Examples taken.
    #[must_use]
    pub const fn examples(&self) -> u64 {
        self.learner.examples()
    }

    /// Examples that were refused because their update was not finite.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.learner.refused()
    }

    /// How well a regressor or classifier predicted.
    #[must_use]
    pub const fn progress(&self) -> &Progress {
        self.learner.progress()
    }

    /// What watches each metric of a gradient learner, with its name.
    pub fn monitors(&self) -> impl Iterator<Item = (&str, &Monitor)> {
        let names = self.spec.metrics().iter().map(|m| m.name.as_str());
        names.zip(self.learner.monitors())
    }

    /// What has happened since the last call.
    pub(crate) fn news(&mut self) -> Vec<Happening> {
        let mut news = Vec::new();
        let at_example = self.learner.examples();
        self.said.monitors.resize(self.learner.monitors().len(), [0; 3]);
        let watched = self.spec.metrics().iter().zip(self.learner.monitors());
        for ((metric, monitor), said) in watched.zip(&mut self.said.monitors) {
            let counts = [monitor.went_back, monitor.accepted, monitor.drifts];
            // A learner that began anew counts from 0 again.
            let [went_back, accepted, drifted] = [0, 1, 2].map(|i| counts[i] > said[i]);
            *said = counts;
            let metric = || metric.name.clone();
            if went_back {
                let (why, at_example) = monitor.last.map_or(("", 0), |(w, at)| (w.as_str(), at));
                let (why, rate) = (why.to_owned(), monitor.rate());
                news.push(Happening::WentBack { metric: metric(), why, at_example, rate });
            }
            if accepted {
                news.push(Happening::Accepted { metric: metric(), at_example });
            }
            if drifted {
                news.push(Happening::Drifted { metric: metric(), at_example });
            }
        }
        let failed = match &self.status {
            Status::Quarantined { at_example, why } => Some((*at_example, why)),
            _ => None,
        };
        if let (Some((at_example, why)), false) = (failed, self.said.quarantined) {
            news.push(Happening::Quarantined { at_example, why: why.clone() });
        }
        self.said.quarantined = failed.is_some();
        news
    }

    /// Digest of what it has learned.
    #[must_use]
    pub fn sha256(&self) -> Sha256 {
        Sha256::of(&postcard::to_stdvec(&self.learner).unwrap_or_default())
    }

    /// The position up to which its weights have learned, where the fold is at `position`.
    #[must_use]
    pub fn learned_to(&self, position: u64) -> u64 {
        match self.pending_from {
            Some(from) if self.learner.has_pending() => from,
            _ => position,
        }
    }

    /// The view of it where the fold is at `position`.
    #[must_use]
    pub fn snapshot(&mut self, position: u64) -> Snapshot {
        let learned_to = match self.spec.policy().online {
            Some(_) => self.learned_to(position),
            None => position,
        };
        self.learner.snapshot(&self.spec, &self.views, self.version.clone(), self.id, learned_to)
    }

    /// The mean of each metric that it expects of an action, by metric of its spec; `None` if the context cannot be read.
    pub(crate) fn expected(&self, context: &str, action: usize) -> Option<Vec<f64>> {
        let context = Context::read_logged(&self.spec, context).ok()?;
        Some(self.learner.expected(&self.spec, &self.views, &context, action as u16))
    }

    /// Whether a decision alone changes what its snapshot says.
    pub(crate) fn counts_decisions(&self) -> bool {
        let policy = self.spec.policy();
        policy.half_life.is_some() || policy.epsilon[1] < 1.0
    }

    pub(crate) fn decided(&mut self, at_ms: u64) {
        self.learner.decided(at_ms);
    }

    /// Does as it is told. A rewind is not its own to do.
    pub(crate) fn change(&mut self, change: &LearnerChange) {
        match change {
            // A failure stays to be seen.
            LearnerChange::Freeze if self.status != Status::Learning => {}
            LearnerChange::Freeze => {
                self.flush();
                self.status = Status::Frozen;
            }
            LearnerChange::Resume => {
                self.status = Status::Learning;
                self.said.quarantined = false;
            }
            LearnerChange::Reset => {
                self.learner = Learner::new(&self.spec, &self.views);
                self.learner.mark_good();
                self.pending_from = None;
                self.status = Status::Learning;
                self.said = Said::default();
            }
            LearnerChange::Rewind { .. } => {}
        }
    }

    /// When the batch that gathers is to be applied; `None` if there is none, or it never will be.
    #[must_use]
    pub fn batch_due_ms(&self) -> Option<u64> {
        if self.status != Status::Learning {
            return None;
        }
        self.learner.batch_due_ms(self.spec.policy())
    }

    /// Applies the pending batch.
    pub(crate) fn flush(&mut self) {
        if self.status != Status::Learning {
            return;
        }
        let (spec, views) = (self.spec.clone(), self.views.clone());
        self.guarded(|learner, _| learner.flush(&spec, &views).map_err(|_| DEGENERATE));
        self.pending_from = None;
        self.mark_good();
    }

    /// Renews the good state now and then.
    fn mark_good(&mut self) {
        let holds = self.learner.monitors().iter().any(Monitor::is_holding);
        if self.status == Status::Learning
            && !holds
            && self.learner.examples() / GOOD_EVERY != self.learner.good_examples() / GOOD_EVERY
        {
            self.learner.mark_good();
        }
    }

    /// Takes the lessons of one decision. Returns how many it learned from.
    pub(crate) fn learn(
        &mut self,
        decided: &Decided,
        lessons: &[Lesson],
        now: Now,
        fail_at: Option<u64>,
    ) -> u64 {
        if self.status != Status::Learning {
            return 0;
        }
        let (spec, views) = (self.spec.clone(), self.views.clone());
        self.guarded(|learner, _| {
            let context = Context::read_logged(&spec, &decided.context);
            let context = context.map_err(|_| "a logged context is not a JSON object")?;
            for lesson in lessons {
                assert!(fail_at != Some(learner.examples() + 1), "failpoint");
                let x = Encoded::new(&spec, views.layout(lesson.metric), &context, lesson.action);
                let example = Example {
                    metric: lesson.metric,
                    action: lesson.action,
                    value: lesson.value,
                    weight: 1.0,
                    clock: decided.clock,
                    at_ms: decided.at_ms,
                };
                let taken = learner.learn(&spec, &views, &example, &x, now.ms);
                taken.map_err(|_| DEGENERATE)?;
            }
            Ok(())
        });
        if self.learner.batch_full(self.spec.policy()) {
            self.flush();
        }
        self.note_pending(now);
        self.mark_good();
        lessons.len() as u64
    }

    /// Takes labelled examples: those that are `fresh`, all if it is empty.
    pub(crate) fn learn_examples(&mut self, e: &Examples, fresh: &[bool], now: Now) -> Taken {
        if self.status != Status::Learning {
            return Taken::default();
        }
        let (spec, views) = (self.spec.clone(), self.views.clone());
        let policy = spec.policy();
        let size = policy.gathered_batch().size as usize;
        // Whole batches are taken as they come; what is left over waits for its time.
        let direct = policy.online.as_ref().is_some_and(|o| o.gradient == Gradient::Each);
        let mut feed = Feed::new(&spec, views.layout(0), e, fresh);
        let mut flushed = false;
        while feed.left > 0 && self.status == Status::Learning {
            let whole = direct && feed.left >= size && !self.learner.has_pending();
            self.guarded(|learner, work| {
                if whole {
                    flushed = true;
                    return take_batch(learner, policy, &mut feed, size, work);
                }
                let full = gather(learner, &spec, &views, &mut feed, now.ms, work)?;
                flushed |= full;
                // A record is learned whole or waits whole: what is published has a position.
                if feed.left == 0 && flushed && learner.has_pending() {
                    learner.flush(&spec, &views).map_err(|_| DEGENERATE)?;
                }
                Ok(())
            });
            self.mark_good();
        }
        self.note_pending(now);
        feed.taken
    }

    /// Notes where the batch that gathers began.
    fn note_pending(&mut self, now: Now) {
        let from = self.pending_from.unwrap_or(now.position);
        self.pending_from = self.learner.has_pending().then_some(from);
    }

    /// Runs `work` on the learner. If it fails or panics, the learner goes back to its last good state.
    fn guarded(&mut self, work: impl FnOnce(&mut Learner, &mut Work) -> Result<(), &'static str>) {
        let (learner, memory) = (&mut self.learner, &mut self.work);
        let outcome = catch_unwind(AssertUnwindSafe(|| work(learner, memory)));
        let why = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why.to_owned(),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                format!("panic: {}", text.unwrap_or_default())
            }
        };
        self.status = Status::Quarantined { at_example: self.learner.examples(), why };
        self.learner.go_back();
    }
}

/// Takes the next `size` rows as a batch of their own.
fn take_batch(
    learner: &mut Learner,
    policy: &Policy,
    feed: &mut Feed<'_>,
    size: usize,
    work: &mut Work,
) -> Result<(), &'static str> {
    let mut filled = 0;
    for _ in 0..size {
        if work.batch.len() <= filled {
            work.batch.resize_with(filled + 1, Default::default);
        }
        let (example, x) = &mut work.batch[filled];
        if let Some(next) = feed.next(learner, x)? {
            *example = next;
            filled += 1;
        }
    }
    let batch = work.batch[..filled].iter().map(|(e, x)| (e, x));
    learner.learn_batch(policy, batch, &mut work.scratch);
    Ok(())
}

/// Takes rows one by one, until the batch that gathers is full or none is left. True if it was full.
fn gather(
    learner: &mut Learner,
    spec: &CheckedSpec,
    views: &Views,
    feed: &mut Feed<'_>,
    now_ms: u64,
    work: &mut Work,
) -> Result<bool, &'static str> {
    let policy = spec.policy();
    let mut x = core::mem::take(&mut work.encoded);
    while feed.left > 0 {
        let Some(example) = feed.next(learner, &mut x)? else { continue };
        learner.learn(spec, views, &example, &x, now_ms).map_err(|_| DEGENERATE)?;
        if policy.gathers() && learner.batch_full(policy) {
            learner.flush(spec, views).map_err(|_| DEGENERATE)?;
            work.encoded = x;
            return Ok(true);
        }
    }
    work.encoded = x;
    Ok(false)
}
