//! `POST /v1/models/{model}/predict` and `/examples`: regressors and classifiers.

use std::{cell::RefCell, sync::Arc};

use axum::extract::{Path, State};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response};
use pawl_domain::{
    DecisionId, Event, Label, Position,
    event::{self, Decided, Outcome},
    examples::{Examples, Head, Rows},
    spec::Kind,
};
use pawl_engine::request_key;
use pawl_model::{Snapshot, context::stored_features, snapshot::Workspace};
use pawl_store::registry::Scope;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    app::App,
    append::append,
    auth::Caller,
    config::Durability,
    decide::{Reserved, check_id, find_kind, flat, nonce, parse, read_context, utf8},
    error::{ApiError, ApiResult, Code},
    feedback::{check_lag, check_number, time},
    http::{json as reply, read_body},
    requests::Known,
};

/// Instances to predict.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PredictRequest<'a> {
    /// Contexts: JSON objects.
    #[serde(borrow)]
    #[schema(value_type = Vec<Object>)]
    pub instances: Vec<&'a RawValue>,
    /// Whether predictions are recorded, so that their labels can follow as feedback; by default they are.
    #[serde(default = "yes")]
    pub log: bool,
    /// The caller's own ids, one an instance: the same one again within a window answers the same prediction.
    #[serde(default)]
    pub request_ids: Option<Vec<String>>,
}

const fn yes() -> bool {
    true
}

/// One labelled example.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Example<'a> {
    /// What was known.
    #[serde(borrow)]
    #[schema(value_type = Object)]
    pub context: &'a RawValue,
    /// What is to be predicted: a number, or a class.
    #[serde(borrow)]
    #[schema(value_type = Object)]
    pub label: &'a RawValue,
    /// Its importance, by default 1.
    #[serde(default)]
    pub weight: Option<f64>,
    /// When it was observed: milliseconds since 1970, or RFC 3339.
    #[serde(default, borrow)]
    #[schema(value_type = Option<String>)]
    pub at: Option<&'a RawValue>,
    /// The caller's own id: the same one again within a window teaches nothing.
    #[serde(default)]
    pub id: Option<String>,
}

/// Labelled examples.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExamplesRequest<'a> {
    /// The examples.
    #[serde(borrow)]
    #[schema(value_type = Vec<Object>)]
    pub examples: Vec<&'a RawValue>,
    /// A flat object, stored with all of them.
    #[serde(default, borrow)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<&'a RawValue>,
}

/// Largest importance of an example.
const WEIGHT_MAX: f64 = 1e6;

thread_local! {
    static WORK: RefCell<Workspace> = RefCell::default();
}

/// A label as JSON: a number, or the name of a class; true and false are names too.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Given {
    Number(f64),
    Class(String),
}

impl Given {
    pub(crate) fn as_label(&self) -> Label<'_> {
        match self {
            Self::Number(y) => Label::Number(*y),
            Self::Class(name) => Label::Class(name),
        }
    }
}

/// Reads a label and checks it against the model.
pub(crate) fn label(snapshot: &Snapshot, raw: &RawValue) -> ApiResult<Given> {
    let spec = &snapshot.spec;
    let given = match serde_json::from_str::<Value>(raw.get()) {
        Ok(Value::Number(n)) => Given::Number(n.as_f64().unwrap_or(f64::NAN)),
        Ok(Value::String(name)) => Given::Class(name),
        Ok(Value::Bool(b)) => Given::Class(b.to_string()),
        _ => {
            let message = format!("`{}` is neither a number nor a class", raw.get());
            return Err(ApiError::field("label", message));
        }
    };
    match (spec.kind(), &given) {
        (Kind::Policy, _) => {
            let message = format!("`{}` is a policy, which learns from `metrics`", spec.name());
            return Err(ApiError::field("label", message));
        }
        (Kind::Regressor, Given::Class(name)) => {
            let message = format!("`{name}` is not a number, which `{}` predicts", spec.name());
            return Err(ApiError::field("label", message));
        }
        (Kind::Regressor, Given::Number(y)) => {
            check_number("label", *y, spec.metrics()[0].bounds)?;
        }
        (Kind::Classifier, _) if spec.label(given.as_label()).is_none() => {
            let shown: Vec<&str> = spec.classes().iter().take(20).map(String::as_str).collect();
            let message = format!(
                "`{}` is not a class of `{}`; it has {}",
                raw.get(),
                spec.name(),
                shown.join(", ")
            );
            return Err(ApiError::field("label", message));
        }
        (Kind::Classifier, _) => {}
    }
    Ok(given)
}

/// A recorded prediction as JSON.
pub(crate) fn describe(metrics: &[(String, f64)]) -> Value {
    if let [(name, value)] = metrics
        && name == "prediction"
    {
        return json!({"kind": "value", "value": value});
    }
    let classes: Vec<(&str, f64)> =
        metrics.iter().filter_map(|(n, p)| Some((n.strip_prefix("prediction=")?, *p))).collect();
    let best = classes.iter().fold(None, |best: Option<(&str, f64)>, &(class, p)| match best {
        Some((_, most)) if p <= most => best,
        _ => Some((class, p)),
    });
    let (class, probability) = best.unwrap_or_default();
    let all: Map<String, Value> =
        classes.iter().map(|(c, p)| ((*c).to_owned(), json!(p))).collect();
    json!({"kind": "class", "class": class, "probability": probability, "probabilities": all})
}

/// Predictions that are recorded together.
#[derive(Default)]
struct Group {
    events: Vec<Event>,
    /// The places held for their ids.
    reserved: Vec<Option<Reserved>>,
}

impl Group {
    /// Puts them into the log. A task of its own: a caller that hangs up and asks again gets these predictions, not
    /// others. Returns their ids.
    async fn record(self, app: Arc<App>) -> ApiResult<Vec<DecisionId>> {
        if self.events.is_empty() {
            return Ok(Vec::new());
        }
        let recording = tokio::spawn(async move {
            let unavailable = |why| ApiError::new(Code::LogUnavailable, why);
            let places = append(&app, &self.events).await.map_err(unavailable)?;
            let mut ids = Vec::with_capacity(places.len());
            for ((event, place), reserved) in self.events.iter().zip(&places).zip(self.reserved) {
                let Event::Decided(d) = event else { continue };
                let id = d.id(Position { partition: 0, offset: place.offset });
                if let Some(reserved) = reserved {
                    reserved.complete(id);
                }
                ids.push(id);
            }
            if app.config().durability == Durability::Disk
                && let Some(last) = places.last()
            {
                app.on_disk(last.end).await?;
            }
            Ok(ids)
        });
        recording.await.map_err(ApiError::internal)?
    }
}

/// What becomes of one instance.
enum Instance {
    /// It is recorded as this event of the group.
    New(usize),
    /// It was predicted, and is not recorded.
    Unlogged(Value),
    /// It was answered before.
    Known(DecisionId, Value),
    /// It could not be.
    Refused(Value),
}

fn predicted(
    app: &App,
    snapshot: &Snapshot,
    caller: &Caller,
    text: &str,
    request_id: Option<&String>,
) -> ApiResult<Decided> {
    let spec = &snapshot.spec;
    let context = read_context(app, spec, text)?;
    let (missing, unknown) = context.gaps(spec);
    if missing + unknown > 0 {
        app.metrics().missing.inc_by(missing as u64);
        app.metrics().unknown.inc_by(unknown as u64);
    }
    let prediction = WORK.with_borrow_mut(|work| snapshot.predict(&context, work));
    Ok(Decided {
        epoch: app.log().epoch(),
        nonce: nonce()?,
        at_ms: app.now_ms(),
        model: spec.name().clone(),
        version: snapshot.version.clone(),
        learner: snapshot.learner,
        snapshot: snapshot.position,
        clock: snapshot.decisions,
        context: context.logged(spec, &[]).into_owned(),
        eligible: vec![0],
        removed: Vec::new(),
        probabilities: vec![1.0],
        chosen: 0,
        outcome: Outcome::Ok,
        reason: None,
        caller: event::Caller {
            principal: caller.principal(),
            request_id: request_id.cloned(),
            body_hash: request_id.map(|_| app.request_hash(text)),
            ..event::Caller::default()
        },
        metrics: prediction.named(spec),
    })
}

fn instance(
    app: &Arc<App>,
    snapshot: &Snapshot,
    caller: &Caller,
    text: &str,
    request_id: Option<&String>,
    group: &mut Group,
    log: bool,
) -> ApiResult<Instance> {
    check_id("request_ids", request_id.map(String::as_str))?;
    let mut reserved = None;
    if let (Some(id), true) = (request_id, log) {
        let key = request_key(snapshot.spec.name(), id);
        match app.requests().reserve(key, app.now_ms()) {
            Known::New => reserved = Some(Reserved::new(app.clone(), key)),
            Known::InProgress => {
                let detail = "a request with this `request_id` is being answered";
                return Err(ApiError::new(Code::RequestInProgress, detail));
            }
            Known::Answered(decision) => {
                let entry = app.log().read(decision.position.offset).map_err(ApiError::internal)?;
                let Event::Decided(d) = entry.event else {
                    let detail = "`request_ids`: it was used for an example; use a new one";
                    return Err(ApiError::new(Code::RequestIdReused, detail));
                };
                if !app.answered(&d, Some(id), text) {
                    let detail = "`request_ids`: it was used for another instance; use a new one";
                    return Err(ApiError::new(Code::RequestIdReused, detail));
                }
                return Ok(Instance::Known(decision, describe(&d.metrics)));
            }
        }
    }
    let decided = predicted(app, snapshot, caller, text, request_id)?;
    if !log {
        return Ok(Instance::Unlogged(describe(&decided.metrics)));
    }
    group.events.push(Event::Decided(decided));
    group.reserved.push(reserved);
    Ok(Instance::New(group.events.len() - 1))
}

/// Predict for one or several instances; each has its own prediction or error.
#[utoipa::path(
    post, path = "/v1/models/{model}/predict", request_body = PredictRequest,
    params(("model" = String, Path, description = "name, or name@version")),
    responses((status = 200, description = "model, version, position, predictions, and decision_ids where they are logged"))
)]
pub(crate) async fn predict(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let _in_flight = app.enter()?;
    let snapshot = find_kind(&app, &model, false)?;
    caller.may(Scope::Decide, Some(snapshot.spec.name().as_str()))?;
    let body = read_body(&app, body).await?;
    let request: PredictRequest<'_> = parse(utf8(&body)?)?;
    let n = request.instances.len();
    app.check_batch("instances", n)?;
    app.quotas().take(snapshot.spec.name().as_str(), n, body.len())?;
    let ids = request.request_ids.as_ref();
    if ids.is_some_and(|ids| ids.len() != n) {
        let message = format!("give one an instance: {n}, not {}", ids.map_or(0, Vec::len));
        return Err(ApiError::field("request_ids", message));
    }
    if ids.is_some() && !request.log {
        return Err(ApiError::field("request_ids", "nothing is remembered with `log = false`"));
    }
    let mut group = Group::default();
    let mut found = Vec::with_capacity(n);
    for (i, text) in request.instances.iter().enumerate() {
        let id = ids.map(|ids| &ids[i]);
        let one = instance(&app, &snapshot, &caller, text.get(), id, &mut group, request.log);
        let refused =
            |e: ApiError| Instance::Refused(json!({"kind": "error", "error": e.member()}));
        found.push(one.unwrap_or_else(refused));
    }
    // What was served is in the events: kept for the reply.
    let served: Vec<Value> = group
        .events
        .iter()
        .map(|e| if let Event::Decided(d) = e { describe(&d.metrics) } else { Value::Null })
        .collect();
    let recorded = group.record(app.clone()).await?;
    let (mut predictions, mut decision_ids) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for one in found {
        let (prediction, id) = match one {
            Instance::Refused(error) => (error, None),
            Instance::Unlogged(prediction) => (prediction, None),
            Instance::Known(id, prediction) => (prediction, Some(id)),
            Instance::New(at) => (served[at].clone(), recorded.get(at).copied()),
        };
        predictions.push(prediction);
        decision_ids.push(id.map(|id| id.to_string()));
    }
    let mut value = json!({
        "model": snapshot.spec.name(),
        "version": snapshot.version.to_string(),
        "position": Position { partition: 0, offset: snapshot.position }.to_string(),
        "predictions": predictions,
    });
    if request.log {
        value["decision_ids"] = json!(decision_ids);
    }
    Ok(reply(200, value.to_string()))
}

fn row(app: &App, snapshot: &Snapshot, text: &str, rows: &mut Rows) -> ApiResult<()> {
    let body: Example<'_> = parse(text)?;
    check_id("id", body.id.as_deref())?;
    let given = label(snapshot, body.label)?;
    let weight = body.weight.unwrap_or(1.0);
    if !(0.0..=WEIGHT_MAX).contains(&weight) {
        let message = format!("`{weight}` must be from 0 to {WEIGHT_MAX:e}");
        return Err(ApiError::field("weight", message));
    }
    let spec = &snapshot.spec;
    let context = read_context(app, spec, body.context.get())?;
    let at_ms = time("at", body.at)?;
    let head = Head { label: given.as_label(), weight, at_ms, id: body.id.as_deref() };
    let values: Vec<_> = context.stored(spec).collect();
    rows.push(&head, values.iter().map(|v| &**v));
    Ok(())
}

/// Teach with labelled examples.
#[utoipa::path(
    post, path = "/v1/models/{model}/examples", request_body = ExamplesRequest,
    params(("model" = String, Path, description = "name")),
    responses((status = 202, description = "accepted, rejected, position"))
)]
pub(crate) async fn examples(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let _in_flight = app.enter()?;
    let snapshot = find_kind(&app, &model, false)?;
    caller.may(Scope::Feedback, Some(snapshot.spec.name().as_str()))?;
    check_lag(&app)?;
    let body = read_body(&app, body).await?;
    let request: ExamplesRequest<'_> = parse(utf8(&body)?)?;
    app.check_batch("examples", request.examples.len())?;
    app.quotas().take(snapshot.spec.name().as_str(), request.examples.len(), body.len())?;
    let mut rows = Rows::default();
    let mut rejected = Vec::new();
    for (index, text) in request.examples.iter().enumerate() {
        if let Err(e) = row(&app, &snapshot, text.get(), &mut rows) {
            rejected.push(json!({"index": index, "error": e.member()}));
        }
    }
    let accepted = rows.len();
    let mut end = app.log().head();
    if accepted > 0 {
        let event = Event::Examples(Examples {
            model: snapshot.spec.name().clone(),
            received_ms: app.now_ms(),
            principal: caller.principal(),
            metadata: flat(request.metadata)?,
            features: stored_features(&snapshot.spec).map(str::to_owned).collect(),
            rows,
        });
        let unavailable = |why| ApiError::new(Code::LogUnavailable, why);
        let places = append(&app, &[event]).await.map_err(unavailable)?;
        end = places.last().map_or(end, |p| p.end);
        app.on_disk(end).await?;
    }
    let position = Position { partition: 0, offset: end }.to_string();
    let value = json!({"accepted": accepted, "rejected": rejected, "position": position});
    Ok(reply(202, value.to_string()))
}
