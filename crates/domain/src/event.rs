//! The records of the log. The fold over them is the truth about learning.
//!
//! They are stored with postcard, whose encoding depends on the order of variants and fields: append only,
//! never reorder. A changed layout is a new variant.

use std::sync::Arc;

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::{
    alert::Alert,
    examples::Examples,
    id::{ActionName, DecisionId, LearnerId, ModelName, Position, Sha256},
    levers::LeverChange,
    rewind::Conditions,
    spec::CheckedSpec,
};

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "decisions and feedback are nearly all events")]
pub enum Event {
    /// The log was opened; ids made from here on carry this epoch.
    Opened {
        /// Larger than every one before.
        epoch: u32,
        /// Wall time.
        at_ms: u64,
        /// How much the join may hold from here on.
        limits: JoinLimits,
    },
    /// A binary whose fold differs took over: identity and explanations are claimed between such marks.
    FoldVersion(u32),
    /// Time passed: the only way in which time moves inside the fold.
    Tick {
        /// Wall time, never less than in the tick before.
        now_ms: u64,
    },
    /// A decision was made.
    Decided(Decided),
    /// Feedback came.
    Feedback(Feedback),
    /// A change of the registry.
    Changed(Change),
    /// Everything below was removed; a reference to it is an orphan.
    Trimmed {
        /// The first offset that is left.
        before: u64,
    },
    /// Damaged records were given up by an operator.
    LossAccepted {
        /// The first byte that was lost.
        from: u64,
        /// The first byte after it.
        to: u64,
    },
    /// Labelled examples came.
    Examples(Examples),
    /// From here on the state is that of a fold without what a rewind leaves out.
    Rewound {
        /// Where the change stands that asked for it.
        asked: u64,
    },
    /// A rewind cannot be done: the log no longer holds what it needs.
    RewindAbandoned {
        /// Where the change stands that asked for it.
        asked: u64,
    },
    /// The fold raised an alert, and it was told.
    Alerted(Alert),
    /// The contexts of the decisions at these offsets are taken out: nothing more is learned from them.
    Erased {
        /// Where they stand.
        decisions: Vec<u64>,
    },
}

impl Event {
    /// When it came, by the wall clock; `None` where it does not say.
    #[must_use]
    pub const fn came_ms(&self) -> Option<u64> {
        match self {
            Self::Opened { at_ms, .. } => Some(*at_ms),
            Self::Tick { now_ms } => Some(*now_ms),
            Self::Decided(d) => Some(d.at_ms),
            Self::Feedback(f) => Some(f.received_ms),
            Self::Examples(e) => Some(e.received_ms),
            Self::Changed(c) => Some(c.at_ms),
            _ => None,
        }
    }
}

/// How much the join may hold. It is part of the log, so that replaying needs no configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinLimits {
    /// Decisions that wait for feedback; beyond it the oldest closes as if its deadline had passed.
    pub open_max: u64,
    /// Callers' ids that are remembered.
    pub requests_max: u64,
    /// Pieces of feedback held because their decision has not come.
    pub early_max: u64,
}

impl Default for JoinLimits {
    fn default() -> Self {
        Self { open_max: 40_000_000, requests_max: 262_144, early_max: 65_536 }
    }
}

/// How a decision came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// By the policy.
    Ok,
    /// The incumbent was answered, for the reason given beside.
    Fallback,
    /// An earlier choice of the session was repeated.
    Sticky,
    /// Made by another system and reported afterwards.
    Elsewhere,
}

/// Why an action of the version could not be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removal {
    /// The request named others.
    NotRequested,
    /// The named feature exceeds the action's `max`.
    Max(String),
    /// The spec says that it is retired.
    Retired,
    /// The named rule denies it.
    Rule(String),
    /// An operator has disabled it.
    Disabled,
}

/// A decision: what was known, what could be chosen, with which probabilities, and what was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// The log epoch in which it was made.
    pub epoch: u32,
    /// 64 random bits: they prove the id and key the draw.
    pub nonce: u64,
    /// Wall time of the decision.
    pub at_ms: u64,
    /// Whose decision.
    pub model: ModelName,
    /// The version that answered.
    pub version: Version,
    /// The learner whose weights answered.
    pub learner: LearnerId,
    /// The log offset up to which those weights had learned.
    pub snapshot: u64,
    /// Decisions of the model folded in that snapshot: the clock of forgetting by events.
    pub clock: u64,
    /// The declared features of the context, a JSON object.
    pub context: String,
    /// Indices into the version's actions of those that could be chosen.
    pub eligible: Vec<u16>,
    /// What removed the others.
    pub removed: Vec<(u16, Removal)>,
    /// One for each eligible action; empty where a decision made elsewhere did not say.
    pub probabilities: Vec<f64>,
    /// Index into `eligible`.
    pub chosen: u16,
    /// How it came about.
    pub outcome: Outcome,
    /// Why, where the outcome is not `Ok`.
    pub reason: Option<String>,
    /// What the caller said beside the context.
    pub caller: Caller,
    /// Metrics that were known at once: decisions made elsewhere. Of a prediction: what was served, as `prediction` or,
    /// by class, as `prediction=CLASS`.
    pub metrics: Vec<(String, f64)>,
}

/// The smallest number that takes as many bytes in the log, seven bits each. A hash is hardly ever one.
const fn least_of_length(number: u64) -> u64 {
    match number.checked_ilog2() {
        Some(bit) => 1 << (bit / 7 * 7),
        None => 0,
    }
}

impl Decided {
    /// Its id, standing at `position`.
    #[must_use]
    pub const fn id(&self, position: Position) -> DecisionId {
        DecisionId { epoch: self.epoch, position, nonce: self.nonce }
    }

    /// Takes out what it says of a person: context, targeting key, session, metadata and the hash of the request, for something of
    /// the same length, so that the record keeps its own.
    pub fn erase(&mut self) {
        let blank = |text: &mut String| *text = " ".repeat(text.len());
        let empty = |text: &mut String| {
            if text.len() >= 2 {
                *text = format!("{{}}{}", " ".repeat(text.len() - 2));
            }
        };
        empty(&mut self.context);
        self.caller.metadata.as_mut().map(empty);
        self.caller.targeting_key.as_mut().map(blank);
        self.caller.session_id.as_mut().map(blank);
        // It would tell whether a guess is right.
        self.caller.body_hash = self.caller.body_hash.map(least_of_length);
    }

    /// Whether what it says of a person was taken out. One that never said anything has no room to show it.
    #[must_use]
    pub fn is_erased(&self) -> bool {
        let blank = |text: &String| !text.is_empty() && text.bytes().all(|b| b == b' ');
        self.context.ends_with(' ')
            || self.caller.targeting_key.as_ref().is_some_and(blank)
            || self.caller.body_hash.is_some_and(|hash| hash == least_of_length(hash))
    }

    /// Whether its action was drawn by the probabilities of its record: neither repeated nor ordered.
    #[must_use]
    pub fn is_drawn(&self) -> bool {
        let ordered = matches!(self.reason.as_deref(), Some("pinned" | "budget"));
        self.outcome == Outcome::Ok && !ordered
    }

    /// The chosen action's index in the version's actions.
    #[must_use]
    pub fn action(&self) -> Option<u16> {
        self.eligible.get(usize::from(self.chosen)).copied()
    }

    /// The probability with which it was chosen, where known.
    #[must_use]
    pub fn probability(&self) -> Option<f64> {
        self.probabilities.get(usize::from(self.chosen)).copied()
    }
}

/// What a caller may say beside the context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The name of the key that authorised the request.
    pub principal: Option<Arc<str>>,
    /// The caller's own id: the same one again answers the same decision.
    pub request_id: Option<String>,
    /// Whom the decision is about.
    pub targeting_key: Option<String>,
    /// The session it belongs to.
    pub session_id: Option<String>,
    /// A flat JSON object.
    pub metadata: Option<String>,
    /// When it was decided, where another system did.
    pub at_ms: Option<u64>,
    /// With a request id: a keyed hash of the request's body, to tell a repetition from another request.
    pub body_hash: Option<u64>,
}

/// What feedback refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// A decision by Pawl's id.
    Decision(DecisionId),
    /// A decision by the caller's id.
    Request {
        /// Whose decision.
        model: ModelName,
        /// The caller's id of it.
        request_id: String,
    },
}

/// What came back for a decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    /// What it refers to.
    pub target: Target,
    /// Wall time of arrival.
    pub received_ms: u64,
    /// When it was observed, where the caller said so.
    pub at_ms: Option<u64>,
    /// Values by metric name. A label is the metric `label`, and a label that is no number is `label=CLASS`, 1.
    pub metrics: Vec<(String, f64)>,
    /// The action that was really taken, where it was another than the chosen one.
    pub action_taken: Option<ActionName>,
    /// The decision was not acted upon: it teaches nothing.
    pub not_used: bool,
    /// The name of the key that authorised the request.
    pub principal: Option<Arc<str>>,
    /// A flat JSON object.
    pub metadata: Option<String>,
}

/// A change of the registry, relayed into the log in its order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Of the registry: a restored one has another.
    pub incarnation: u64,
    /// Dense from 1 within an incarnation.
    pub seq: u64,
    /// Wall time.
    pub at_ms: u64,
    /// The name of the key that made it.
    pub principal: Option<Arc<str>>,
    /// What changed.
    pub kind: ChangeKind,
}

impl Change {
    /// The change by which a model begins, as a registry's `seq`-th, for folds without a registry.
    #[must_use]
    pub fn first(spec: &CheckedSpec, seq: u64) -> Self {
        let kind = ChangeKind::Enrolled {
            model: spec.name().clone(),
            version: Version::new(1, 0, 0),
            learner: LearnerId(1),
            spec: spec.to_json(),
            spec_sha256: spec.sha256(),
            inherits: None,
        };
        Self { incarnation: 1, seq, at_ms: 0, principal: None, kind }
    }
}

/// What changed in the registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// A version came into production with a learner of its own.
    Enrolled {
        /// Of which model.
        model: ModelName,
        /// The version.
        version: Version,
        /// The new learner.
        learner: LearnerId,
        /// The whole checked spec, as JSON.
        spec: String,
        /// Its digest.
        spec_sha256: Sha256,
        /// The learner whose learning it takes over, by the names of features and actions.
        inherits: Option<LearnerId>,
    },
    /// A change that the fold does not need, such as of a key: only its place in the order counts.
    Noted,
    /// A change of what a model's learner does.
    Learner {
        /// Whose.
        model: ModelName,
        /// What.
        change: LearnerChange,
    },
    /// A version came into production with a learner that begins from an artifact.
    Restored {
        /// Of which model.
        model: ModelName,
        /// The version.
        version: Version,
        /// The new learner.
        learner: LearnerId,
        /// The digest of the artifact, which holds the spec.
        artifact: Sha256,
    },
    /// An operator pulled a lever of a model.
    Lever {
        /// Of which.
        model: ModelName,
        /// What.
        change: LeverChange,
    },
    /// A model answers no more, or again. Feedback still teaches it.
    Archived {
        /// Which.
        model: ModelName,
        /// Whether it is from here on.
        archived: bool,
    },
    /// A model and what it learned are gone.
    Deleted {
        /// Which.
        model: ModelName,
    },
}

/// What a learner is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LearnerChange {
    /// Serve on, and learn nothing.
    Freeze,
    /// Learn again: after a freeze, or from the last good state after a failure.
    Resume,
    /// Forget everything.
    Reset,
    /// Become what it would be without some of its feedback and examples.
    Rewind {
        /// The first record from which on they are left out; those after this change count again.
        to: u64,
        /// Which; all, if there is no condition.
        without: Conditions,
    },
}

impl LearnerChange {
    /// As the audit trail shows it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Freeze => "learner.freeze",
            Self::Resume => "learner.resume",
            Self::Reset => "learner.reset",
            Self::Rewind { .. } => "learner.rewind",
        }
    }
}
