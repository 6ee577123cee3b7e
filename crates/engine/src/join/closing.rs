//! Deadlines: what never came counts as missing, unless feedback has stopped altogether.

use pawl_domain::{Happening, ModelName, event::Decided};

use super::{Cursor, Lane, bits::CLOSED};
use crate::{Engine, Halt, History, Recorded, state::Model};

impl Engine {
    /// Closes every decision whose deadline has passed.
    pub(crate) fn close_due(&mut self, head: u64, history: &mut dyn History) -> Result<(), Halt> {
        let now_ms = self.state.now_ms;
        self.accept_dry(history)?;
        let lanes: Vec<Lane> = self.state.join.cursors.keys().cloned().collect();
        for lane in lanes {
            let due = |c: &Cursor| c.due_ms.is_some_and(|d| d <= now_ms);
            while self.state.join.cursors.get(&lane).is_some_and(due) {
                self.step(&lane, head, history, false)?;
            }
            let stopped =
                |name| self.state.models.get(name).is_some_and(|m| m.supply.has_stopped());
            if lane.1.as_ref().is_some_and(|name| !stopped(name)) {
                self.state.join.merge(&lane);
            }
        }
        self.state.join.release();
        Ok(())
    }

    /// Deadlines that have waited long enough wait no longer.
    fn accept_dry(&mut self, history: &mut dyn History) -> Result<(), Halt> {
        let now_ms = self.state.now_ms;
        let dry = |m: &Model| m.supply.waited_out(now_ms, m.deadline_ms());
        let models = self.state.models.iter().filter(|(_, m)| dry(m));
        let names: Vec<ModelName> = models.map(|(name, _)| name.clone()).collect();
        for name in names {
            let Some(model) = self.state.models.get_mut(&name) else { continue };
            let held = model.supply.accept();
            let given_up = Happening::FeedbackGivenUp { held: held.len() as u64 };
            self.alert(&name, None, given_up);
            self.learn_held(&name, held, history)?;
        }
        Ok(())
    }

    /// Closes the oldest open decision whatever its deadline. False if there is none.
    pub(super) fn close_oldest(
        &mut self,
        head: u64,
        history: &mut dyn History,
    ) -> Result<bool, Halt> {
        let slowest = self.state.join.cursors.iter().min_by_key(|(_, c)| c.ordinal);
        let Some(lane) = slowest.map(|(lane, _)| lane.clone()) else { return Ok(false) };
        self.step(&lane, head, history, true)?;
        self.state.join.release();
        Ok(true)
    }

    /// Looks at the next decision of one cursor, passes and closes it if it is due or `forced`.
    fn step(
        &mut self,
        lane: &Lane,
        head: u64,
        history: &mut dyn History,
        forced: bool,
    ) -> Result<(), Halt> {
        let from = self.state.join.cursors.get(lane).map_or(head, |c| c.offset);
        let found = history.next_decision(from.max(self.state.trimmed), head)?;
        let end = self.state.join.bits.end();
        let due_ms = found.as_ref().map_or(0, |r| self.due_ms(lane, &r.decided));
        let close = forced || due_ms <= self.state.now_ms;
        let Some(cursor) = self.state.join.cursors.get_mut(lane) else { return Ok(()) };
        match &found {
            None => *cursor = Cursor { offset: head, ordinal: end, due_ms: None },
            Some(r) if !close => {
                let due_ms = Some(due_ms);
                *cursor = Cursor { offset: r.at.offset, ordinal: r.at.ordinal, due_ms };
            }
            // Due at once: the next look tells when it really is.
            Some(r) => {
                let more = r.at.ordinal + 1 < end;
                *cursor = Cursor {
                    offset: r.at.next,
                    ordinal: r.at.ordinal + 1,
                    due_ms: more.then_some(0),
                };
            }
        }
        match found {
            Some(recorded) if close => self.close(&recorded, lane, forced),
            _ => {}
        }
        Ok(())
    }

    /// When a cursor passes a decision.
    fn due_ms(&self, (deadline, own): &Lane, decided: &Decided) -> u64 {
        match own {
            None => decided.at_ms + deadline,
            Some(model) if *model == decided.model => {
                let supply = self.state.models.get(model).map(|m| &m.supply);
                supply.map_or(0, |s| s.due_ms(decided.at_ms, *deadline))
            }
            Some(_) => 0,
        }
    }

    /// The deadline of a decision has passed: what never came counts as missing.
    fn close(&mut self, recorded: &Recorded, (deadline, own): &Lane, forced: bool) {
        let decided = &recorded.decided;
        let now_ms = self.state.now_ms;
        let Some(model) = self.state.models.get_mut(&decided.model) else { return };
        let join = &mut self.state.join;
        let state = join.bits.get(recorded.at.ordinal).unwrap_or(CLOSED);
        let ours = match own {
            Some(own) => *own == decided.model,
            None => !join.waits(*deadline, &decided.model),
        };
        if !ours || state & CLOSED != 0 || model.deadline_ms() != *deadline {
            return;
        }
        join.bits.set(recorded.at.ordinal, CLOSED);
        self.state.tally.closed_early += u64::from(forced);
        // Neither what had no time to come nor what was left out says that feedback has stopped.
        let excused = forced || join.excused.contains(&recorded.at.ordinal);
        let stops = !excused && model.supply.closed(state != 0, decided.at_ms, now_ms);
        if stops {
            join.wait(*deadline, &decided.model);
        }
        let stopped = model.supply.has_stopped();
        let shares = (model.supply.recent, model.supply.history);
        let Some(spec) = model.production().map(|e| e.spec().clone()) else { return };
        let absent = |name: &str| model.bits.get(name).is_some_and(|b| state & (1 << b) == 0);
        let missing: Vec<_> = spec.metrics().iter().filter(|m| absent(&m.name)).collect();
        let assumed: Vec<(&str, f64)> =
            missing.iter().filter_map(|m| Some((m.name.as_str(), m.missing?))).collect();
        let chosen = model.chosen(decided);
        let missing = missing.len() as u64;
        model.tally.missing += missing;
        let learns = !stopped && !assumed.is_empty();
        if let Some(action) = &chosen {
            let tally = model.tally_of(action);
            tally.missing += missing;
            // What is assumed counts as what it is taken for.
            for (name, value) in assumed.iter().filter(|_| learns) {
                tally.metrics.entry((*name).to_owned()).or_default().add(*value, 1.0);
            }
        }
        if stops {
            let (recent, usual) = shares;
            self.alert(&decided.model, None, Happening::FeedbackStopped { recent, usual });
        }
        // Where feedback has stopped altogether, that none came is no news of the decision.
        if let (Some(action), false) =
            (chosen, assumed.is_empty() || stopped || decided.is_erased())
        {
            if let Some(model) = self.state.models.get_mut(&decided.model) {
                model.book_values(decided, &action, &assumed);
            }
            self.judge_floors(decided, &action, &assumed);
            self.teach(decided, &action, &assumed);
        }
    }
}
