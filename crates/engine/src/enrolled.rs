//! A learner in service: guarded, so that its failure is an outcome and not the end of the fold.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use pawl_domain::{CheckedSpec, LearnerId, Sha256, event::Decided};
use pawl_learn::{Example, Learner};
use pawl_model::{Encoded, Snapshot, Views, context::Context};
use semver::Version;
use serde::{Deserialize, Serialize};

/// Examples after which the good copy is renewed. Part of the fold.
const GOOD_EVERY: u64 = 1024;

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
    good: Learner,
    status: Status,
}

/// [`Enrolled`] without what follows from the spec.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    version: Version,
    id: LearnerId,
    spec: CheckedSpec,
    learner: Learner,
    good: Learner,
    status: Status,
}

impl From<Enrolled> for Stored {
    fn from(e: Enrolled) -> Self {
        let spec = e.spec.as_ref().clone();
        Self {
            version: e.version,
            id: e.id,
            spec,
            learner: e.learner,
            good: e.good,
            status: e.status,
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
            good: s.good,
            status: s.status,
        }
    }
}

/// One value to learn: metric, action and value, by index in the learner's own spec.
pub(crate) struct Lesson {
    pub metric: usize,
    pub action: u16,
    pub value: f64,
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
        let sound = old.filter(|old| old.status == Status::Learning);
        let learner = sound.map_or_else(fresh, |old| {
            old.flush();
            let inherited = catch_unwind(AssertUnwindSafe(|| old.learner.inherit(&spec, &views)));
            inherited.ok().and_then(Result::ok).unwrap_or_else(fresh)
        });
        let good = learner.clone();
        Self { version, id, spec, views, learner, good, status: Status::Learning }
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

    /// Digest of what it has learned.
    #[must_use]
    pub fn sha256(&self) -> Sha256 {
        Sha256::of(&postcard::to_stdvec(&self.learner).unwrap_or_default())
    }

    /// The view of it at `position`.
    #[must_use]
    pub fn snapshot(&self, position: u64) -> Snapshot {
        self.learner.snapshot(&self.spec, &self.views, self.version.clone(), self.id, position)
    }

    /// Whether a decision alone changes what its snapshot says.
    pub(crate) fn counts_decisions(&self) -> bool {
        let policy = self.spec.policy();
        policy.half_life.is_some() || policy.epsilon[1] < 1.0
    }

    pub(crate) fn decided(&mut self, at_ms: u64) {
        self.learner.decided(at_ms);
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
        self.guarded(|learner| {
            let encode = |e: &Example| match Context::read_logged(&spec, &e.context) {
                Ok(context) => Encoded::new(&spec, views.layout(e.metric), &context),
                Err(_) => Encoded::default(), // the log holds only what Context::logged wrote
            };
            learner.flush(&spec, &views, encode).map_err(|_| "its statistics are degenerate")
        });
    }

    /// Takes the lessons of one decision. Returns how many it learned from.
    pub(crate) fn learn(
        &mut self,
        decided: &Decided,
        lessons: &[Lesson],
        now_ms: u64,
        fail_at: Option<u64>,
    ) -> u64 {
        if self.status != Status::Learning {
            return 0;
        }
        let (spec, views) = (self.spec.clone(), self.views.clone());
        self.guarded(|learner| {
            let context = Context::read_logged(&spec, &decided.context);
            let context = context.map_err(|_| "a logged context is not a JSON object")?;
            for lesson in lessons {
                assert!(fail_at != Some(learner.examples() + 1), "failpoint");
                let x = Encoded::new(&spec, views.layout(lesson.metric), &context);
                let forgets = spec.policy().half_life.is_some();
                let example = Example {
                    metric: lesson.metric,
                    action: lesson.action,
                    value: lesson.value,
                    clock: decided.clock,
                    at_ms: decided.at_ms,
                    // Kept only where the example waits for its batch.
                    context: if forgets { decided.context.as_str().into() } else { "".into() },
                };
                let taken = learner.learn(&spec, &views, example, &x, now_ms);
                taken.map_err(|_| "its statistics are degenerate")?;
            }
            Ok(())
        });
        if self.learner.batch_full(self.spec.policy()) {
            self.flush();
        }
        if self.status == Status::Learning
            && self.learner.examples() / GOOD_EVERY != self.good.examples() / GOOD_EVERY
        {
            self.good = self.learner.clone();
        }
        lessons.len() as u64
    }

    /// Runs `work` on the learner. If it fails or panics, the learner goes back to its last good state.
    fn guarded(&mut self, work: impl FnOnce(&mut Learner) -> Result<(), &'static str>) {
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut self.learner)));
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
        self.learner = self.good.clone();
    }
}
