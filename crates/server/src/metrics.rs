//! What Prometheus sees. The names, types and labels are a contract: `docs/metrics.md` lists them, a test compares.

use std::sync::atomic::AtomicU64;

use pawl_driver::Known;
use pawl_engine::{ActionTally, Model, Status, Tally};
use pawl_judge::Rules;
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

/// Most actions of a model that have labels of their own, those with the most decisions.
const ACTIONS_MAX: usize = 100;

/// Every metric: its name without `pawl_` and suffix, its type, its labels, what it is.
pub const CONTRACT: &[(&str, &str, &str, &str)] = &[
    ("build_info", "gauge", "version", "1; the version of the binary"),
    ("decide_seconds", "histogram", "", "Seconds to decide, without the socket"),
    ("problems", "counter", "", "Requests answered with a problem"),
    ("features_missing", "counter", "", "Declared features absent from contexts"),
    ("features_unknown", "counter", "", "Declared features of another type"),
    ("in_flight", "gauge", "", "Requests being answered"),
    ("log_bytes", "gauge", "", "Bytes of the log that are kept"),
    ("log_unsynced_bytes", "gauge", "", "Bytes not yet on the disk"),
    ("log_sync_seconds", "histogram", "", "Seconds that a sync of the log took"),
    ("fold_lag_bytes", "gauge", "", "Bytes of the log not yet folded"),
    ("checkpoint_age_seconds", "gauge", "", "Since the last checkpoint was written, or the start"),
    (
        "tls_stale",
        "gauge",
        "",
        "1 while the files of `tls` cannot be used and the certificate before them is served",
    ),
    (
        "tls_not_after_seconds",
        "gauge",
        "",
        "Unix time at which the certificate ends; 0 without TLS",
    ),
    ("learning_stopped", "gauge", "", "1 if the fold has stopped"),
    ("snapshot_age_seconds", "gauge", "model", "Since the snapshot that answers was published"),
    ("decisions", "counter", "model", "Decisions folded"),
    ("feedback", "counter", "model, result", "Metric values folded, by what became of them"),
    ("feedback_share", "gauge", "model", "Of late, the share of decisions with feedback"),
    ("feedback_stopped", "gauge", "model", "1 while hardly any decision has feedback"),
    ("learner_examples", "gauge", "model", "Examples the learner has taken"),
    ("learner_quarantined", "gauge", "model", "1 if the learner is quarantined"),
    ("learner_frozen", "gauge", "model", "1 if the learner was told not to learn"),
    (
        "learner_holding",
        "gauge",
        "model",
        "1 while it only predicts: a monitor or missing feedback lets it wait",
    ),
    ("learner_went_back", "counter", "model", "Times the monitor undid a batch"),
    ("learner_drifts", "counter", "model", "Times the loss has risen for good"),
    (
        "floor_released",
        "gauge",
        "model, metric",
        "1 while the policy may decide, 0 while the floor holds",
    ),
    (
        "floor_share",
        "gauge",
        "model, metric",
        "The share of traffic that the floor lets the policy decide",
    ),
    ("action_decisions", "counter", "model, action", "Decisions that chose the action"),
    (
        "action_metric_values",
        "counter",
        "model, action, metric",
        "Values of the metric where the action was taken",
    ),
    ("action_metric_mean", "gauge", "model, action, metric", "Their mean"),
];

/// `docs/metrics.md`.
#[cfg(test)]
fn document() -> String {
    let mut text = format!(
        "# Metrics\n\n`GET /metrics` answers in Prometheus' text format; with keys, it needs the scope `read` for every model. Names, types and \
         labels change only with a new major version. A counter's name ends in `_total` there. Labels of actions: the {ACTIONS_MAX} of a \
         model with the most decisions. `ops/alerts.yml` has alerts on them, `ops/grafana.json` a dashboard.\n\n\
         | metric | type | labels | |\n| --- | --- | --- | --- |\n"
    );
    for (name, kind, labels, help) in CONTRACT {
        let suffix = if *kind == "counter" { "_total" } else { "" };
        text.push_str(&format!("| `pawl_{name}{suffix}` | {kind} | {labels} | {help} |\n"));
    }
    text
}

/// What a metric is.
fn help(name: &str) -> &'static str {
    CONTRACT.iter().find(|(known, ..)| *known == name).map_or("", |(.., help)| help)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBuild {
    version: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfModel {
    model: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    model: String,
    result: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFloor {
    model: String,
    metric: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAction {
    model: String,
    action: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfActionMetric {
    model: String,
    action: String,
    metric: String,
}

type Number = Gauge<f64, AtomicU64>;

/// Counters that requests touch. What the fold knows is read from it when asked.
#[derive(Debug)]
pub struct Metrics {
    /// Seconds to decide, by the server's clock, without reading and writing the socket.
    pub decide_seconds: Histogram,
    /// Seconds that a sync of the log took.
    pub sync_seconds: Histogram,
    /// Requests that got a problem instead of an answer.
    pub problems: Counter,
    /// Declared features that were absent from contexts.
    pub missing: Counter,
    /// Declared features that did not fit their declaration.
    pub unknown: Counter,
    /// 1 while the files of the certificate cannot be used.
    pub tls_stale: Gauge,
    /// Unix time in seconds at which the certificate ends.
    pub tls_not_after: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            decide_seconds: Histogram::new(exponential_buckets(16e-6, 2.0, 16)),
            sync_seconds: Histogram::new(exponential_buckets(64e-6, 2.0, 16)),
            problems: Counter::default(),
            missing: Counter::default(),
            unknown: Counter::default(),
            tls_stale: Gauge::default(),
            tls_not_after: Gauge::default(),
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
        let build = Family::<OfBuild, Gauge>::default();
        build.get_or_create_owned(&OfBuild { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("build_info", help("build_info"), build);
        for (name, histogram) in
            [("decide_seconds", &self.decide_seconds), ("log_sync_seconds", &self.sync_seconds)]
        {
            registry.register(name, help(name), histogram.clone());
        }
        for (name, counter) in [
            ("problems", &self.problems),
            ("features_missing", &self.missing),
            ("features_unknown", &self.unknown),
        ] {
            registry.register(name, help(name), counter.clone());
        }
        for (name, gauge) in
            [("tls_stale", &self.tls_stale), ("tls_not_after_seconds", &self.tls_not_after)]
        {
            registry.register(name, help(name), gauge.clone());
        }
        let log = app.log();
        for (name, value) in [
            ("log_bytes", log.bytes()),
            ("log_unsynced_bytes", log.head() - log.synced().min(log.head())),
            ("fold_lag_bytes", app.live().lag_bytes()),
            ("in_flight", app.in_flight() as u64),
            ("learning_stopped", u64::from(app.live().stopped().is_some())),
        ] {
            let gauge = Gauge::<i64>::default();
            gauge.set(value.cast_signed());
            registry.register(name, help(name), gauge);
        }
        let age = Number::default();
        age.set(app.live().checkpoint_age().as_secs_f64());
        registry.register("checkpoint_age_seconds", help("checkpoint_age_seconds"), age);
        let mut families = Families::default();
        for name in app.live().published().names() {
            let found = app.live().model(name.clone()).map_err(|e| e.to_string())?;
            let Some(Known { model, .. }) = found else { continue };
            let age = app.live().published().age(name.as_str()).unwrap_or_default();
            families.add(&name.to_string(), age.as_secs_f64(), &model);
        }
        families.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).map_err(|e| e.to_string())?;
        Ok(text)
    }
}

/// What the fold knows of each model.
#[derive(Default)]
struct Families {
    snapshot_age: Family<OfModel, Number>,
    decisions: Family<OfModel, Counter>,
    feedback: Family<OfResult, Counter>,
    share: Family<OfModel, Number>,
    stopped: Family<OfModel, Gauge>,
    examples: Family<OfModel, Gauge>,
    quarantined: Family<OfModel, Gauge>,
    frozen: Family<OfModel, Gauge>,
    holding: Family<OfModel, Gauge>,
    went_back: Family<OfModel, Counter>,
    drifts: Family<OfModel, Counter>,
    floor_released: Family<OfFloor, Gauge>,
    floor_share: Family<OfFloor, Number>,
    action_decisions: Family<OfAction, Counter>,
    action_values: Family<OfActionMetric, Counter>,
    action_mean: Family<OfActionMetric, Number>,
}

impl Families {
    fn add(&mut self, name: &str, snapshot_age: f64, model: &Model) {
        let label = OfModel { model: name.to_owned() };
        self.snapshot_age.get_or_create_owned(&label).set(snapshot_age);
        self.decisions.get_or_create_owned(&label).inc_by(model.tally.decisions);
        for (result, n) in results(&model.tally) {
            let label = OfResult { model: name.to_owned(), result: result.to_owned() };
            self.feedback.get_or_create_owned(&label).inc_by(n);
        }
        let dry = model.supply.stopped_since_ms.is_some();
        self.share.get_or_create_owned(&label).set(model.supply.recent);
        self.stopped.get_or_create_owned(&label).set(i64::from(dry));
        let Some(learner) = model.production() else { return };
        self.examples.get_or_create_owned(&label).set(learner.examples().cast_signed());
        let failed = matches!(learner.status(), Status::Quarantined { .. });
        self.quarantined.get_or_create_owned(&label).set(i64::from(failed));
        let frozen = *learner.status() == Status::Frozen;
        self.frozen.get_or_create_owned(&label).set(i64::from(frozen));
        let waits = learner.monitors().any(|(_, m)| m.is_holding()) || dry;
        self.holding.get_or_create_owned(&label).set(i64::from(waits));
        for (_, monitor) in learner.monitors() {
            self.went_back.get_or_create_owned(&label).inc_by(monitor.went_back);
            self.drifts.get_or_create_owned(&label).inc_by(monitor.drifts);
        }
        for keep in learner.spec().floors() {
            let metric = learner.spec().metrics()[keep.metric].name.clone();
            let Some(kept) = model.floors.get(&metric) else { continue };
            let share = kept.floor.share(Rules { keep: keep.part, bounds: keep.bounds });
            let label = OfFloor { model: name.to_owned(), metric };
            self.floor_released.get_or_create_owned(&label).set(i64::from(kept.floor.released));
            self.floor_share.get_or_create_owned(&label).set(share);
        }
        let mut actions: Vec<_> = model.by_action.iter().collect();
        actions.sort_by_key(|(_, tally)| core::cmp::Reverse(tally.decisions));
        for (action, tally) in actions.into_iter().take(ACTIONS_MAX) {
            self.add_action(name, action.as_str(), tally);
        }
    }

    fn add_action(&mut self, model: &str, action: &str, tally: &ActionTally) {
        let label = OfAction { model: model.to_owned(), action: action.to_owned() };
        self.action_decisions.get_or_create_owned(&label).inc_by(tally.decisions);
        for (metric, count) in &tally.metrics {
            let label = OfActionMetric {
                model: model.to_owned(),
                action: action.to_owned(),
                metric: metric.clone(),
            };
            self.action_values.get_or_create_owned(&label).inc_by(count.n as u64);
            self.action_mean.get_or_create_owned(&label).set(count.sum / count.n.max(1.0));
        }
    }

    fn register(self, registry: &mut Registry) {
        macro_rules! register {
            ($($field:ident $name:literal;)*) => {
                $(registry.register($name, help($name), self.$field);)*
            };
        }
        register! {
            snapshot_age "snapshot_age_seconds";
            decisions "decisions";
            feedback "feedback";
            share "feedback_share";
            stopped "feedback_stopped";
            examples "learner_examples";
            quarantined "learner_quarantined";
            frozen "learner_frozen";
            holding "learner_holding";
            went_back "learner_went_back";
            drifts "learner_drifts";
            floor_released "floor_released";
            floor_share "floor_share";
            action_decisions "action_decisions";
            action_values "action_metric_values";
            action_mean "action_metric_mean";
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_document_lists_the_contract() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        if std::env::var_os("PAWL_WRITE_DOCS").is_some() {
            std::fs::write(&path, super::document()).unwrap();
        }
        let file = std::fs::read_to_string(path).unwrap();
        assert_eq!(file, super::document(), "run the tests with PAWL_WRITE_DOCS=1");
    }
}
