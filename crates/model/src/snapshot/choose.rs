//! From a request to a choice: what is eligible, what the policy gives, what operators and shares make of it.

use pawl_domain::{
    event::Removal,
    spec::{ActionState, Algorithm, PROBATION_MAX, Parameters},
};
use pawl_stats::{argmax, rng};

use super::{Choice, Reason, Refusal, Request, Scores, Snapshot, Workspace, floor};
use crate::{
    context::{Context, Value},
    policy::{self, Evidence},
};

impl Snapshot {
    /// Decides. The same request with the same seed gives the same choice, bit for bit.
    ///
    /// # Errors
    /// If no action is eligible.
    pub fn decide(&self, request: &Request<'_>, work: &mut Workspace) -> Result<Choice, Refusal> {
        let mut choice = self.eligible(request);
        if choice.eligible.is_empty() {
            return Err(self.refusal(&choice));
        }
        self.choose(&mut choice, request.context, request.seed, work);
        Ok(choice)
    }

    /// Decides again between the actions that a record calls eligible: what removed the others may not be in the log. None
    /// of them may be missing.
    #[must_use]
    pub fn decide_again(
        &self,
        context: &Context<'_>,
        eligible: &[u16],
        seed: u64,
        work: &mut Workspace,
    ) -> Choice {
        let mut choice = Choice { eligible: eligible.to_vec(), ..Choice::default() };
        self.choose(&mut choice, context, seed, work);
        choice
    }

    fn choose(&self, choice: &mut Choice, context: &Context<'_>, seed: u64, work: &mut Workspace) {
        choice.probabilities.resize(choice.eligible.len(), 0.0);
        if let Some(at) = self.pinned(choice) {
            choice.probabilities[at] = 1.0;
            (choice.chosen, choice.reason) = (at, Some(Reason::Pinned));
            return;
        }
        self.encode(context, &choice.eligible, work);
        self.weigh(choice, seed, work);
        if let Some(at) = self.within_budget(choice, context, &work.scores) {
            choice.probabilities.fill(0.0);
            choice.probabilities[at] = 1.0;
            (choice.chosen, choice.reason) = (at, Some(Reason::Budget));
            return;
        }
        self.limit_probation(choice, &work.scores.score);
        self.draw(choice, seed, &work.scores);
    }

    /// Whether the policy decides any of the traffic.
    #[must_use]
    pub fn policy_decides(&self) -> bool {
        let [_, ramp] = self.spec.shares();
        self.levers.ramp.unwrap_or(ramp) > 0.0 && self.floors.iter().all(|f| f.share > 0.0)
    }

    /// The incumbent where it is eligible, else the first eligible action.
    ///
    /// # Errors
    /// If no action is eligible.
    pub fn fall_back(&self, request: &Request<'_>) -> Result<Choice, Refusal> {
        let mut choice = self.eligible(request);
        if choice.eligible.is_empty() {
            return Err(self.refusal(&choice));
        }
        choice.probabilities.resize(choice.eligible.len(), 0.0);
        choice.probabilities[0] = 1.0;
        Ok(choice)
    }

    /// The probabilities that the policy gives.
    fn weigh(&self, choice: &mut Choice, seed: u64, work: &mut Workspace) {
        let Workspace { encoded, scores, scratch } = work;
        self.score(&choice.eligible, encoded, scores);
        let p = &mut choice.probabilities;
        if self.levers.greedy {
            let best = self.best_usual(&choice.eligible, &scores.score);
            p[best.unwrap_or_else(|| argmax::first_largest(&scores.score))] = 1.0;
            return;
        }
        let policy = self.spec.policy();
        let mut weigh = |evidence: &Evidence<'_>| {
            let counts = [self.decisions, self.examples];
            policy::probabilities(policy, evidence, counts, seed, scratch, p);
        };
        match policy.algorithm {
            // Without context every decision between all actions has the same probabilities: integrated once.
            Algorithm::Thompson if choice.eligible.len() == self.spec.actions().len() => {
                let p =
                    self.of_all.get_or_init(|| argmax::general(&self.marginals(&choice.eligible)));
                weigh(&Evidence::Known(p));
            }
            Algorithm::Thompson => {
                let p = argmax::general(&self.marginals(&choice.eligible));
                weigh(&Evidence::Known(&p));
            }
            Algorithm::LinearThompson if policy.parameters != Parameters::PerAction => {
                let covariance = self.covariance(&choice.eligible, encoded);
                weigh(&Evidence::Joint(&scores.score, &covariance));
            }
            _ => weigh(&Evidence::Normal(&scores.score, &scores.score_deviation)),
        }
    }

    /// The place of the action that an operator pinned, where it is eligible.
    fn pinned(&self, choice: &Choice) -> Option<usize> {
        let (name, _) = self.levers.pinned.as_ref()?;
        let action = self.spec.action(name.as_str())?;
        choice.eligible.iter().position(|a| usize::from(*a) == action)
    }

    /// Actions on probation keep a small probability; the others share the rest as they stand to each other, or where
    /// none has any, the best of them has it.
    fn limit_probation(&self, choice: &mut Choice, scores: &[f64]) {
        let Choice { eligible, probabilities, .. } = choice;
        let seldom = |a: u16| self.is_on_probation(a);
        let Some(best) = self.best_usual(eligible, scores) else { return };
        let (mut excess, mut others) = (0.0, 0.0);
        for (a, p) in eligible.iter().zip(&mut *probabilities) {
            if seldom(*a) {
                excess += (*p - PROBATION_MAX).max(0.0);
                *p = p.min(PROBATION_MAX);
            } else {
                others += *p;
            }
        }
        if excess == 0.0 {
            return;
        }
        if others == 0.0 {
            probabilities[best] = excess;
            return;
        }
        let factor = (others + excess) / others;
        let usual = eligible.iter().zip(probabilities).filter(|(a, _)| !seldom(**a));
        usual.for_each(|(_, p)| *p *= factor);
    }

    pub(super) fn is_on_probation(&self, action: u16) -> bool {
        self.spec.actions()[usize::from(action)].state == ActionState::Probation
    }

    /// The place of the best action that is not on probation.
    fn best_usual(&self, eligible: &[u16], scores: &[f64]) -> Option<usize> {
        let usual = (0..eligible.len()).filter(|i| !self.is_on_probation(eligible[*i]));
        usual.reduce(|a, b| if scores[b] > scores[a] { b } else { a })
    }

    /// Draws the action. A share of traffic is the incumbent's whatever the policy says: the probabilities are those of
    /// the whole draw.
    fn draw(&self, choice: &mut Choice, seed: u64, scores: &Scores) {
        let u = rng::uniform(seed, 0);
        let p = &mut choice.probabilities;
        let incumbent = self.spec.incumbent().map(|i| i as u16);
        let [holdback, ramp] = self.spec.shares();
        let ramp = self.levers.ramp.unwrap_or(ramp).min(1.0 - holdback);
        let gain = if self.floors.is_empty() { 0.0 } else { floor::gain(p, scores) };
        let share = self.floors.iter().fold(ramp, |share, floor| {
            share.min(floor.share_at(scores.predicted[floor.keep.metric][0], gain))
        });
        if share >= 1.0 || choice.eligible.first().copied() != incumbent {
            choice.chosen = policy::draw(p, u);
            return;
        }
        let rest = 1.0 - share;
        let reason = match u {
            _ if u < holdback => Some(Reason::Holdback),
            _ if u < 1.0 - ramp => Some(Reason::Ramp),
            _ if u < rest => Some(Reason::Floor),
            _ => None,
        };
        choice.chosen = match reason {
            Some(_) => 0,
            None => policy::draw(p, (u - rest) / share),
        };
        choice.reason = reason;
        p.iter_mut().for_each(|p| *p *= share);
        p[0] += rest;
    }

    fn eligible(&self, request: &Request<'_>) -> Choice {
        let mut choice = Choice::default();
        for (i, action) in (0..).zip(self.spec.actions()) {
            match self.removal(i, action, request) {
                Some(why) => choice.removed.push((i, why)),
                None => choice.eligible.push(i),
            }
        }
        // Where scores are equal the first is taken: that is the incumbent, while evidence is short.
        if let Some(incumbent) = self.spec.incumbent()
            && let Some(at) = choice.eligible.iter().position(|a| usize::from(*a) == incumbent)
        {
            choice.eligible[..=at].rotate_right(1);
        }
        choice
    }

    /// What removes an action: the first that does.
    fn removal(
        &self,
        i: u16,
        action: &pawl_domain::spec::Action,
        request: &Request<'_>,
    ) -> Option<Removal> {
        if request.actions.is_some_and(|wanted| !wanted.contains(&i)) {
            return Some(Removal::NotRequested);
        }
        if action.state == ActionState::Retired {
            return Some(Removal::Retired);
        }
        if self.levers.disabled.contains_key(&action.name) {
            return Some(Removal::Disabled);
        }
        let mut denying = self.spec.rules().iter().filter(|r| r.deny.contains(&i));
        if let Some(rule) = denying.find(|r| self.applies(r, request.context)) {
            return Some(Removal::Rule(rule.name.clone()));
        }
        let over = action.max.iter().find(|(feature, limit)| {
            matches!(request.context.value(&self.spec, *feature, i), Value::Number(x) if x > limit)
        });
        let name = |(feature, _): &(usize, f64)| self.spec.features()[*feature].name.clone();
        over.map(|over| Removal::Max(name(over)))
    }

    fn applies(&self, rule: &pawl_domain::spec::Rule, context: &Context<'_>) -> bool {
        rule.when.iter().all(|(feature, condition)| condition.holds(&context.values[*feature]))
    }

    /// Says what removed each action.
    fn refusal(&self, choice: &Choice) -> Refusal {
        let said = choice.removed.iter().map(|(action, why)| {
            let name = &self.spec.actions()[usize::from(*action)].name;
            match why {
                Removal::NotRequested => format!("`{name}` is not in the request's `actions`"),
                Removal::Retired => format!("`{name}` is retired"),
                Removal::Disabled => format!("`{name}` is disabled"),
                Removal::Rule(rule) => format!("the rule `{rule}` denies `{name}`"),
                Removal::Max(feature) => format!("`{feature}` is above the `max` of `{name}`"),
            }
        });
        Refusal::NoEligibleAction(said.collect::<Vec<_>>().join(", "))
    }
}
