//! Sessions: decisions that belong together.

use serde::{Deserialize, Serialize};

use crate::duration::Duration;

/// What decisions with the same `session_id` have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionSpec {
    /// The action that was drawn is repeated, where it is eligible, until nothing was decided in the session for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Duration>,
    /// Which decisions feedback on a session is for.
    #[serde(default)]
    pub credit: Credit,
}

/// Which decisions of a session feedback on it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credit {
    /// Every one that is remembered.
    #[default]
    All,
    /// The last.
    Last,
}
