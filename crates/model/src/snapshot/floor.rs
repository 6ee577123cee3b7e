//! How much of the traffic a floor lets the policy decide, and where it pays most.

use pawl_domain::spec::Keep;
use pawl_stats::normal;

use super::Scores;

/// A gain counts as no smaller.
const GAIN_MIN: f64 = 0.02;

/// How far a floor lets the policy decide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloorView {
    /// The floor.
    pub keep: Keep,
    /// The share of traffic, where the gain is the incumbent's whole cost and its quality as uncertain as ever; 0 is none anywhere.
    pub share: f64,
    /// How far the incumbent's quality lies from what is expected of it, in widths of the bounds.
    pub deviation: f64,
    /// The incumbent's share is nowhere less, …
    pub least: f64,
    /// … nor less than this for each width of the bounds that its expected quality is below the best.
    pub compared: f64,
}

impl FloorView {
    /// The share where the incumbent's quality is `expected` and the policy believes to gain `gain`.
    ///
    /// With u the share, g the gain and σ² the variance of the incumbent's quality, a decision gains g·u and adds
    /// σ²·u/(1 − u) to the variance of the evidence. The most gain for some variance in all has 1 − u in proportion to σ/√g.
    #[must_use]
    pub fn share_at(&self, expected: f64, gain: f64) -> f64 {
        if self.share <= 0.0 {
            return 0.0;
        }
        let [low, high] = self.keep.bounds;
        let below = ((high - expected) / (high - low)).clamp(0.0, 1.0);
        // Of values within bounds none varies more than those at the ends do.
        let deviation = libm::sqrt(below * (1.0 - below));
        let incumbent =
            (1.0 - self.share) * deviation / self.deviation / libm::sqrt(gain.max(GAIN_MIN));
        1.0 - incumbent.max(self.compared * below).clamp(self.least, 1.0)
    }
}

/// By how much the draw believes to better the score where it leaves the first action: for each of the others what it is
/// above the first, given that it is, in the mean over their probabilities `p`.
pub(super) fn gain(p: &[f64], scores: &Scores) -> f64 {
    let (mut sum, mut weight) = (0.0, 0.0);
    for (i, p) in p.iter().enumerate().skip(1).filter(|(_, p)| **p > 0.0) {
        let above = scores.score[i] - scores.score[0];
        let [a, b] = [scores.score_deviation[0], scores.score_deviation[i]];
        sum += p * mean_above(above, libm::sqrt(a * a + b * b));
        weight += p;
    }
    if weight > 0.0 { sum / weight } else { 0.0 }
}

/// The mean of a normal variable, given that it is above 0.
fn mean_above(mean: f64, deviation: f64) -> f64 {
    if deviation <= 0.0 {
        return mean.max(0.0);
    }
    let (mut density, mut below) = ([0.0], [0.0]);
    normal::pdf_cdf(&[mean / deviation], &mut density, &mut below);
    // Far below 0 the mean is near it: both terms are large there and cancel.
    (mean + deviation * density[0] / below[0]).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half-normal: √(2/π); at a mean of one deviation φ(1)/Φ(1) = .241971/.841345 above it (tables of the normal).
    #[test]
    fn the_mean_above_zero_is_that_of_a_truncated_normal() {
        assert!((mean_above(0.0, 1.0) - 0.797_884_56).abs() < 1e-8);
        assert!((mean_above(2.0, 2.0) - 2.0 * 1.287_600).abs() < 1e-5);
        assert_eq!([mean_above(0.3, 0.0), mean_above(-0.3, 0.0)], [0.3, 0.0]);
        let far = mean_above(-30.0, 1.0);
        assert!((0.0..0.05).contains(&far), "{far}");
    }

    /// The allocation beats any other of the same variance: moving share from one context to another, variance kept,
    /// gains nothing.
    #[test]
    fn no_other_shares_gain_more_for_the_same_variance() {
        let keep = Keep { metric: 0, part: 0.98, bounds: [0.0, 1.0] };
        let floor = FloorView { keep, share: 0.6, deviation: 0.4, least: 0.05, compared: 0.0 };
        let contexts = [(0.9, 0.9), (0.7, 0.5)];
        let variance = |(e, _): (f64, f64), u: f64| e * (1.0 - e) * u / (1.0 - u);
        let [a, b] = contexts.map(|(e, g)| floor.share_at(e, g));
        let best = a * contexts[0].1 + b * contexts[1].1;
        let all = variance(contexts[0], a) + variance(contexts[1], b);
        for i in 1..99 {
            let moved = f64::from(i) / 100.0;
            let left = all - variance(contexts[0], moved);
            if left < 0.0 {
                continue;
            }
            let (e, g) = contexts[1];
            let other = left / (e * (1.0 - e) + left);
            assert!(moved * contexts[0].1 + other * g <= best + 1e-12, "{moved} {other}");
        }
    }
}
