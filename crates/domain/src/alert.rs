//! What happened inside the fold that people want to know.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{LearnerId, ModelName};

/// Something that happened. It is raised by the fold, and becomes an event once the driver has written it.
///
/// Stored with postcard, as events are: append only, never reorder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// The offset of the record that raised it, and how many it raised before: its identity.
    pub raised: (u64, u32),
    /// Log time.
    pub at_ms: u64,
    /// Whose.
    pub model: ModelName,
    /// The learner, where it is of one.
    pub learner: Option<LearnerId>,
    /// What.
    pub what: Happening,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Happening {
    /// A learner diverged: it went back to its last good state.
    WentBack {
        /// The metric that it was learning.
        metric: String,
        /// Why: `non_finite`, `exploding_loss`, `exploding_gradient` or `worse_than_constant`.
        why: String,
        /// Examples it had taken.
        at_example: u64,
        /// The factor of its rate from now on.
        rate: f64,
    },
    /// What did not fit stayed: a learner took it for how things are.
    Accepted {
        /// The metric.
        metric: String,
        /// Examples it had taken.
        at_example: u64,
    },
    /// A learner's loss has risen for good.
    Drifted {
        /// The metric.
        metric: String,
        /// Examples it had taken.
        at_example: u64,
    },
    /// A learner failed, and stands at its last good state.
    Quarantined {
        /// Examples it had taken.
        at_example: u64,
        /// The failure.
        why: String,
    },
    /// Hardly any decision has feedback any more: deadlines wait, and the model's learners hold.
    FeedbackStopped {
        /// The share of late.
        recent: f64,
        /// The usual share.
        usual: f64,
    },
    /// Feedback comes again.
    FeedbackBack {
        /// Pieces of feedback that had waited, learned now.
        held: u64,
    },
    /// Feedback has not come for so long that this is how things are: deadlines count again.
    FeedbackGivenUp {
        /// Pieces of feedback that had waited, learned now.
        held: u64,
    },
    /// A floor that was released for long is no longer certain: the incumbent decides.
    FloorClosed {
        /// The metric that is kept.
        metric: String,
        /// Values of it for which it was released.
        released: u64,
    },
    /// A budget is spent.
    BudgetSpent {
        /// The metric.
        metric: String,
        /// For how long it is: `hour`, `day`, `week`.
        per: String,
        /// The feature whose values have budgets of their own.
        by: Option<String>,
        /// What was to be spent at most.
        max: f64,
        /// Where a decision stands that spent of it.
        decision: u64,
    },
}

impl Happening {
    /// As programs read it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::WentBack { .. } => "went_back",
            Self::Accepted { .. } => "accepted",
            Self::Drifted { .. } => "drifted",
            Self::Quarantined { .. } => "quarantined",
            Self::FeedbackStopped { .. } => "feedback_stopped",
            Self::FeedbackBack { .. } => "feedback_back",
            Self::FeedbackGivenUp { .. } => "feedback_given_up",
            Self::FloorClosed { .. } => "floor_closed",
            Self::BudgetSpent { .. } => "budget_spent",
        }
    }
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WentBack { metric, why, at_example, rate } => write!(
                f,
                "`{metric}` diverged ({why}) at example {at_example} and went back; its rate is now {rate} of its own"
            ),
            Self::Accepted { metric, at_example } => write!(
                f,
                "`{metric}` takes what did not fit for how things are, at example {at_example}"
            ),
            Self::Drifted { metric, at_example } => {
                write!(f, "the loss of `{metric}` has risen for good, at example {at_example}")
            }
            Self::Quarantined { at_example, why } => {
                write!(f, "the learner failed at example {at_example} and learns no more: {why}")
            }
            Self::FeedbackStopped { recent, usual } => write!(
                f,
                "feedback has stopped: {:.1} % of decisions have some, {:.1} % had; deadlines wait, learners hold",
                100.0 * recent,
                100.0 * usual
            ),
            Self::FeedbackBack { held } => {
                write!(f, "feedback comes again; {held} pieces that had waited are learned")
            }
            Self::FeedbackGivenUp { held } => write!(
                f,
                "feedback has stayed away too long: deadlines count again, and {held} pieces that had waited are learned"
            ),
            Self::FloorClosed { metric, released } => write!(
                f,
                "the floor of `{metric}`, released for {released} values, is no longer certain: the incumbent decides"
            ),
            Self::BudgetSpent { metric, per, by, max, .. } => match by {
                Some(by) => {
                    write!(f, "one value of `{by}` has spent its {max} of `{metric}` this {per}")
                }
                None => write!(f, "the {max} of `{metric}` for this {per} are spent"),
            },
        }
    }
}
