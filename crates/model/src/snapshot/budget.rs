//! What a spent budget makes of a decision.

use std::{collections::BTreeSet, sync::Arc};

use pawl_domain::spec::{Budget, OnExceed, spender};

use super::{Choice, Scores, Snapshot};
use crate::context::Context;

/// A budget that somebody has spent.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetView {
    /// The budget.
    pub budget: Budget,
    /// By [`spender`]: those who have.
    pub over: Arc<BTreeSet<u64>>,
}

impl BudgetView {
    fn is_spent(&self, context: &Context<'_>) -> bool {
        let who = self.budget.by.map_or(0, |i| spender(&context.values[i]));
        self.over.contains(&who)
    }
}

impl Snapshot {
    /// The place of the action that a spent budget asks for; `None` where none does.
    pub(super) fn within_budget(
        &self,
        choice: &Choice,
        context: &Context<'_>,
        scores: &Scores,
    ) -> Option<usize> {
        let asks = |b: &&BudgetView| b.budget.on_exceed != OnExceed::Alert && b.is_spent(context);
        let budget = &self.budgets.iter().find(asks)?.budget;
        let incumbent = self.spec.incumbent().map(|i| i as u16);
        if budget.on_exceed == OnExceed::Incumbent && choice.eligible.first().copied() == incumbent
        {
            return Some(0);
        }
        let predicted = &scores.predicted[budget.metric];
        let usual = (0..predicted.len()).filter(|i| !self.is_on_probation(choice.eligible[*i]));
        let least = |a: usize, b: usize| if predicted[b] < predicted[a] { b } else { a };
        usual.reduce(least).or_else(|| (0..predicted.len()).reduce(least))
    }
}
