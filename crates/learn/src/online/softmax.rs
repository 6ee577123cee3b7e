//! More than two classes: the softmax, by implicit steps.
//!
//! The step takes the gradient at its end instead of its start, so that it cannot pass the label however heavy the
//! example (Kulis & Bartlett, "Implicit online learning", ICML 2010). With c the length of the step, the
//! scores m after it solve m_k + c·p_k(m) = m⁰_k + c·y_k. Given the log partition Z of m, each is a Wright omega:
//! c·p_k = ω(ln c + v_k − Z) with v = m⁰ + c·y; Z makes their sum c: one equation in one unknown.

use pawl_domain::spec::Online as Spec;
use pawl_stats::logistic::{log_sum_exp, softmax};

use super::{NotFinite, Online, Scratch, loss::omega_log};

impl Online {
    pub(super) fn softmax(
        &mut self,
        spec: &Spec,
        x: &[(u32, f64)],
        y: f64,
        weight: f64,
        scratch: &mut Scratch,
    ) -> Result<(), NotFinite> {
        let class = y as usize;
        let p = &mut scratch.moved;
        p.clear();
        p.extend_from_slice(&scratch.scores);
        softmax(p);
        let missed: f64 = p.iter().map(|p| p * p).sum::<f64>() - p[class] * p[class]
            + (1.0 - p[class]) * (1.0 - p[class]);
        if !missed.is_finite() {
            return Err(NotFinite);
        }
        if missed == 0.0 || weight == 0.0 {
            return Ok(());
        }
        let k = self.outputs;
        let (reach, multiplier) = self.rates(spec, x, missed * weight, weight, scratch);
        let h = self.rate(spec, scratch) * weight;
        if !(reach.is_finite() && multiplier.is_finite() && h.is_finite()) {
            return Err(NotFinite);
        }
        if spec.invariant {
            implicit(&scratch.scores, class, h * reach, &mut scratch.moved);
        }
        self.renew(spec, scratch);
        let [v, _, _, rates, _] = &scratch.columns;
        for (slot, (&v, &rate)) in scratch.present.iter().zip(v.iter().zip(rates)) {
            let eta = h * rate * multiplier;
            for (output, p) in scratch.moved.iter().enumerate() {
                let at = *slot as usize * k + output;
                let target = f64::from(u8::from(output == class));
                let w = self.coordinates[at].w;
                let moved = w + eta * v * (target - p);
                let shrunk = (moved.abs() - eta * spec.l1).max(0.0) / (1.0 + eta * spec.l2);
                self.shift(at, libm::copysign(shrunk, moved) - w, spec.average);
            }
        }
        Ok(())
    }
}

/// The softmax after an implicit step of length `c` from `scores` towards `class`.
fn implicit(scores: &[f64], class: usize, c: f64, p: &mut [f64]) {
    if c < 1e-9 {
        return; // p is the softmax at the start: the difference is of the order of c²
    }
    let v = |k: usize| scores[k] + if k == class { c } else { 0.0 };
    let log_c = libm::log(c);
    // At Z = logsumexp(v) − c the sum is above c, at logsumexp(v) below: Newton from the left, convex and falling.
    let mut z = log_sum_exp((0..scores.len()).map(v)) - c;
    for _ in 0..100 {
        let (mut total, mut slope) = (0.0, 0.0);
        for (k, p) in p.iter_mut().enumerate() {
            let t = log_c + v(k) - z;
            let omega = libm::exp(omega_log(t, t));
            total += omega;
            slope += omega / (1.0 + omega);
            *p = omega / c;
        }
        let step = (total - c) / slope;
        z += step;
        if step.abs() <= 1e-12 * (1.0 + z.abs()) {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The defining equation of an implicit step: m = m⁰ + c(y − softmax(m)).
    #[test]
    fn an_implicit_step_solves_its_equation() {
        let start = [0.3, -1.2, 2.0, 0.0];
        for c in [1e-6, 0.01, 1.0, 30.0, 1e4] {
            for class in 0..4 {
                let mut p = start.to_vec();
                softmax(&mut p);
                implicit(&start, class, c, &mut p);
                let mut m: Vec<f64> = start
                    .iter()
                    .enumerate()
                    .map(|(k, s)| s + c * (f64::from(u8::from(k == class)) - p[k]))
                    .collect();
                softmax(&mut m);
                for (k, p) in p.iter().enumerate() {
                    assert!((m[k] - p).abs() < 1e-7, "c {c} class {class}: {} {p}", m[k]);
                }
                assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            }
        }
    }
}
