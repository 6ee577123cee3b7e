//! Budgets: what was spent, and what decisions without feedback are expected to.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use pawl_domain::{
    ActionName, Happening,
    event::Decided,
    spec::{Budget, CheckedSpec, Period, spender},
};
use pawl_model::{Snapshot, context::Context, snapshot::BudgetView};
use serde::{Deserialize, Serialize};

use crate::{
    Engine, Recorded,
    books::made_ms,
    enrolled::Enrolled,
    state::{ActionTally, Model},
};

/// Values of a feature that have a budget of their own in one period; decisions for others are only counted.
const SPENDERS_MAX: usize = 100_000;
/// Alerts of one budget in one period.
const TOLD_MAX: u64 = 16;

/// Which budget.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BudgetKey {
    /// What is summed.
    pub metric: String,
    /// For how long.
    pub per: Period,
    /// The feature whose values have budgets of their own.
    pub by: Option<String>,
}

/// What was spent of a budget in the present period.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// When the period began.
    pub begin_ms: u64,
    /// By [`spender`].
    pub spent: BTreeMap<u64, Spent>,
    /// Those who reached the most.
    pub over: Arc<BTreeSet<u64>>,
    /// Decisions from this offset on are counted.
    pub since: u64,
    /// Decisions that nobody's budget was kept for: there were too many already.
    pub untracked: u64,
    told: u64,
}

/// What one spender has spent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// What feedback said.
    pub seen: f64,
    /// By chosen action: decisions without feedback yet.
    pub open: BTreeMap<ActionName, u64>,
    /// Where the last decision stands.
    pub decision: u64,
    told: bool,
}

impl Spent {
    /// What was spent, with open decisions at what their actions take in the mean.
    #[must_use]
    pub fn in_all(&self, mean: impl Fn(&ActionName) -> f64) -> f64 {
        self.seen + self.open.iter().map(|(action, n)| *n as f64 * mean(action)).sum::<f64>()
    }
}

/// What happened to a budget.
enum Move<'a> {
    /// The decision was made.
    Decided,
    /// A value came.
    Value(&'a str, f64),
    /// Nobody acted on the decision; values of the metrics with these bits had come.
    NotUsed(u16),
}

fn key(spec: &CheckedSpec, budget: &Budget) -> BudgetKey {
    BudgetKey {
        metric: spec.metrics()[budget.metric].name.clone(),
        per: budget.per,
        by: budget.by.map(|i| spec.features()[i].name.clone()),
    }
}

impl Model {
    /// The budgets of the version in production with what was spent of them.
    #[must_use]
    pub fn budgets(&self) -> Vec<(&Budget, BudgetKey, Option<&Ledger>)> {
        let Some(spec) = self.production().map(Enrolled::spec) else { return Vec::new() };
        let of = |budget| {
            let key = key(spec, budget);
            let ledger = self.budgets.0.get(&key);
            (budget, key, ledger)
        };
        spec.budgets().iter().map(of).collect()
    }

    /// What a decision for an action takes of a metric in the mean; where nothing is known of it, what any does.
    pub fn mean_of<'m>(&'m self, metric: &'m str) -> impl Fn(&ActionName) -> f64 + 'm {
        let known = move |tally: &'m ActionTally| tally.metrics.get(metric).filter(|c| c.n > 0.0);
        let any = OnceCell::new();
        let of_any = move || {
            let all = self.by_action.values().filter_map(known);
            let (n, sum) = all.fold((0.0, 0.0), |(n, sum), c| (n + c.n, sum + c.sum));
            if n > 0.0 { sum / n } else { 0.0 }
        };
        move |action| match self.by_action.get(action).and_then(known) {
            Some(count) => count.sum / count.n,
            None => *any.get_or_init(of_any),
        }
    }

    /// Keeps what was spent of budgets that stay, and begins the others.
    pub(crate) fn set_budgets(&mut self, spec: &CheckedSpec, position: u64) {
        let mut before = core::mem::take(&mut self.budgets.0);
        for budget in spec.budgets() {
            let key = key(spec, budget);
            let begin = || Ledger { since: position, ..Ledger::default() };
            let ledger = before.remove(&key).unwrap_or_else(begin);
            self.budgets.0.insert(key, ledger);
        }
    }

    /// Gives a snapshot who has spent what.
    pub(crate) fn hold_budgets(&self, snapshot: &mut Snapshot) {
        for (budget, _, ledger) in self.budgets() {
            if let Some(ledger) = ledger.filter(|l| !l.over.is_empty()) {
                snapshot
                    .budgets
                    .push(BudgetView { budget: budget.clone(), over: ledger.over.clone() });
            }
        }
    }

    /// When the next period of a budget begins that somebody has spent of.
    pub(crate) fn budgets_due_ms(&self) -> Option<u64> {
        let begun = self.budgets.0.iter().filter(|(_, l)| !l.over.is_empty());
        begun.map(|(key, l)| l.begin_ms + key.per.ms()).min()
    }

    /// Begins new periods. True if somebody may spend again.
    pub(crate) fn begin_periods(&mut self, now_ms: u64) -> bool {
        let mut freed = false;
        for (key, ledger) in &mut self.budgets.0 {
            freed |= ledger.begin(key.per.begin(now_ms));
        }
        freed
    }

    /// Counts what became of a decision. True if the view of decisions has changed by it.
    fn spend(
        &mut self,
        offset: u64,
        decided: &Decided,
        what: &Move<'_>,
        told: &mut Vec<Happening>,
    ) -> bool {
        let Some(spec) = self.production().map(Enrolled::shared_spec) else { return false };
        let Some(chosen) = self.chosen(decided).filter(|_| !spec.budgets().is_empty()) else {
            return false;
        };
        let Ok(context) = Context::read_logged(&spec, &decided.context) else { return false };
        let mut turned = false;
        for budget in spec.budgets() {
            let key = key(&spec, budget);
            let bit = self.bits.get(&key.metric).map_or(0, |b| 1_u16 << b);
            let other = match what {
                Move::Decided => false,
                Move::Value(name, _) => *name != key.metric,
                Move::NotUsed(came) => came & bit != 0,
            };
            if other {
                continue;
            }
            let who = budget.by.map_or(0, |i| spender(&context.values[i]));
            let at = budget.per.begin(made_ms(decided));
            let Some(mut ledger) = self.budgets.0.remove(&key) else { continue };
            if matches!(what, Move::Decided) && at > ledger.begin_ms {
                turned |= ledger.begin(at);
            }
            if at == ledger.begin_ms && offset >= ledger.since {
                ledger.take(who, &chosen, offset, what);
                let sum =
                    ledger.spent.get(&who).map_or(0.0, |s| s.in_all(self.mean_of(&key.metric)));
                let is_over = sum >= budget.max;
                turned |= ledger.turn(who, is_over);
                if is_over && let Some(decision) = ledger.tell(who) {
                    let BudgetKey { metric, per, by } = key.clone();
                    let per = per.as_str().to_owned();
                    told.push(Happening::BudgetSpent {
                        metric,
                        per,
                        by,
                        max: budget.max,
                        decision,
                    });
                }
            }
            self.budgets.0.insert(key, ledger);
        }
        turned
    }
}

impl Ledger {
    /// Begins a new period, if it is later than the present one. True if somebody had spent all of that.
    fn begin(&mut self, begin_ms: u64) -> bool {
        if begin_ms <= self.begin_ms {
            return false;
        }
        let over = core::mem::take(&mut self.over);
        let any = !over.is_empty();
        *self = Self { begin_ms, since: self.since, ..Self::default() };
        any
    }

    fn take(&mut self, who: u64, chosen: &ActionName, offset: u64, what: &Move<'_>) {
        if !self.spent.contains_key(&who) && self.spent.len() >= SPENDERS_MAX {
            self.untracked += u64::from(matches!(what, Move::Decided));
            return;
        }
        let spent = self.spent.entry(who).or_default();
        if matches!(what, Move::Decided) {
            *spent.open.entry(chosen.clone()).or_default() += 1;
            spent.decision = offset;
            return;
        }
        if let Some(open) = spent.open.get_mut(chosen) {
            *open -= 1;
            if *open == 0 {
                spent.open.remove(chosen);
            }
        }
        if let Move::Value(_, value) = what {
            spent.seen += value;
        }
    }

    /// Notes whether a spender has reached the most. True if that is new.
    fn turn(&mut self, who: u64, is_over: bool) -> bool {
        if self.over.contains(&who) == is_over {
            return false;
        }
        let over = Arc::make_mut(&mut self.over);
        if is_over { over.insert(who) } else { over.remove(&who) }
    }

    /// Whether it is to be told that a spender has reached the most, and of which decision.
    fn tell(&mut self, who: u64) -> Option<u64> {
        let spent = self.spent.get_mut(&who).filter(|s| !s.told)?;
        spent.told = true;
        self.told += 1;
        (self.told <= TOLD_MAX).then_some(spent.decision)
    }
}

impl Engine {
    /// A decision counts against its budgets at what it is expected to take.
    pub(crate) fn spend_decided(&mut self, offset: u64, decided: &Decided) {
        self.spend(offset, decided, &[Move::Decided]);
    }

    /// Values take the place of what was expected.
    pub(crate) fn spend_values(&mut self, recorded: &Recorded, values: &[(&str, f64)]) {
        let moves: Vec<_> = values.iter().map(|(name, value)| Move::Value(name, *value)).collect();
        self.spend(recorded.at.offset, &recorded.decided, &moves);
    }

    /// A decision that nobody acted on takes nothing but what came of it before.
    pub(crate) fn spend_nothing(&mut self, recorded: &Recorded, came: u16) {
        self.spend(recorded.at.offset, &recorded.decided, &[Move::NotUsed(came)]);
    }

    fn spend(&mut self, offset: u64, decided: &Decided, moves: &[Move<'_>]) {
        let Some(model) = self.state.models.get_mut(&decided.model) else { return };
        if model.budgets.0.is_empty() {
            return;
        }
        let (mut told, mut turned) = (Vec::new(), false);
        for what in moves {
            turned |= model.spend(offset, decided, what, &mut told);
        }
        if turned {
            self.dirty.insert(decided.model.clone());
        }
        told.into_iter().for_each(|what| self.alert(&decided.model, None, what));
    }
}
