//! Losses: their values, gradients, and the exact effect of a long step along the gradient.
//!
//! A step of length h moves the prediction p by dp/dh = −∂loss/∂p, followed for the whole length instead of once
//! at its start: a weighted example then acts as if it came in infinitely small parts, and cannot carry the
//! prediction past its label (Karampatziakis & Langford, "Online importance weight aware updates", UAI 2011).

use pawl_domain::spec::Loss;
use pawl_stats::logistic::{sigmoid, softplus};

/// Scores of a logistic loss are kept within: e^50 is far beyond any probability that is met.
const SCORE_MAX: f64 = 50.0;

/// The score from which an update starts.
pub(super) fn bounded(loss: Loss, score: f64) -> f64 {
    match loss {
        Loss::Logistic | Loss::Softmax(_) => score.clamp(-SCORE_MAX, SCORE_MAX),
        _ => score,
    }
}

/// The loss of prediction `p` for label `y`; of a logistic loss p is the score and y from 0 to 1.
#[must_use]
pub fn value(loss: Loss, p: f64, y: f64) -> f64 {
    let e = y - p;
    match loss {
        Loss::Squared => e * e,
        Loss::Absolute => e.abs(),
        Loss::Huber(delta) if e.abs() > delta => delta * (e.abs() - delta / 2.0),
        Loss::Huber(_) => e * e / 2.0,
        Loss::Quantile(tau) => {
            if e > 0.0 {
                tau * e
            } else {
                (tau - 1.0) * e
            }
        }
        Loss::Logistic | Loss::Softmax(_) => softplus(p) - y * p,
    }
}

/// The log loss of a prediction, and the probability of the positive class.
#[derive(Clone, Copy, Debug)]
pub struct LogLoss {
    /// −ln of the probability of the label.
    pub value: f64,
    /// Of the positive class.
    pub p: f64,
}

/// Where an update starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    loss: Loss,
    p: f64,
    y: f64,
    /// ∂loss/∂p.
    pub gradient: f64,
    /// Of a logistic loss with a label that is 0 or 1.
    pub log_loss: Option<LogLoss>,
    /// e^margin, there.
    odds: f64,
}

impl Place {
    pub(super) fn new(loss: Loss, p: f64, y: f64) -> Self {
        let mut place = Self { loss, p, y, gradient: 0.0, log_loss: None, odds: 0.0 };
        if matches!(loss, Loss::Logistic) && (y == 0.0 || y == 1.0) {
            let margin = if y == 0.0 { -p } else { p };
            let odds = libm::exp(margin);
            let wrong = 1.0 / (1.0 + odds);
            place.odds = odds;
            place.gradient = if y == 0.0 { wrong } else { -wrong };
            let value =
                if margin > 0.0 { libm::log1p(1.0 / odds) } else { libm::log1p(odds) - margin };
            place.log_loss = Some(LogLoss { value, p: if y == 0.0 { wrong } else { 1.0 - wrong } });
        } else {
            place.gradient = gradient(loss, p, y);
        }
        place
    }

    /// How far p moves over a step of length `h`.
    pub(super) fn flow(&self, h: f64) -> f64 {
        if self.log_loss.is_none() {
            return flow(self.loss, self.p, self.y, h);
        }
        let sign = if self.y == 0.0 { -1.0 } else { 1.0 };
        sign * margin_flow(sign * self.p, self.odds, h)
    }
}

/// ∂loss/∂p.
fn gradient(loss: Loss, p: f64, y: f64) -> f64 {
    let e = y - p;
    match loss {
        Loss::Squared => -2.0 * e,
        Loss::Absolute => -sign(e),
        Loss::Huber(delta) => -e.clamp(-delta, delta),
        Loss::Quantile(tau) => {
            if e > 0.0 {
                -tau
            } else if e < 0.0 {
                1.0 - tau
            } else {
                0.0
            }
        }
        Loss::Logistic | Loss::Softmax(_) => sigmoid(p) - y,
    }
}

fn sign(e: f64) -> f64 {
    if e > 0.0 {
        1.0
    } else if e < 0.0 {
        -1.0
    } else {
        0.0
    }
}

/// How far p moves over a step of length `h`.
fn flow(loss: Loss, p: f64, y: f64, h: f64) -> f64 {
    let e = y - p;
    match loss {
        Loss::Squared => -e * libm::expm1(-2.0 * h),
        Loss::Absolute => sign(e) * h.min(e.abs()),
        Loss::Quantile(tau) => {
            if e > 0.0 {
                (tau * h).min(e)
            } else {
                -((1.0 - tau) * h).min(-e)
            }
        }
        Loss::Huber(delta) => {
            let straight = ((e.abs() - delta) / delta).max(0.0);
            let moved = if h <= straight {
                delta * h
            } else {
                let rest = e.abs() - delta * straight;
                delta * straight - rest * libm::expm1(straight - h)
            };
            sign(e) * moved
        }
        Loss::Logistic | Loss::Softmax(_) => soft_flow(p, y, h),
    }
}

/// How far the margin m of a correct class rises, with d = eᵐ: dm/dh = 1/(1 + eᵐ), so m + eᵐ grows by h.
fn margin_flow(m: f64, d: f64, h: f64) -> f64 {
    let first = h / (1.0 + d);
    if first < 1e-6 {
        return first;
    }
    // The second term of the series, where it is one.
    let bend = if first < 0.5 { first * first * d / (2.0 * (1.0 + d)) } else { 0.0 };
    omega_log(m + d + h, m + first - bend) - m
}

/// u with u + eᵘ = t, from a guess (Halley's method: the error of a step is of the order of its cube).
pub(super) fn omega_log(t: f64, guess: f64) -> f64 {
    let mut u = guess.min(if t > 1.0 { libm::log(t) } else { t });
    for _ in 0..20 {
        let e = libm::exp(u);
        let (f, slope) = (u + e - t, 1.0 + e);
        let step = 2.0 * f * slope / (2.0 * slope * slope - f * e);
        u -= step;
        if step.abs() <= 1e-5 {
            break;
        }
    }
    u
}

/// A label between the classes has no closed form: the step is taken with the gradient at its end, which cannot
/// pass the label either.
fn soft_flow(p: f64, y: f64, h: f64) -> f64 {
    let (mut low, mut high) = if sigmoid(p) < y { (0.0, h) } else { (-h, 0.0) };
    let mut step = 0.0;
    for _ in 0..60 {
        let s = sigmoid(p + step);
        let f = step - h * (y - s);
        if f > 0.0 {
            high = step;
        } else {
            low = step;
        }
        let newton = step - f / (1.0 + h * s * (1.0 - s));
        let next = if newton > low && newton < high { newton } else { (low + high) / 2.0 };
        if (next - step).abs() <= 1e-13 {
            return next;
        }
        step = next;
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOSSES: [Loss; 5] =
        [Loss::Squared, Loss::Absolute, Loss::Huber(0.7), Loss::Quantile(0.8), Loss::Logistic];

    #[test]
    fn gradients_are_derivatives() {
        for loss in LOSSES {
            for p in [-3.0, -0.4, 0.3, 2.5] {
                for y in [0.0, 1.0] {
                    let h = 1e-6;
                    let slope = (value(loss, p + h, y) - value(loss, p - h, y)) / (2.0 * h);
                    assert!(
                        (Place::new(loss, p, y).gradient - slope).abs() < 1e-6,
                        "{loss:?} {p} {y}"
                    );
                }
            }
        }
    }

    /// The law of a flow: two steps in a row are one of their summed length, a short one follows the gradient, and
    /// none passes the label.
    #[test]
    fn flows_add_up_and_never_pass_the_label() {
        for loss in LOSSES {
            for p in [-4.0, -0.6, 0.2, 0.95, 3.0] {
                for y in [0.0, 1.0] {
                    for h in [1e-9, 1e-3, 0.3, 2.0, 50.0] {
                        let flow = |p: f64, h: f64| Place::new(loss, p, y).flow(h);
                        let half = flow(p, h);
                        let twice = half + flow(p + half, h);
                        let whole = flow(p, 2.0 * h);
                        assert!(
                            (twice - whole).abs() < 1e-11,
                            "{loss:?} {p} {y} {h} {twice} {whole}"
                        );
                    }
                    let place = Place::new(loss, p, y);
                    let short = place.flow(1e-9) + 1e-9 * place.gradient;
                    assert!(short.abs() < 1e-14, "{loss:?}");
                    if loss != Loss::Logistic {
                        let end = p + flow(loss, p, y, 1e6);
                        assert!((end - y) * (p - y) >= 0.0, "{loss:?} {p} {y} {end}");
                    }
                }
            }
        }
        let end = -2.0 + flow(Loss::Logistic, -2.0, 0.3, 1e6);
        assert!(sigmoid(end) <= 0.3 && sigmoid(end) > 0.29);
    }
}
