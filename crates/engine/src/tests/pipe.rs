//! A feedback pipe that dies, and comes back.

use pawl_domain::Happening;

use super::*;

/// A tape on which a decision is made every 10 ms; its deadline is 10 s.
struct Pipe {
    tape: Tape,
    now_ms: u64,
    /// Decisions without feedback.
    open: Vec<DecisionId>,
}

impl Pipe {
    fn new() -> Self {
        Self { tape: Tape::new(SPEC, JoinLimits::default()), now_ms: 0, open: Vec::new() }
    }

    fn step(&mut self, feedback: bool) {
        self.now_ms += 10;
        let id = self.tape.decide(self.now_ms, None);
        if feedback {
            self.answer(id);
        } else {
            self.open.push(id);
        }
        self.tape.push(Event::Tick { now_ms: self.now_ms });
    }

    fn answer(&mut self, id: DecisionId) {
        let metrics = [("quality", 1.0), ("cost", 0.1)];
        self.tape.feedback(Target::Decision(id), self.now_ms + 1, &metrics);
    }

    fn model(&self) -> &Model {
        &self.tape.engine.state().models[&"router".parse::<ModelName>().unwrap()]
    }

    fn learned(&self) -> u64 {
        self.model().tally.learned
    }

    /// Until it is seen that feedback has stopped.
    fn dry(&mut self) {
        (0..1300).for_each(|_| self.step(true));
        (0..1800).for_each(|_| self.step(false));
        assert!(self.model().supply.has_stopped());
    }
}

/// The values that `missing` assumes are learned until it is seen, and none after; a backlog that is delivered late
/// counts, and what trickled in before is learned with it.
#[test]
fn deadlines_wait_and_the_learner_holds_until_feedback_comes_again() {
    let mut pipe = Pipe::new();
    (0..1300).for_each(|_| pipe.step(true));
    let healthy = pipe.learned();
    (0..1800).for_each(|_| pipe.step(false));
    // After n decisions without, the recent share is .99ⁿ and the usual one 1300 / (1300 + n): below a tenth of it at
    // n = 246. One value each was assumed.
    let assumed = pipe.learned() - healthy;
    assert_eq!(assumed, 246);
    let raised = &pipe.model().alerts[0].what;
    assert!(matches!(raised, Happening::FeedbackStopped { .. }), "{raised:?}");
    // Twice their deadline later none is closed, and a piece now and then is held.
    let before = (pipe.learned(), pipe.model().tally.missing);
    for k in 0..2000 {
        pipe.step(false);
        if k % 40 == 0 {
            let late = pipe.open.remove(1000 + k);
            pipe.answer(late);
        }
    }
    assert_eq!((pipe.learned(), pipe.model().tally.missing), before);
    assert_eq!(pipe.model().supply.held(), 50);
    // The backlog is delivered. What was closed before it was seen is late; everything else counts.
    let late = pipe.model().tally.late;
    for id in core::mem::take(&mut pipe.open) {
        pipe.answer(id);
    }
    assert!(!pipe.model().supply.has_stopped());
    assert_eq!(
        pipe.model().tally.late - late,
        2 * (assumed + 1),
        "that by which it was seen is closed too"
    );
    assert_eq!(pipe.learned(), before.0 + 2 * (3800 - assumed - 1));
    let last = &pipe.model().alerts.back().unwrap().what;
    assert!(matches!(last, Happening::FeedbackBack { held } if *held > 50), "{last:?}");
    // From here on everything is as before: a decision without feedback is closed after its deadline.
    (0..1100).for_each(|k| pipe.step(k != 0));
    assert_eq!(pipe.model().tally.missing, before.1 + 2);
    assert_eq!(pipe.tape.engine.state().join.open(), 1000, "no cursor is left behind");
}

/// The alerts wait in the state until they are told; a state from a checkpoint goes on with them.
#[test]
fn an_alert_stays_until_it_is_told() {
    let mut pipe = Pipe::new();
    pipe.dry();
    let alerts = pipe.tape.engine.state().alerts.clone();
    assert_eq!(alerts.len(), 1);
    let state = State::from_bytes(&pipe.tape.engine.state().to_bytes()).unwrap();
    assert_eq!(state.alerts, alerts);
    pipe.tape.push(Event::Alerted(alerts[0].clone()));
    assert_eq!(pipe.tape.engine.state().alerts, []);
    assert_eq!(pipe.model().alerts.len(), 1, "it is remembered");
}

/// Another model with the same deadline does not wait.
#[test]
fn other_models_do_not_wait() {
    let mut pipe = Pipe::new();
    pipe.tape.enrol(&SPEC.replace("router", "other"), 2);
    pipe.dry();
    let other = |pipe: &Pipe| {
        let tally = &pipe.tape.engine.state().models[&"other".parse::<ModelName>().unwrap()].tally;
        (tally.learned, tally.missing)
    };
    let now_ms = pipe.now_ms;
    pipe.tape.decide_for("other", now_ms, None);
    (0..999).for_each(|_| pipe.step(false));
    assert_eq!(other(&pipe), (0, 0));
    (0..2).for_each(|_| pipe.step(false));
    assert_eq!(other(&pipe), (1, 2), "its deadline has passed: the value is assumed");
}

/// Nobody repairs the pipe: after a week no feedback is how things are, and the deadlines count again.
#[test]
fn a_pipe_that_never_comes_back_is_accepted() {
    let mut pipe = Pipe::new();
    pipe.dry();
    let learned = pipe.learned();
    pipe.now_ms += 7 * 86_400_000;
    pipe.tape.push(Event::Tick { now_ms: pipe.now_ms });
    assert!(!pipe.model().supply.has_stopped());
    let last = &pipe.model().alerts.back().unwrap().what;
    assert!(matches!(last, Happening::FeedbackGivenUp { .. }), "{last:?}");
    pipe.tape.push(Event::Tick { now_ms: pipe.now_ms + 1 });
    assert!(pipe.learned() > learned + 1000, "{}", pipe.learned());
    assert_eq!(pipe.tape.engine.state().join.open(), 0);
}

/// What an outage lost for good is closed a deadline after the return, each once, and raises no second alarm.
#[test]
fn what_is_lost_for_good_is_closed_once() {
    let mut pipe = Pipe::new();
    pipe.dry();
    (0..3000).for_each(|_| pipe.step(true));
    let what: Vec<&str> = pipe.model().alerts.iter().map(|a| a.what.as_str()).collect();
    assert_eq!(what, ["feedback_stopped", "feedback_back"]);
    assert_eq!(pipe.model().tally.missing, 2 * 1800);
    assert_eq!(pipe.tape.engine.state().join.open(), 1000);
    assert_eq!(pipe.model().supply.held(), 0);
}

/// Log time stands still where nothing is due: a backlog after a pause in the traffic counts all the same. A piece sent
/// twice waits once.
#[test]
fn a_backlog_after_a_pause_counts() {
    let mut pipe = Pipe::new();
    pipe.dry();
    let late = pipe.open.pop().unwrap();
    pipe.answer(late);
    pipe.answer(late);
    assert_eq!(pipe.model().supply.held(), 1);
    let before = pipe.model().tally.late;
    pipe.now_ms += 60_000;
    for id in pipe.open.split_off(1000) {
        pipe.answer(id);
    }
    assert!(!pipe.model().supply.has_stopped());
    assert_eq!(pipe.model().tally.late, before);
}
