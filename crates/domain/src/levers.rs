//! Levers: what an operator changes of a running model at once, without a new version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::ActionName;

/// What an operator says until it is said otherwise, or until its time has passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Why.
    pub reason: Option<String>,
    /// Log time from which on it no longer holds.
    pub until_ms: Option<u64>,
}

impl Order {
    fn holds(&self, now_ms: u64) -> bool {
        self.until_ms.is_none_or(|until| now_ms < until)
    }
}

/// The levers of a model as they stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Levers {
    /// Actions that are not eligible.
    pub disabled: BTreeMap<ActionName, Order>,
    /// The action that is always chosen where it is eligible.
    pub pinned: Option<(ActionName, Order)>,
    /// Whether the policy only takes the best that it knows.
    pub greedy: bool,
    /// The share of traffic that the policy may decide, in place of the spec's.
    pub ramp: Option<f64>,
}

/// A lever is pulled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeverChange {
    /// An action is not to be chosen.
    Disable {
        /// Which.
        action: ActionName,
        /// Why, and until when.
        order: Order,
    },
    /// An action may be chosen again.
    Enable {
        /// Which.
        action: ActionName,
    },
    /// An action is always to be chosen where it is eligible.
    Pin {
        /// Which.
        action: ActionName,
        /// Why, and until when.
        order: Order,
    },
    /// The policy chooses again.
    Unpin,
    /// Whether the policy may explore.
    Explore(bool),
    /// The share of traffic that the policy may decide; `None` is what the spec says.
    Ramp(Option<f64>),
}

impl LeverChange {
    /// As the audit trail shows it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Disable { .. } => "action.disable",
            Self::Enable { .. } => "action.enable",
            Self::Pin { .. } => "policy.pin",
            Self::Unpin => "policy.unpin",
            Self::Explore(true) => "policy.explore_on",
            Self::Explore(false) => "policy.explore_off",
            Self::Ramp(_) => "policy.ramp",
        }
    }
}

impl Levers {
    /// Pulls one.
    pub fn pull(&mut self, change: &LeverChange) {
        match change {
            LeverChange::Disable { action, order } => {
                self.disabled.insert(action.clone(), order.clone());
            }
            LeverChange::Enable { action } => {
                self.disabled.remove(action);
            }
            LeverChange::Pin { action, order } => {
                self.pinned = Some((action.clone(), order.clone()));
            }
            LeverChange::Unpin => self.pinned = None,
            LeverChange::Explore(explores) => self.greedy = !explores,
            LeverChange::Ramp(share) => self.ramp = *share,
        }
    }

    /// When the next order ends.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        let pinned = self.pinned.iter().map(|(_, order)| order);
        self.disabled.values().chain(pinned).filter_map(|order| order.until_ms).min()
    }

    /// Drops the orders whose time has passed. True if there were any.
    pub fn expire(&mut self, now_ms: u64) -> bool {
        let before = (self.disabled.len(), self.pinned.is_some());
        self.disabled.retain(|_, order| order.holds(now_ms));
        self.pinned.take_if(|(_, order)| !order.holds(now_ms));
        before != (self.disabled.len(), self.pinned.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_ends_when_its_time_has_passed() {
        let name = |n: &str| n.parse::<ActionName>().unwrap();
        let order = |until_ms| Order { reason: None, until_ms };
        let mut levers = Levers::default();
        levers.pull(&LeverChange::Disable { action: name("a"), order: order(Some(100)) });
        levers.pull(&LeverChange::Disable { action: name("b"), order: order(None) });
        levers.pull(&LeverChange::Pin { action: name("c"), order: order(Some(50)) });
        assert_eq!(levers.due_ms(), Some(50));
        assert!(!levers.expire(49));
        assert!(levers.expire(50));
        assert_eq!((levers.pinned.is_none(), levers.due_ms()), (true, Some(100)));
        assert!(levers.expire(1000) && levers.disabled.len() == 1);
        levers.pull(&LeverChange::Enable { action: name("b") });
        assert_eq!(levers, Levers::default());
    }
}
