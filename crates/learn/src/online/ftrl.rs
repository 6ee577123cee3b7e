//! FTRL-Proximal with L1 and L2.
//!
//! Source: McMahan et al., "Ad click prediction: a view from the trenches" (KDD 2013), algorithm 1.

use pawl_domain::spec::Online as Spec;

use pawl_model::weights::CHUNK;

use super::{NotFinite, Online, Scratch, loss};

impl Online {
    pub(super) fn ftrl(
        &mut self,
        spec: &Spec,
        x: &[(u32, f64)],
        y: f64,
        weight: f64,
        scratch: &mut Scratch,
    ) -> Result<(), NotFinite> {
        let p = loss::bounded(spec.loss, scratch.scores[0]);
        let at = loss::Place::new(spec.loss, p, y);
        scratch.log_loss = at.log_loss;
        let gradient = at.gradient * weight;
        if !gradient.is_finite() {
            return Err(NotFinite);
        }
        let alpha = spec.schedule.initial;
        scratch.moved.clear();
        for &(slot, v) in x {
            let c = &self.coordinates[slot as usize];
            let g = gradient * v;
            let n = c.n + g * g;
            let (root, old_root) = (n.sqrt(), c.n.sqrt());
            let z = c.s + g - (root - old_root) / alpha * c.w;
            let w = if z.abs() <= spec.l1 {
                0.0
            } else {
                -(z - libm::copysign(spec.l1, z)) / ((spec.beta + root) / alpha + spec.l2)
            };
            if !w.is_finite() || !n.is_finite() {
                return Err(NotFinite);
            }
            scratch.moved.extend([w, n, z]);
        }
        self.begin();
        for (&(slot, _), new) in x.iter().zip(scratch.moved.as_chunks::<3>().0) {
            let at = slot as usize;
            self.note(at);
            let [w, n, z] = *new;
            let c = &mut self.coordinates[at];
            (c.w, c.n, c.s) = (w, n, z);
            if let Some(stale) = self.served.stale.get_mut(at / CHUNK) {
                *stale = true;
            }
        }
        Ok(())
    }
}
