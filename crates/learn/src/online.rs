//! Gradient learners: weights that each example moves, at a cost of the features present.

pub mod loss;

mod ftrl;
mod sgd;
mod softmax;

use pawl_domain::spec::{self, Descent, Loss, ScheduleUnit};
use pawl_model::weights::{CHUNK, Weights};
use pawl_stats::logistic::log_sum_exp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::loss::LogLoss;
use crate::{
    artifact::{Array, ArtifactError, Visit},
    monitor::Batch,
    schedule,
};

/// By how much the sums of squared gradients shrink when a schedule begins anew: rates rise to eight times.
const RESTART: f64 = 64.0;

/// What is kept of one slot and output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Coordinate {
    /// The weight.
    w: f64,
    /// Σ g²: the sum of squared gradients. With several outputs, of all of them and in the first.
    n: f64,
    /// SGD: the largest |x| so far; with several outputs in the first. FTRL: z.
    s: f64,
    /// Σ (t − 1)Δw over the examples t: the running mean of the weight is w − lag/t.
    lag: f64,
}

/// What is kept of all slots together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Examples taken.
    examples: u64,
    /// Mini-batches ended.
    batches: u64,
    /// Σ importance weight.
    weight: f64,
    /// Σ importance weight · Σ (x/s)².
    norm: f64,
    /// Least and largest label, 0 included: predictions stay within where the label has no bounds.
    range: [f64; 2],
    /// Examples and batches when the schedule began anew.
    began: [u64; 2],
}

impl Totals {
    /// Whether examples could have led there.
    pub(crate) fn is_sound(&self) -> bool {
        let [low, high] = self.range;
        let finite = [self.weight, self.norm, low, high].iter().all(|v| v.is_finite());
        let began = self.began[0] <= self.examples && self.began[1] <= self.batches;
        finite && self.weight >= 0.0 && self.norm >= 0.0 && low <= 0.0 && high >= 0.0 && began
    }
}

/// One example of a batch whose gradients are averaged.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Slots and values.
    pub x: &'a [(u32, f64)],
    /// The label.
    pub y: f64,
    /// Its importance.
    pub weight: f64,
}

/// An update that would not be finite; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite;

/// The state of a gradient learner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Online {
    /// Whether coordinates are those of FTRL.
    ftrl: bool,
    outputs: usize,
    #[serde(serialize_with = "write_sparse", deserialize_with = "read_sparse")]
    coordinates: Vec<Coordinate>,
    totals: Totals,
    /// Coordinates as they were before the changes of the last batch and of this one.
    undo: Undo,
    /// The totals at the beginning of each.
    good: [Totals; 2],
    #[serde(skip)]
    served: Served,
    #[serde(skip)]
    noted: Noted,
}

/// Coordinates by index.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Undo {
    at: Vec<u32>,
    before: Vec<Coordinate>,
    /// Where this batch begins.
    split: usize,
}

/// Which coordinates stand in `undo` already, of this batch: a bit each, so that it stays in the cache. It follows
/// from that.
#[derive(Clone, Debug, Default)]
struct Noted(Vec<u64>);

impl PartialEq for Noted {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What was last published, and which chunks have changed since. It follows from the rest.
#[derive(Clone, Debug, Default)]
struct Served {
    weights: Weights,
    stale: Vec<bool>,
}

impl PartialEq for Served {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Memory that updates use again.
#[derive(Clone, Debug)]
pub struct Scratch {
    /// Slots of the features present.
    present: Vec<u32>,
    /// Of each: value, sum of squares, scale, rate, and one more.
    columns: [Vec<f64>; 5],
    pub(crate) scores: Vec<f64>,
    moved: Vec<f64>,
    /// The log loss before the last update, where the loss is logistic.
    pub(crate) log_loss: Option<LogLoss>,
    /// The norm of the last gradient, in units of the scales where they are normalised.
    pub(crate) norm: f64,
    /// The factor of the rate.
    pub(crate) cut: f64,
    /// What the batch showed of each metric.
    pub(crate) batches: Vec<Batch>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            present: Vec::new(),
            columns: Default::default(),
            scores: Vec::new(),
            moved: Vec::new(),
            log_loss: None,
            norm: 0.0,
            cut: 1.0,
            batches: Vec::new(),
        }
    }
}

impl Online {
    /// One that has seen nothing.
    #[must_use]
    pub fn new(rule: Descent, slots: usize, outputs: usize) -> Self {
        Self {
            ftrl: rule == Descent::Ftrl,
            outputs,
            coordinates: vec![Coordinate::default(); slots * outputs],
            totals: Totals::default(),
            undo: Undo::default(),
            good: [Totals::default(); 2],
            served: Served::default(),
            noted: Noted::default(),
        }
    }

    /// Examples taken.
    #[must_use]
    pub const fn examples(&self) -> u64 {
        self.totals.examples
    }

    /// The least and largest label so far, 0 included.
    #[must_use]
    pub const fn range(&self) -> [f64; 2] {
        self.totals.range
    }

    /// The weight of one slot and output.
    #[must_use]
    pub fn weight(&self, slot: usize, output: usize) -> f64 {
        self.coordinates[slot * self.outputs + output].w
    }

    /// The loss that the monitor judges an example by, where it is another than [`Online::loss`]: a value larger than
    /// any before counts as the largest before, since the update will shrink its weight to that.
    #[must_use]
    pub(crate) fn judged(
        &self,
        spec: &spec::Online,
        x: &[(u32, f64)],
        y: f64,
        scores: &[f64],
    ) -> Option<f64> {
        let [score] = scores else { return None };
        if !spec.normalized || self.ftrl {
            return None;
        }
        let mut beyond = 0.0;
        for &(slot, v) in x {
            let c = &self.coordinates[slot as usize];
            if v.abs() > c.s && c.s > 0.0 {
                beyond += c.w * (v - libm::copysign(c.s, v));
            }
        }
        (beyond != 0.0).then(|| self.loss(spec, y, &[score - beyond]))
    }

    /// The loss of scores for the label `y`.
    #[must_use]
    pub(crate) fn loss(&self, spec: &spec::Online, y: f64, scores: &[f64]) -> f64 {
        if let Loss::Softmax(_) = spec.loss {
            let class = (y as usize).min(scores.len() - 1);
            return log_sum_exp(scores.iter().copied()) - scores[class];
        }
        let [low, high] = self.totals.range;
        let p = match spec.loss {
            Loss::Logistic => scores[0],
            _ => scores[0].clamp(low.min(y), high.max(y)),
        };
        loss::value(spec.loss, p, y)
    }

    /// Forgets everything but the examples it counted.
    pub(crate) fn forget(&mut self) {
        self.coordinates.iter_mut().for_each(|c| *c = Coordinate::default());
        self.served.stale.iter_mut().for_each(|s| *s = true);
        let Totals { examples, batches, .. } = self.totals;
        let began = [examples, batches];
        self.totals = Totals { examples, batches, began, ..Totals::default() };
        self.mark_good();
    }

    /// Begins the schedule anew, and shrinks the sums of squared gradients, so that rates are high again.
    pub(crate) fn restart(&mut self) {
        self.totals.began = [self.totals.examples, self.totals.batches];
        self.coordinates.iter_mut().for_each(|c| c.n /= if self.ftrl { 1.0 } else { RESTART });
        self.mark_good();
    }

    /// Brings the coordinates of an example that comes next into the cache, while another is learned.
    #[inline]
    pub(crate) fn touch(&self, x: &[(u32, f64)]) {
        let first = |slot: u32| self.coordinates[slot as usize * self.outputs].w.to_bits();
        core::hint::black_box(x.iter().fold(0, |all, &(slot, _)| all ^ first(slot)));
    }

    /// w·x of every output.
    pub fn scores(&self, x: &[(u32, f64)], scores: &mut Vec<f64>) {
        scores.clear();
        scores.resize(self.outputs, 0.0);
        if let [score] = &mut scores[..] {
            *score = x.iter().map(|&(slot, v)| self.coordinates[slot as usize].w * v).sum();
            return;
        }
        for &(slot, v) in x {
            let row = &self.coordinates[slot as usize * self.outputs..][..self.outputs];
            scores.iter_mut().zip(row).for_each(|(s, c)| *s += c.w * v);
        }
    }

    /// Takes one example of importance `weight`. The label `y` is a number, or the index of a class.
    /// Leaves the scores before the update in `scratch`.
    ///
    /// # Errors
    /// If the update would not be finite; then nothing has changed.
    pub fn learn(
        &mut self,
        spec: &spec::Online,
        x: &[(u32, f64)],
        y: f64,
        weight: f64,
        scratch: &mut Scratch,
    ) -> Result<(), NotFinite> {
        self.scores(x, &mut scratch.scores);
        self.learn_scored(spec, x, y, weight, scratch)
    }

    /// The same, with its scores known.
    pub(crate) fn learn_scored(
        &mut self,
        spec: &spec::Online,
        x: &[(u32, f64)],
        y: f64,
        weight: f64,
        scratch: &mut Scratch,
    ) -> Result<(), NotFinite> {
        let totals = self.totals;
        scratch.log_loss = None;
        scratch.norm = 0.0;
        self.totals.examples += 1;
        if !spec.loss.is_logistic() {
            let [low, high] = self.totals.range;
            self.totals.range = [low.min(y), high.max(y)];
        }
        let taken = match (self.ftrl, spec.loss) {
            (true, _) => self.ftrl(spec, x, y, weight, scratch),
            (_, Loss::Softmax(_)) => self.softmax(spec, x, y, weight, scratch),
            _ => self.sgd(spec, x, y, weight, scratch),
        };
        if taken.is_err() {
            self.totals = totals;
        }
        taken
    }

    /// One step with the mean gradient of `rows`.
    ///
    /// # Errors
    /// If the update would not be finite; then nothing has changed.
    pub fn learn_average(
        &mut self,
        spec: &spec::Online,
        rows: &[Row<'_>],
        scratch: &mut Scratch,
    ) -> Result<(), NotFinite> {
        let totals = self.totals;
        let taken = self.sgd_average(spec, rows, scratch);
        if taken.is_err() {
            self.totals = totals;
        }
        taken
    }

    fn rate(&self, spec: &spec::Online, scratch: &Scratch) -> f64 {
        let [examples, batches] = self.totals.began;
        let t = match spec.schedule.unit {
            ScheduleUnit::Examples => self.totals.examples - 1 - examples,
            ScheduleUnit::Batches => self.totals.batches - batches,
        };
        schedule::rate(&spec.schedule, t as f64) * scratch.cut
    }

    /// Ends a mini-batch that may stand: its loss, taken before its updates, shows that the weights at its beginning were
    /// good. Its own updates are judged with the next.
    pub fn end_batch(&mut self) {
        self.totals.batches += 1;
        self.forget_noted();
        self.undo.at.drain(..self.undo.split);
        self.undo.before.drain(..self.undo.split);
        self.undo.split = self.undo.at.len();
        self.good = [self.good[1], self.totals];
    }

    /// Makes the present state the one to which [`Online::go_back`] returns.
    pub fn mark_good(&mut self) {
        self.forget_noted();
        self.undo = Undo::default();
        self.good = [self.totals; 2];
    }

    /// Nothing is noted of the next batch yet.
    fn forget_noted(&mut self) {
        if !self.noted.0.is_empty() {
            let this = &self.undo.at[self.undo.split..];
            this.iter().for_each(|at| self.noted.0[*at as usize / 64] = 0);
        }
    }

    /// Returns to the last weights that were shown to be good: those before the last batch.
    pub fn go_back(&mut self) {
        for (at, before) in self.undo.at.iter().zip(&self.undo.before).rev() {
            self.coordinates[*at as usize] = *before;
            if let Some(stale) = self.served.stale.get_mut(*at as usize / CHUNK) {
                *stale = true;
            }
        }
        self.totals = self.good[0];
        self.mark_good();
    }

    /// Makes ready to note changes.
    fn begin(&mut self) {
        let words = self.coordinates.len().div_ceil(64);
        if self.noted.0.len() != words {
            self.noted.0 = vec![0; words];
            let this = &self.undo.at[self.undo.split..];
            this.iter().for_each(|at| self.noted.0[*at as usize / 64] |= 1 << (at % 64));
        }
    }

    /// Notes a coordinate before its first change since the last good state.
    #[inline(always)]
    fn note(&mut self, at: usize) {
        let (word, bit) = (&mut self.noted.0[at / 64], 1 << (at % 64));
        if *word & bit == 0 {
            *word |= bit;
            self.undo.at.push(at as u32);
            self.undo.before.push(self.coordinates[at]);
        }
    }

    /// Moves one weight, and notes what that changes.
    #[inline(always)]
    fn shift(&mut self, at: usize, by: f64, average: bool) {
        let c = &mut self.coordinates[at];
        c.w += by;
        if average {
            c.lag += (self.totals.examples - 1) as f64 * by;
        }
        if let Some(stale) = self.served.stale.get_mut(at / CHUNK) {
            *stale = true;
        }
    }

    /// The weights to serve: those of now, or their running means.
    pub fn publish(&mut self, average: bool) -> Weights {
        let chunks = self.coordinates.len().div_ceil(CHUNK);
        if self.served.stale.len() != chunks {
            let weights = Weights::zeros(self.coordinates.len());
            self.served = Served { weights, stale: vec![true; chunks] };
        }
        // A running mean moves with every example, wherever the weight stands.
        let all = average;
        let t = self.totals.examples.max(1) as f64;
        for (chunk, stale) in self.served.stale.iter_mut().enumerate() {
            if !*stale && !all {
                continue;
            }
            *stale = false;
            let mut weights = [0.0; CHUNK];
            let rows = self.coordinates[chunk * CHUNK..].iter();
            for (to, c) in weights.iter_mut().zip(rows) {
                *to = if average { c.w - c.lag / t } else { c.w } as f32;
            }
            self.served.weights.set_chunk(chunk, weights);
        }
        self.served.weights.clone()
    }

    /// The same without its slots: for a copy that is completed by [`Online::go_back`].
    #[must_use]
    pub(crate) fn hollow(&self) -> Self {
        Self {
            ftrl: self.ftrl,
            outputs: self.outputs,
            coordinates: Vec::new(),
            totals: self.totals,
            undo: Undo::default(),
            good: self.good,
            served: Served::default(),
            noted: Noted::default(),
        }
    }

    pub(crate) const fn totals(&self) -> Totals {
        self.totals
    }

    pub(crate) const fn set_totals(&mut self, totals: Totals) {
        self.totals = totals;
    }

    /// Calls for its coordinates that were ever touched, as columns: index (slot · outputs + output), weight, sum of
    /// squared gradients, scale (FTRL: z), and what the running mean needs.
    pub(crate) fn arrays(&mut self, name: &str, visit: Visit<'_>) -> Result<(), ArtifactError> {
        let default = Coordinate::default();
        let touched = self.coordinates.iter().enumerate().filter(|(_, c)| **c != default);
        let (mut index, all): (Vec<u32>, Vec<Coordinate>) =
            touched.map(|(i, c)| (i as u32, *c)).unzip();
        let shape = [index.len()];
        visit(format!("{name}/index"), &shape, Array::Indices(&mut index))?;
        let mut column = |what: &str, of: fn(&Coordinate) -> f64| {
            let mut values: Vec<f64> = all.iter().map(of).collect();
            visit(format!("{name}/{what}"), &shape, Array::Numbers(&mut values))?;
            Ok(values)
        };
        let (w, n) = (column("weight", |c| c.w)?, column("squares", |c| c.n)?);
        let (s, lag) = (column("scale", |c| c.s)?, column("lag", |c| c.lag)?);
        if [&w, &n, &s, &lag].iter().any(|column| column.len() != index.len()) {
            return Err(ArtifactError::new(format!("the columns of `{name}` differ in length")));
        }
        self.coordinates.fill(default);
        for (k, i) in index.into_iter().enumerate() {
            let beyond =
                || ArtifactError::new(format!("`{name}/index` holds `{i}`, beyond the last slot"));
            let place = self.coordinates.get_mut(i as usize).ok_or_else(beyond)?;
            *place = Coordinate { w: w[k], n: n[k], s: s[k], lag: lag[k] };
        }
        Ok(())
    }

    /// Fills `self` with what `from` learned: by slot and by output, `None` where there is nothing to take.
    pub(crate) fn take_over(
        &mut self,
        from: &Self,
        slots: &[Option<usize>],
        outputs: &[Option<usize>],
    ) {
        if from.ftrl != self.ftrl {
            return;
        }
        for (slot, old) in slots.iter().enumerate() {
            let Some(old) = *old else { continue };
            for (output, old_output) in outputs.iter().enumerate() {
                let Some(old_output) = *old_output else { continue };
                let c = from.coordinates[old * from.outputs + old_output];
                self.coordinates[slot * self.outputs + output] = c;
            }
            // What all outputs of a slot share stands in the first.
            let shared = from.coordinates[old * from.outputs];
            let first = &mut self.coordinates[slot * self.outputs];
            (first.n, first.s) = (shared.n, shared.s);
        }
        self.totals = from.totals;
        self.mark_good();
    }
}

/// Coordinates that differ from the default, by index: most of a hashed model never do.
fn write_sparse<S: Serializer>(all: &[Coordinate], serializer: S) -> Result<S::Ok, S::Error> {
    let set = all.iter().enumerate().filter(|(_, c)| **c != Coordinate::default());
    let set: Vec<(u32, Coordinate)> = set.map(|(i, c)| (i as u32, *c)).collect();
    (all.len(), set).serialize(serializer)
}

fn read_sparse<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Coordinate>, D::Error> {
    let (len, set) = <(usize, Vec<(u32, Coordinate)>)>::deserialize(deserializer)?;
    let mut all = vec![Coordinate::default(); len];
    for (i, c) in set {
        let place = all.get_mut(i as usize);
        *place.ok_or_else(|| serde::de::Error::custom("a coordinate beyond the last"))? = c;
    }
    Ok(all)
}

impl Scratch {
    /// The scores before the last update.
    #[must_use]
    pub fn scores(&self) -> &[f64] {
        &self.scores
    }
}
