//! How well a regressor or classifier predicted each example before it learned from it.

use pawl_domain::spec::Loss;
use pawl_stats::logistic::{log_sum_exp, sigmoid, softmax};
use serde::{Deserialize, Serialize};

use crate::online::loss::{self, LogLoss};

/// Bins of predicted probability.
pub const BINS: usize = 10;
/// The recent loss forgets with this factor an example: half of it is of the last 693.
const KEEP: f64 = 0.999;

/// Progressive validation (Blum, Kalai & Langford 1999): every example is predicted, then learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Σ importance weight of the examples.
    pub weight: f64,
    /// Σ weight · loss.
    pub loss: f64,
    /// The same with old examples forgotten: weight and loss.
    pub recent: [f64; 2],
    /// Σ weight of the examples whose most probable class was the label: classifiers.
    pub correct: f64,
    /// By predicted probability of the class held most probable (of two: of the second): weight, Σ weight ·
    /// probability, Σ weight · (it was the label).
    pub bins: [[f64; 3]; BINS],
}

impl Progress {
    /// Whether examples could have led there.
    pub(crate) fn is_sound(&self) -> bool {
        let bins = self.bins.iter().flatten();
        let all = [self.weight, self.loss, self.correct].into_iter().chain(self.recent);
        all.chain(bins.copied()).all(|v| v.is_finite() && v >= 0.0)
    }

    /// Counts one example with these scores before its update.
    pub fn add(&mut self, measure: Loss, scores: &[f64], range: [f64; 2], y: f64, weight: f64) {
        let value = match measure {
            Loss::Softmax(_) => {
                let class = y as usize;
                let mut p = scores.to_vec();
                softmax(&mut p);
                let best = (0..p.len()).fold(0, |b, k| if p[k] > p[b] { k } else { b });
                self.count(p[best], f64::from(u8::from(best == class)), best == class, weight);
                log_sum_exp(scores.iter().copied()) - scores[class]
            }
            Loss::Logistic => {
                let p = sigmoid(scores[0]);
                self.count(p, y, (p > 0.5) == (y > 0.5), weight);
                loss::value(measure, scores[0], y)
            }
            _ => loss::value(measure, scores[0].clamp(range[0], range[1]), y),
        };
        self.add_value(value, weight);
    }

    /// The same of a logistic loss that is known already.
    pub(crate) fn add_logistic(&mut self, known: LogLoss, y: f64, weight: f64) {
        self.count(known.p, y, (known.p > 0.5) == (y > 0.5), weight);
        self.add_value(known.value, weight);
    }

    fn add_value(&mut self, value: f64, weight: f64) {
        if !value.is_finite() {
            return;
        }
        self.weight += weight;
        self.loss += weight * value;
        let [w, l] = self.recent;
        self.recent = [KEEP * w + weight, KEEP * l + weight * value];
    }

    fn count(&mut self, p: f64, y: f64, correct: bool, weight: f64) {
        let bin = &mut self.bins[((p * BINS as f64) as usize).min(BINS - 1)];
        bin[0] += weight;
        bin[1] += weight * p;
        bin[2] += weight * y;
        if correct {
            self.correct += weight;
        }
    }

    /// The mean loss; `None` of no example.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.loss / self.weight)
    }

    /// The mean loss of late; `None` of no example.
    #[must_use]
    pub fn recent_mean(&self) -> Option<f64> {
        (self.recent[0] > 0.0).then(|| self.recent[1] / self.recent[0])
    }

    /// The expected calibration error (Naeini, Cooper & Hauskrecht 2015): Σ share · |mean probability − frequency|.
    #[must_use]
    pub fn calibration_error(&self) -> f64 {
        let apart: f64 = self.bins.iter().map(|[_, p, y]| (p - y).abs()).sum();
        if self.weight > 0.0 { apart / self.weight } else { 0.0 }
    }
}
