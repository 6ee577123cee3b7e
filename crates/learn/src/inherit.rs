//! A new version takes over what an old one learned, by the names of metrics, actions and slots.

use std::sync::Arc;

use pawl_domain::spec::CheckedSpec;
use pawl_model::{Views, linear::Posterior};

use crate::{
    learner::Learner,
    linear::{Degenerate, Linear, Statistics},
    metric::{MetricState, Models, Run},
};

impl Learner {
    /// The learner of `spec` that starts from this one: what has the same name and meaning keeps its learning,
    /// the rest starts anew. A pending batch must have been applied.
    ///
    /// # Errors
    /// If this learner's statistics are degenerate.
    pub fn inherit(&self, spec: &CheckedSpec, views: &Views) -> Result<Self, Degenerate> {
        let mut new = Self::new(spec, views);
        let action = |name| self.actions.iter().position(|a| a == name);
        let actions: Vec<Option<usize>> = new.actions.iter().map(action).collect();
        let outputs = output_map(&self.classes, &new.classes);
        for metric in &mut new.metrics {
            if let Some(old) = self.metrics.iter().find(|m| m.name == metric.name) {
                metric.take_over(old, &actions, outputs.as_deref())?;
            }
        }
        new.take_clock(self);
        Ok(new)
    }
}

impl MetricState {
    fn take_over(
        &mut self,
        old: &Self,
        actions: &[Option<usize>],
        outputs: Option<&[Option<usize>]>,
    ) -> Result<(), Degenerate> {
        let slots = slot_map(&old.runs, &self.runs);
        match (&old.models, &mut self.models) {
            (Models::Counts(from), Models::Counts(to)) => {
                for (to, from) in
                    to.iter_mut().zip(actions).filter_map(|(t, a)| Some((t, from.get((*a)?)?)))
                {
                    *to = *from;
                }
            }
            (Models::PerAction(from), Models::PerAction(to)) => {
                for (to, from) in
                    to.iter_mut().zip(actions).filter_map(|(t, a)| Some((t, from.get((*a)?)?)))
                {
                    take_linear(to, from, &slots)?;
                }
            }
            (Models::Joint(from), Models::Joint(to)) => take_linear(to, from, &slots)?,
            (Models::Online(from), Models::Online(to)) => {
                let Some(outputs) = outputs else { return Ok(()) };
                // Scores of a logistic function are no values.
                if self.logistic != old.logistic {
                    return Ok(());
                }
                for (to, from) in
                    to.iter_mut().zip(actions).filter_map(|(t, a)| Some((t, from.get((*a)?)?)))
                {
                    to.take_over(from, &slots, outputs);
                }
            }
            _ => return Ok(()),
        }
        self.take_pooled(old);
        Ok(())
    }
}

/// Whether a metric's learning goes over from a version to the next at all: for the terms and actions that both have.
#[must_use]
pub fn goes_over(old: &CheckedSpec, new: &CheckedSpec) -> bool {
    let family = |spec: &CheckedSpec| {
        let policy = spec.policy();
        let online = policy.online.as_ref().map(|o| (o.rule, o.loss.is_logistic()));
        let covariance = policy.algorithm.is_linear().then_some(policy.covariance);
        (policy.algorithm.is_linear(), online, policy.parameters, covariance)
    };
    family(old) == family(new) && output_map(old.classes(), new.classes()).is_some()
}

/// For each score of the new learner, the old one of the same meaning. `None` where none has: the only score of
/// two classes means the second against the first.
fn output_map(old: &[String], new: &[String]) -> Option<Vec<Option<usize>>> {
    match (old.len(), new.len()) {
        (0, 0) => Some(vec![Some(0)]),
        (2, 2) => (old == new).then(|| vec![Some(0)]),
        (3.., 3..) => Some(new.iter().map(|c| old.iter().position(|o| o == c)).collect()),
        _ => None,
    }
}

/// For each new slot, the old one of the same name.
fn slot_map(old: &[Run], new: &[Run]) -> Vec<Option<usize>> {
    let slots = new.iter().map(|r| r.start + r.len).max().unwrap_or(0);
    let mut map = vec![None; slots];
    for run in new {
        if let Some(from) = old.iter().find(|o| o.key == run.key) {
            for within in 0..run.len.min(from.len) {
                map[run.start + within] = Some(from.start + within);
            }
        }
    }
    map
}

fn take_linear(to: &mut Linear, from: &Linear, slots: &[Option<usize>]) -> Result<(), Degenerate> {
    let unchanged = slots.len() == from.posterior.u.len()
        && slots.iter().enumerate().all(|(i, s)| *s == Some(i))
        && to.posterior.full == from.posterior.full;
    to.examples = from.examples;
    match (&mut to.statistics, &from.statistics) {
        (Some(to_statistics), Some(statistics)) => {
            if unchanged {
                *to_statistics = statistics.clone();
                to.posterior = from.posterior.clone();
                to.since_rebuild = from.since_rebuild;
                // Another ridge is another posterior.
                let same = to.lambda == from.lambda;
                return if same { Ok(()) } else { to.rebuild() };
            }
            take_statistics(Arc::make_mut(to_statistics), statistics, slots);
            to.rebuild()
        }
        (None, None) => {
            take_posterior(Arc::make_mut(&mut to.posterior), &from.posterior, slots);
            Ok(())
        }
        // From full to variances or back: the two cannot be turned into each other.
        _ => Ok(()),
    }
}

fn take_statistics(to: &mut Statistics, from: &Statistics, slots: &[Option<usize>]) {
    let (d, width) = (slots.len(), from.b.len());
    for (i, old_i) in slots.iter().enumerate() {
        let Some(old_i) = *old_i else { continue };
        to.b[i] = from.b[old_i];
        to.s[i] = from.s[old_i];
        for (j, old_j) in slots.iter().enumerate() {
            if let Some(old_j) = *old_j {
                to.a[i * d + j] = from.a[old_i * width + old_j];
            }
        }
    }
}

/// The marginal of the old posterior over the slots that stay.
fn take_posterior(to: &mut Posterior, from: &Posterior, slots: &[Option<usize>]) {
    for (i, old) in slots.iter().enumerate() {
        let Some(old) = *old else { continue };
        // A slot that moved between full covariance and variances keeps only its mean.
        to.u[i] = from.u[old];
        to.v[i] = from.v[old];
        match (i.checked_sub(to.full), old.checked_sub(from.full)) {
            (Some(i), Some(old)) => to.variances[i] = from.variances[old],
            (None, None) => {
                for (j, other) in slots[..to.full].iter().enumerate() {
                    if let Some(other) = other.filter(|o| *o < from.full) {
                        to.covariance[i * to.full + j] = from.covariance[old * from.full + other];
                    }
                }
            }
            _ => {}
        }
    }
}
