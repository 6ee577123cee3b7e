//! The stability monitor of a gradient learner: each mini-batch is judged before anybody sees what it did.
//!
//! It compares the loss that a batch had before its updates with the running loss of the batches before, and with
//! that of the best constant. A batch that does not fit is undone; the learner then holds: it predicts and does not
//! learn, until batches fit again, or until they have not for so long that the world must have changed.

use pawl_domain::spec::{Loss, Monitor as Rules, OnDrift};
use pawl_stats::drift::Adwin;
use serde::{Deserialize, Serialize};

use crate::online::loss;

/// The running loss forgets with this factor an example: half of it is of the last 693.
const KEEP: f64 = 0.999;
/// Content examples after which a rate that was cut rises again, to twice itself.
const RISE_EVERY: u64 = 4096;
/// Times it goes back, with less than [`RISE_EVERY`] content examples between, before what does not fit is accepted.
const STRIKES: u32 = 8;
/// A loss this many times larger than the constant's own is no rare event but a fault.
const ABSURD: f64 = 1000.0;
/// ADWIN looks after every so many examples.
const LOOK_EVERY: u32 = 32;

/// Why a learner went back to its last good state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Divergence {
    /// Most updates of a batch were not finite.
    NotFinite,
    /// The loss of a batch is far above the running loss.
    Loss,
    /// The gradients of a batch are far larger than the running ones.
    Gradient,
    /// The loss is above that of a constant.
    WorseThanConstant,
}

impl Divergence {
    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFinite => "non_finite",
            Self::Loss => "exploding_loss",
            Self::Gradient => "exploding_gradient",
            Self::WorseThanConstant => "worse_than_constant",
        }
    }
}

/// What is to be done after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Nothing.
    Content,
    /// Undo what the batch did, and hold.
    GoBack,
    /// Forget every weight, and begin with a lower rate.
    StartOver,
    /// Learn on from here: what did not fit is how things are now.
    Accept,
    /// The loss has changed: begin the schedule anew.
    Restart,
}

/// Running mean and variance of a value, weighted towards the present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Running {
    weight: f64,
    sum: f64,
    squares: f64,
}

impl Running {
    fn add(&mut self, x: f64) {
        self.weight = KEEP * self.weight + 1.0;
        self.sum = KEEP * self.sum + x;
        self.squares = KEEP * self.squares + x * x;
    }

    fn mean(&self) -> f64 {
        if self.weight > 0.0 { self.sum / self.weight } else { 0.0 }
    }

    fn deviation(&self) -> f64 {
        let mean = self.mean();
        libm::sqrt((self.squares / self.weight.max(1.0) - mean * mean).max(0.0))
    }
}

/// What a batch showed, before its updates.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Loss and label of every example that was predicted.
    pub(crate) seen: Vec<(f64, f64)>,
    /// The largest norm of a gradient.
    pub(crate) norm: f64,
    /// Examples whose update was not finite.
    pub(crate) refused: u64,
}

impl Batch {
    pub(crate) const fn is_empty(&self) -> bool {
        self.seen.is_empty() && self.refused == 0
    }

    pub(crate) fn clear(&mut self) {
        self.seen.clear();
        self.norm = 0.0;
        self.refused = 0;
    }
}

/// What the monitor knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Monitor {
    /// Examples judged since the beginning, or since the learner started over.
    examples: u64,
    loss: Running,
    norm: Running,
    /// The loss of the constant.
    constant: Running,
    /// Labels: how many, and their mean; of classes, how often each came.
    labels: (f64, f64),
    classes: Vec<f64>,
    adwin: Adwin,
    /// Examples since it holds.
    holding: Option<u64>,
    /// Times it went back since so many content examples that all was well.
    strikes: u32,
    /// Content examples since it went back, or since the rate was raised.
    content: u64,
    /// The factor of the rate.
    rate: f64,
    /// How often it went back, and the last time why and at which example of the learner.
    pub went_back: u64,
    /// The last reason.
    pub last: Option<(Divergence, u64)>,
    /// How often ADWIN saw the loss rise.
    pub drifts: u64,
    /// How often it accepted that things had changed.
    pub accepted: u64,
}

impl Monitor {
    pub(crate) fn new(rules: &Rules, loss: Loss) -> Self {
        let classes = match loss {
            Loss::Softmax(classes) => classes,
            _ => 0,
        };
        Self {
            examples: 0,
            loss: Running::default(),
            norm: Running::default(),
            constant: Running::default(),
            labels: (0.0, 0.0),
            classes: vec![0.0; classes],
            adwin: Adwin::new(rules.drift_delta, LOOK_EVERY),
            holding: None,
            strikes: 0,
            content: 0,
            rate: 1.0,
            went_back: 0,
            last: None,
            drifts: 0,
            accepted: 0,
        }
    }

    /// Whether it only predicts, until batches fit again.
    #[must_use]
    pub const fn is_holding(&self) -> bool {
        self.holding.is_some()
    }

    /// The factor of the rate, 1 or less.
    #[must_use]
    pub const fn rate(&self) -> f64 {
        self.rate
    }

    /// The loss of the constant that the labels so far suggest, for a label.
    fn constant_loss(&self, measure: Loss) -> impl Fn(f64) -> f64 + use<> {
        let (n, mean) = self.labels;
        let p = (mean * n + 1.0) / (n + 2.0);
        let two = match measure {
            Loss::Logistic => [-libm::log(1.0 - p), -libm::log(p)],
            _ => [0.0; 2],
        };
        let classes: Vec<f64> = self
            .classes
            .iter()
            .map(|c| -libm::log((c + 1.0) / (n + self.classes.len() as f64)))
            .collect();
        move |y| match measure {
            Loss::Softmax(_) => classes.get(y as usize).copied().unwrap_or_default(),
            Loss::Logistic => y * two[1] + (1.0 - y) * two[0],
            _ => loss::value(measure, mean, y),
        }
    }

    /// Judges a batch. `initial_rate` is the learner's own where the monitor may cut it, and whether its steps are plain:
    /// neither adaptive nor normalised. `at` counts its examples.
    pub(crate) fn judge(
        &mut self,
        rules: &Rules,
        measure: Loss,
        batch: &Batch,
        initial_rate: Option<(f64, bool)>,
        at: u64,
    ) -> Judgement {
        let n = batch.seen.len() as f64;
        let cut = if initial_rate.is_some() { rules.rate_cut } else { 1.0 };
        if batch.refused as f64 > n {
            return self.go_back(rules, cut, Divergence::NotFinite, at);
        }
        if batch.seen.is_empty() {
            return Judgement::Content;
        }
        let mean = batch.seen.iter().map(|(l, _)| l).sum::<f64>() / n;
        let fits = self.fits(rules, measure, batch, mean);
        if let Some(held) = self.holding {
            if fits {
                self.holding = None;
                return Judgement::Content;
            }
            let held = held + batch.seen.len() as u64;
            self.holding = Some(held);
            if held < rules.hold_max {
                return Judgement::Content;
            }
            return self.accept(rules);
        }
        let warm = self.examples >= rules.warm_up;
        if !mean.is_finite() || warm && !fits {
            return self.go_back(rules, cut, Divergence::Loss, at);
        }
        let norm = self.norm.mean();
        if warm && norm > 0.0 && batch.norm > rules.gradient_factor * norm {
            return self.go_back(rules, cut, Divergence::Gradient, at);
        }
        let drifted = self.take(measure, batch);
        // Only a high rate is to blame for that: a learner at a usual one is still on its way.
        let (now, plain) = initial_rate.map_or((0.0, false), |(rate, p)| (rate * self.rate, p));
        let slow = self.examples < PLAIN_WARM_UP * rules.warm_up || now < PLAIN_RATE;
        let blamed = now > DEFAULT_RATE || plain && !slow;
        let worse = self.loss.mean() > rules.worse_factor * self.constant.mean();
        if self.examples >= rules.warm_up && worse && blamed {
            self.went_back += 1;
            self.last = Some((Divergence::WorseThanConstant, at));
            self.rate *= rules.rate_cut.min(DEFAULT_RATE / now);
            self.begin(rules);
            return Judgement::StartOver;
        }
        self.content += batch.seen.len() as u64;
        if self.content >= RISE_EVERY {
            (self.content, self.strikes) = (0, 0);
            if self.may_rise() {
                self.rate = (2.0 * self.rate).min(1.0);
            }
        }
        if drifted {
            self.drifts += 1;
            if rules.on_drift == OnDrift::Restart {
                return Judgement::Restart;
            }
        }
        Judgement::Content
    }

    /// Whether a batch of this mean loss is no surprise: against the running loss, its spread, and a constant, which
    /// a rare event surprises as much.
    fn fits(&self, rules: &Rules, measure: Loss, batch: &Batch, mean: f64) -> bool {
        let n = batch.seen.len() as f64;
        let error = self.loss.deviation() / libm::sqrt(n);
        if mean <= rules.loss_factor * self.loss.mean()
            || mean <= self.loss.mean() + rules.loss_sigmas * error
        {
            return true;
        }
        let constant_loss = self.constant_loss(measure);
        let constant = batch.seen.iter().map(|(_, y)| constant_loss(*y)).sum::<f64>() / n;
        mean <= rules.worse_factor * constant && constant <= ABSURD * self.constant.mean()
    }

    /// A rate that was worse than a constant stays down.
    const fn may_rise(&self) -> bool {
        !matches!(self.last, Some((Divergence::WorseThanConstant, _)))
    }

    /// Counts a batch that fits. True if the loss has risen for good.
    fn take(&mut self, measure: Loss, batch: &Batch) -> bool {
        let cap = if self.loss.weight > 0.0 { 20.0 * self.loss.mean() } else { f64::INFINITY };
        let mut risen = false;
        let constant_loss = self.constant_loss(measure);
        for &(loss, y) in &batch.seen {
            let constant = constant_loss(y);
            let (n, mean) = &mut self.labels;
            *n += 1.0;
            *mean += (y - *mean) / *n;
            if let Some(count) = self.classes.get_mut(y as usize) {
                *count += 1.0;
            }
            self.constant.add(constant);
            self.loss.add(loss);
            let before = self.adwin.mean();
            risen |= self.adwin.update(loss.min(cap)) && self.adwin.mean() > before;
        }
        self.norm.add(batch.norm);
        self.examples += batch.seen.len() as u64;
        risen
    }

    fn go_back(&mut self, rules: &Rules, cut: f64, why: Divergence, at: u64) -> Judgement {
        self.last = Some((why, at));
        self.strikes += 1;
        // It comes again and again, with what fits between: that is how things are.
        if why != Divergence::NotFinite && self.strikes > STRIKES {
            return self.accept(rules);
        }
        self.went_back += 1;
        self.rate *= cut;
        self.content = 0;
        self.holding = Some(0);
        Judgement::GoBack
    }

    fn accept(&mut self, rules: &Rules) -> Judgement {
        self.accepted += 1;
        self.rate = 1.0;
        self.begin(rules);
        Judgement::Accept
    }

    /// Nothing is known of the loss any more.
    fn begin(&mut self, rules: &Rules) {
        self.examples = 0;
        self.loss = Running::default();
        (self.norm, self.constant) = (Running::default(), Running::default());
        self.labels = (0.0, 0.0);
        self.classes.iter_mut().for_each(|c| *c = 0.0);
        self.strikes = 0;
        self.adwin = Adwin::new(rules.drift_delta, LOOK_EVERY);
        (self.holding, self.content) = (None, 0);
    }
}

/// A plain step is stable or not by the size of the features: it has so many warm-ups to be better than a constant, …
const PLAIN_WARM_UP: u64 = 8;
/// … unless its rate is below this.
const PLAIN_RATE: f64 = 0.01;
/// The rate of a spec that gives none.
const DEFAULT_RATE: f64 = 0.5;
