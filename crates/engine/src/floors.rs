//! Floors: what observed values say of them, and what they say of the next decisions.

use pawl_domain::{
    ActionName, Happening,
    event::Decided,
    spec::{CheckedSpec, Keep},
};
use pawl_judge::{Floor, LEAST, REACH, Rules};
use pawl_model::{Snapshot, snapshot::FloorView};

use crate::{
    Engine,
    enrolled::Enrolled,
    state::{Added, Kept, Model},
};

/// A floor that closes after so many values says so.
const RELEASED_LONG: u64 = 256;

const fn rules(keep: &Keep) -> Rules {
    Rules { keep: keep.part, bounds: keep.bounds }
}

impl Model {
    /// Keeps the evidence of floors that stay the same, and begins the others.
    pub(crate) fn set_floors(&mut self, spec: &CheckedSpec) {
        let mut before = core::mem::take(&mut self.floors);
        let Some(incumbent) = spec.incumbent().map(|i| spec.actions()[i].name.clone()) else {
            return;
        };
        for keep in spec.floors() {
            let name = spec.metrics()[keep.metric].name.clone();
            let same = |k: &Kept| k.part == keep.part && k.incumbent == incumbent;
            let kept = before.remove(&name).filter(same);
            let begin = || Kept {
                part: keep.part,
                incumbent: incumbent.clone(),
                floor: Floor::default(),
                changed_at: Added::default(),
            };
            self.floors.insert(name, kept.unwrap_or_else(begin));
        }
    }

    /// Gives a snapshot what the floors have come to: the shares, and the weights of the metrics.
    pub(crate) fn hold_floors(&self, snapshot: &mut Snapshot) {
        if self.floors.is_empty() {
            return;
        }
        let spec = snapshot.spec.clone();
        for keep in spec.floors() {
            let Some(kept) = self.floors.get(&spec.metrics()[keep.metric].name) else { continue };
            let share = kept.floor.share(rules(&keep));
            let deviation = kept.floor.deviation();
            let compared = keep.part / REACH;
            snapshot.floors.push(FloorView { keep, share, deviation, least: LEAST, compared });
            let [low, high] = keep.bounds;
            snapshot.weights[keep.metric] = kept.floor.weight / (high - low);
        }
        // What is minimised counts in units of what the incumbent takes of it.
        let Some((m, kept)) = spec.minimized().zip(self.floors.values().next()) else { return };
        let tally = self.by_action.get(&kept.incumbent);
        let count = tally.and_then(|t| t.metrics.get(&spec.metrics()[m].name));
        let mean = count.filter(|c| c.n > 0.0).map_or(0.0, |c| c.sum / c.n);
        snapshot.weights[m] = if mean > 0.0 { -1.0 / mean } else { -1.0 };
    }
}

impl Engine {
    /// Takes observed values as evidence of the floors, before they are learned.
    pub(crate) fn judge_floors(
        &mut self,
        decided: &Decided,
        taken: &ActionName,
        values: &[(&str, f64)],
    ) {
        let now_ms = self.state.now_ms.max(self.came_ms);
        let Some(model) = self.state.models.get_mut(&decided.model) else { return };
        if model.floors.is_empty() || !values.iter().any(|(n, _)| model.floors.contains_key(*n)) {
            return;
        }
        let Some(spec) =
            model.production().map(Enrolled::shared_spec).filter(|_| decided.is_drawn())
        else {
            return;
        };
        // Where the incumbent could not be drawn there is nothing to compare with.
        let Some(beside) = model.beside(decided, taken) else { return };
        let mut closed = Vec::new();
        for keep in spec.floors() {
            let metric = &spec.metrics()[keep.metric].name;
            let Some((_, value)) = values.iter().find(|(n, _)| n == metric) else { continue };
            let Some(kept) = model.floors.get_mut(metric) else { continue };
            let evidence = beside.evidence(keep.metric, *value);
            let before = kept.floor.released;
            kept.floor.take(rules(&keep), &evidence, now_ms);
            let values = kept.floor.values;
            if kept.floor.released == before {
                continue;
            }
            let released = values - core::mem::replace(&mut kept.changed_at.0, values);
            // On the edge it opens and closes often: that is its work, and no news.
            if before && released >= RELEASED_LONG {
                closed.push(Happening::FloorClosed { metric: metric.clone(), released });
            }
        }
        closed.into_iter().for_each(|what| self.alert(&decided.model, None, what));
    }
}
