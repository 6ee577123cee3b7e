//! What Prometheus sees.

use pawl_driver::Known;
use pawl_engine::{Status, Tally};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::app::App;

/// The label of a model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Model {
    model: String,
}

/// The labels of a result.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    model: String,
    result: String,
}

/// Counters that requests touch. What the fold knows is read from it when asked.
#[derive(Debug)]
pub struct Metrics {
    /// Seconds to decide, by the server's clock, without reading and writing the socket.
    pub decide_seconds: Histogram,
    /// Requests that got a problem instead of an answer.
    pub problems: Counter,
    /// Declared features that were absent from contexts.
    pub missing: Counter,
    /// Declared features that did not fit their declaration.
    pub unknown: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            decide_seconds: Histogram::new(exponential_buckets(16e-6, 2.0, 16)),
            problems: Counter::default(),
            missing: Counter::default(),
            unknown: Counter::default(),
        }
    }
}

fn results(tally: &Tally) -> [(&'static str, u64); 6] {
    [
        ("learned", tally.learned),
        ("duplicate", tally.duplicate),
        ("late", tally.late),
        ("not_used", tally.not_used),
        ("undeclared", tally.undeclared),
        ("missing", tally.missing),
    ]
}

impl Metrics {
    /// The exposition text.
    ///
    /// # Errors
    /// If the fold does not answer.
    pub fn text(&self, app: &App) -> Result<String, String> {
        let mut registry = Registry::with_prefix("pawl");
        registry.register(
            "decide_seconds",
            "Seconds to decide, without the socket",
            self.decide_seconds.clone(),
        );
        registry.register("problems", "Requests answered with a problem", self.problems.clone());
        registry.register(
            "features_missing",
            "Declared features absent from contexts",
            self.missing.clone(),
        );
        registry.register(
            "features_unknown",
            "Declared features of another type",
            self.unknown.clone(),
        );
        let gauge = |registry: &mut Registry, name: &str, help: &str, value: u64| {
            let gauge = Gauge::<i64>::default();
            gauge.set(value.cast_signed());
            registry.register(name, help, gauge);
        };
        let log = app.log();
        gauge(&mut registry, "log_bytes", "Bytes of the log that are kept", log.bytes());
        gauge(
            &mut registry,
            "log_unsynced_bytes",
            "Bytes not yet on the disk",
            log.head() - log.synced().min(log.head()),
        );
        gauge(
            &mut registry,
            "fold_lag_bytes",
            "Bytes of the log not yet folded",
            app.live().lag_bytes(),
        );
        gauge(&mut registry, "in_flight", "Requests being answered", app.in_flight() as u64);
        gauge(
            &mut registry,
            "learning_stopped",
            "1 if the fold has stopped",
            u64::from(app.live().stopped().is_some()),
        );
        of_models(app, &mut registry)?;
        let mut text = String::new();
        encode(&mut text, &registry).map_err(|e| e.to_string())?;
        Ok(text)
    }
}

/// What the fold knows of each model.
fn of_models(app: &App, registry: &mut Registry) -> Result<(), String> {
    let decisions = Family::<Model, Counter>::default();
    let feedback = Family::<Outcome, Counter>::default();
    let examples = Family::<Model, Gauge>::default();
    let quarantined = Family::<Model, Gauge>::default();
    let stopped = Family::<Model, Gauge>::default();
    let frozen = Family::<Model, Gauge>::default();
    let holding = Family::<Model, Gauge>::default();
    let went_back = Family::<Model, Counter>::default();
    let drifts = Family::<Model, Counter>::default();
    for name in app.live().published().names() {
        let found = app.live().model(name.clone()).map_err(|e| e.to_string())?;
        let Some(Known { model, .. }) = found else { continue };
        let label = Model { model: name.to_string() };
        decisions.get_or_create_owned(&label).inc_by(model.tally.decisions);
        for (result, n) in results(&model.tally) {
            let label = Outcome { model: name.to_string(), result: result.to_owned() };
            feedback.get_or_create_owned(&label).inc_by(n);
        }
        let dry = model.supply.stopped_since_ms.is_some();
        stopped.get_or_create_owned(&label).set(i64::from(dry));
        if let Some(learner) = model.production() {
            examples.get_or_create_owned(&label).set(learner.examples().cast_signed());
            let failed = matches!(learner.status(), Status::Quarantined { .. });
            quarantined.get_or_create_owned(&label).set(i64::from(failed));
            let frozen_now = *learner.status() == Status::Frozen;
            frozen.get_or_create_owned(&label).set(i64::from(frozen_now));
            let waits = i64::from(learner.monitors().any(|(_, m)| m.is_holding()) || dry);
            holding.get_or_create_owned(&label).set(waits);
            for (_, monitor) in learner.monitors() {
                went_back.get_or_create_owned(&label).inc_by(monitor.went_back);
                drifts.get_or_create_owned(&label).inc_by(monitor.drifts);
            }
        }
    }
    registry.register("decisions", "Decisions folded", decisions);
    registry.register("feedback", "Metric values folded, by what became of them", feedback);
    registry.register("learner_examples", "Examples the learner has taken", examples);
    registry.register("learner_quarantined", "1 if the learner is quarantined", quarantined);
    registry.register("feedback_stopped", "1 while hardly any decision has feedback", stopped);
    registry.register("learner_frozen", "1 if the learner was told not to learn", frozen);
    registry.register(
        "learner_holding",
        "1 while it only predicts: a monitor or missing feedback lets it wait",
        holding,
    );
    registry.register("learner_went_back", "Times the monitor undid a batch", went_back);
    registry.register("learner_drifts", "Times the loss has risen for good", drifts);
    Ok(())
}
