//! Budgets: what may be spent of a metric, and what happens beyond.

use serde::{Deserialize, Serialize};

use crate::value::Value;

/// A budget as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetSpec {
    /// What is summed over decisions.
    pub metric: String,
    /// For how long: then the sum begins anew.
    pub per: Period,
    /// A feature of the context: each of its values has a budget of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The most that the sum may reach.
    pub max: f64,
    /// What happens once it is reached.
    pub on_exceed: OnExceed,
}

/// How long a budget is for. Periods begin at midnight UTC, weeks on Monday.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week.
    Week,
}

/// What happens once a budget is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExceed {
    /// The eligible action that is expected to take least of the metric.
    CheapestEligible,
    /// The incumbent where it is eligible.
    Incumbent,
    /// Nothing but the alert, which the others raise too.
    Alert,
}

/// A checked budget.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// Index of the metric.
    pub metric: usize,
    /// For how long.
    pub per: Period,
    /// Index of the feature whose values have budgets of their own.
    pub by: Option<usize>,
    /// The most that the sum may reach.
    pub max: f64,
    /// What happens then.
    pub on_exceed: OnExceed,
}

impl Period {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
        }
    }

    /// Its length.
    #[must_use]
    pub const fn ms(self) -> u64 {
        match self {
            Self::Hour => 3_600_000,
            Self::Day => 86_400_000,
            Self::Week => 7 * 86_400_000,
        }
    }

    /// When the one around `at_ms` began.
    #[must_use]
    pub const fn begin(self, at_ms: u64) -> u64 {
        // 1970-01-01 was a Thursday: three days into its week.
        let shift = match self {
            Self::Week => 3 * 86_400_000,
            Self::Hour | Self::Day => 0,
        };
        ((at_ms + shift) / self.ms() * self.ms()).saturating_sub(shift)
    }
}

impl OnExceed {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CheapestEligible => "cheapest_eligible",
            Self::Incumbent => "incumbent",
            Self::Alert => "alert",
        }
    }
}

/// The key under which what a value has spent is kept: a hash, so that no state holds what a context said. A value that
/// is missing or of another type has one too.
#[must_use]
pub fn spender(value: &Value<'_>) -> u64 {
    // As JSON: the word `null` is another than none.
    xxhash_rust::xxh3::xxh3_64(value.to_json().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-24 is a Tuesday; its week began on Monday the 23rd, 2026-11-23T00:00:00Z = 1 795 392 000 s (`date -u -d`).
    #[test]
    fn periods_begin_at_midnight_and_weeks_on_monday() {
        let at = 1_795_541_552_123;
        assert_eq!(Period::Week.begin(at), 1_795_392_000_000);
        assert_eq!(Period::Day.begin(at), 1_795_478_400_000);
        assert_eq!(Period::Hour.begin(at), 1_795_539_600_000);
        assert_eq!(Period::Week.begin(5), 0);
    }
}
