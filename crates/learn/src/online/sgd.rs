//! Stochastic gradient descent with normalised, adaptive and importance-invariant updates.
//!
//! Sources: Ross, Mineiro & Langford, "Normalized online learning" (UAI 2013), algorithm 2 (NAG); Duchi, Hazan &
//! Singer, "Adaptive subgradient methods" (JMLR 2011); Karampatziakis & Langford 2011. With all three it is the
//! default of Vowpal Wabbit, whose weights the tests compare.

use std::collections::BTreeMap;

use pawl_domain::spec::{ClipSpec, Loss, Online as Spec};

use pawl_stats::{
    dense::dot,
    rates::{Rates, rates},
};

use super::{
    NotFinite, Online, Row, Scratch,
    loss::{self, Place},
};

/// Smaller values of a feature count as absent: their squares vanish.
const LEAST: f64 = 1e-100;
/// A larger squared gradient would overflow the sums.
const SQUARE_MAX: f64 = 1e250;

impl Online {
    /// The prediction from which an update starts. Where scales are normalised, a value larger than any before makes
    /// a wild score: it is held within the labels so far.
    fn start(&self, spec: &Spec, score: f64) -> f64 {
        let [low, high] = self.totals.range;
        match loss::bounded(spec.loss, score) {
            p if spec.normalized && spec.loss != Loss::Logistic => p.clamp(low, high),
            p => p,
        }
    }

    pub(super) fn sgd(
        &mut self,
        spec: &Spec,
        x: &[(u32, f64)],
        y: f64,
        weight: f64,
        scratch: &mut Scratch,
    ) -> Result<(), NotFinite> {
        let p = self.start(spec, scratch.scores[0]);
        let at = Place::new(spec.loss, p, y);
        scratch.log_loss = at.log_loss;
        let gradient = at.gradient;
        if !gradient.is_finite() {
            return Err(NotFinite);
        }
        let weight = weight * clipped(&spec.clip, gradient, x);
        if gradient == 0.0 || weight == 0.0 {
            return Ok(());
        }
        let squared = gradient * gradient * weight;
        if squared.is_nan() || squared >= SQUARE_MAX {
            return Err(NotFinite);
        }
        let (reach, multiplier) = self.rates(spec, x, squared, weight, scratch);
        if reach == 0.0 {
            return Ok(());
        }
        let h = self.rate(spec, scratch) * weight;
        let step = if spec.invariant { at.flow(h * reach) / reach } else { -gradient * h };
        let step = step * multiplier;
        if !step.is_finite() || !reach.is_finite() {
            return Err(NotFinite);
        }
        self.renew(spec, scratch);
        let [v, _, _, rates, _] = &scratch.columns;
        let regular = spec.l1 > 0.0 || spec.l2 > 0.0;
        for (slot, (&v, &rate)) in scratch.present.iter().zip(v.iter().zip(rates)) {
            let slot = *slot as usize;
            let mut by = step * rate * v;
            if regular {
                // The proximal step of l1|w| + l2 w²/2 at this coordinate's rate.
                let eta = h * rate * multiplier;
                let w = self.coordinates[slot].w;
                let moved = w + by;
                let shrunk = (moved.abs() - eta * spec.l1).max(0.0) / (1.0 + eta * spec.l2);
                by = libm::copysign(shrunk, moved) - w;
            }
            self.shift(slot, by, spec.average);
        }
        Ok(())
    }

    pub(super) fn sgd_average(
        &mut self,
        spec: &Spec,
        rows: &[Row<'_>],
        scratch: &mut Scratch,
    ) -> Result<(), NotFinite> {
        let mut mean: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        let total: f64 = rows.iter().map(|r| r.weight).sum();
        if total == 0.0 {
            return Ok(());
        }
        for row in rows {
            self.scores(row.x, &mut scratch.scores);
            self.totals.examples += 1;
            let [low, high] = self.totals.range;
            self.totals.range = [low.min(row.y), high.max(row.y)];
            let p = self.start(spec, scratch.scores[0]);
            let gradient = Place::new(spec.loss, p, row.y).gradient;
            let share = row.weight / total * clipped(&spec.clip, gradient, row.x);
            for &(slot, v) in row.x {
                let (sum, largest) = mean.entry(slot).or_default();
                *sum += share * gradient * v;
                *largest = largest.max(v.abs());
            }
        }
        if mean.values().any(|(g, _)| g.is_nan() || g * g >= SQUARE_MAX) {
            return Err(NotFinite);
        }
        let h = self.rate(spec, scratch);
        self.begin();
        for (slot, (g, largest)) in mean {
            let at = slot as usize;
            self.note(at);
            if g == 0.0 || largest < LEAST {
                continue;
            }
            let c = &mut self.coordinates[at];
            c.n = (c.n + g * g).max(f64::MIN_POSITIVE);
            let grown = c.s / largest;
            c.s = c.s.max(largest);
            let mut rate = h;
            if spec.adaptive {
                rate /= c.n.sqrt();
            }
            if spec.normalized {
                // g carries the scale of x once: of a step in w it has to leave twice, unless √n took one.
                rate /= if spec.adaptive { 1.0 } else { c.s * c.s };
                if grown > 0.0 && grown < 1.0 {
                    let factor = if spec.adaptive { grown } else { grown * grown };
                    self.rescale(at, 1, factor, spec.average);
                }
                rate /= if spec.adaptive { self.coordinates[at].s } else { 1.0 };
            }
            let moved = self.coordinates[at].w - rate * g;
            let shrunk = (moved.abs() - rate * spec.l1).max(0.0) / (1.0 + rate * spec.l2);
            let by = libm::copysign(shrunk, moved) - self.coordinates[at].w;
            self.shift(at, by, spec.average);
        }
        Ok(())
    }

    /// Finds the rates of the slots present, in `scratch` with their values and their new sums and scales; nothing is
    /// changed yet. Returns how far the score moves for a unit of update, and the common factor of all rates.
    pub(super) fn rates(
        &mut self,
        spec: &Spec,
        x: &[(u32, f64)],
        squared: f64,
        weight: f64,
        scratch: &mut Scratch,
    ) -> (f64, f64) {
        scratch.present.clear();
        scratch.columns.iter_mut().for_each(|c| c.resize(x.len(), 0.0));
        let [v, n, s, rate, work] = &mut scratch.columns;
        for &(slot, value) in x.iter().filter(|(_, v)| v.abs() >= LEAST) {
            let c = &self.coordinates[slot as usize * self.outputs];
            let i = scratch.present.len();
            scratch.present.push(slot);
            (v[i], n[i], s[i]) = (value, c.n, c.s);
        }
        let present = scratch.present.len();
        [&mut *v, &mut *n, &mut *s].into_iter().for_each(|c| c.truncate(present));
        let (reach, norm) =
            rates(spec.adaptive, spec.normalized, squared, Rates { v, n, s, rate, work });
        scratch.norm = libm::sqrt(squared * if spec.normalized { norm } else { dot(v, v) });
        if !spec.normalized || norm == 0.0 {
            return (reach, 1.0);
        }
        self.totals.weight += weight;
        self.totals.norm += weight * norm;
        let mean = self.totals.weight / self.totals.norm;
        let multiplier = if spec.adaptive { mean.sqrt() } else { mean };
        (reach * multiplier, multiplier)
    }

    /// Puts the sums and scales that [`Online::rates`] found in place; what was learned at a smaller scale shrinks.
    pub(super) fn renew(&mut self, spec: &Spec, scratch: &Scratch) {
        let [_, n, s, ..] = &scratch.columns;
        let stride = self.outputs;
        self.begin();
        for (i, slot) in scratch.present.iter().enumerate() {
            let at = *slot as usize * stride;
            for output in at..at + stride {
                self.note(output);
            }
            let c = &mut self.coordinates[at];
            let old = c.s;
            (c.n, c.s) = (n[i], s[i]);
            if spec.normalized && old > 0.0 && s[i] > old {
                let grown = old / s[i];
                let factor = if spec.adaptive { grown } else { grown * grown };
                self.rescale(at, stride, factor, spec.average);
            }
        }
    }

    /// A larger value than ever before: what was learned at the old scale shrinks.
    #[cold]
    fn rescale(&mut self, at: usize, stride: usize, factor: f64, average: bool) {
        for output in at..at + stride {
            let w = self.coordinates[output].w;
            self.shift(output, w * factor - w, average);
        }
    }
}

/// The factor that keeps the gradient within its bounds.
fn clipped(clip: &ClipSpec, gradient: f64, x: &[(u32, f64)]) -> f64 {
    let mut factor = 1.0_f64;
    if let Some(most) = clip.value {
        let largest = x.iter().fold(0.0_f64, |m, (_, v)| m.max(v.abs())) * gradient.abs();
        factor = factor.min(most / largest.max(most));
    }
    if let Some(most) = clip.norm {
        let norm = x.iter().map(|(_, v)| v * v).sum::<f64>().sqrt() * gradient.abs();
        factor = factor.min(most / norm.max(most));
    }
    factor
}
