//! `POST /v1/feedback`: checked, on the disk, acknowledged.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use pawl_domain::{
    CheckedSpec, DecisionId, Event, Position,
    event::{Feedback, Target},
    spec::{Kind, LABEL},
    suggest,
};
use pawl_engine::SESSION_DECISIONS;
use pawl_store::{LogError, registry::Scope};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    app::App,
    append::append,
    auth::Caller,
    decide::{check_id, flat, model_name, parse, utf8},
    error::{ApiError, ApiResult, Code},
    http::json,
    predict::{Given, label},
};

/// One piece of feedback.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackEvent<'a> {
    /// The decision, by Pawl's id.
    #[serde(default, borrow)]
    #[schema(value_type = Option<String>)]
    pub decision_id: Option<Cow<'a, str>>,
    /// The decision's model, with `request_id` or `session_id`.
    #[serde(default, borrow)]
    #[schema(value_type = Option<String>)]
    pub model: Option<Cow<'a, str>>,
    /// The decision, by the caller's id.
    #[serde(default)]
    pub request_id: Option<String>,
    /// The decisions of a session, as the model's `[session]` credits them.
    #[serde(default)]
    pub session_id: Option<String>,
    /// Values by metric name. Each metric of a decision is taken once.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub metrics: std::collections::BTreeMap<String, f64>,
    /// A label: for regressors and classifiers.
    #[serde(default, borrow)]
    #[schema(value_type = Option<Object>)]
    pub label: Option<&'a RawValue>,
    /// The action that was really taken, where it was another than the chosen.
    #[serde(default, borrow)]
    #[schema(value_type = Option<String>)]
    pub action_taken: Option<Cow<'a, str>>,
    /// The decision was not acted upon: it teaches nothing.
    #[serde(default)]
    pub not_used: bool,
    /// When it was observed: milliseconds since 1970, or RFC 3339.
    #[serde(default, borrow)]
    #[schema(value_type = Option<String>)]
    pub at: Option<&'a RawValue>,
    /// A flat object.
    #[serde(default, borrow)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<&'a RawValue>,
}

/// Several pieces of feedback.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackRequest<'a> {
    /// The pieces. A single one may also be the body itself.
    #[serde(borrow)]
    #[schema(value_type = Vec<Object>)]
    pub events: Vec<&'a RawValue>,
}

/// The acknowledgement: everything accepted is on the disk.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub struct FeedbackReply {
    /// How many pieces were taken.
    pub accepted: usize,
    /// Those that were not, each with its index and error.
    #[schema(value_type = Vec<Object>)]
    pub rejected: Vec<serde_json::Value>,
    /// A decide reply with this position or a later one has learned from them.
    pub position: String,
}

/// Larger values of a metric are taken for mistakes.
const VALUE_MAX: f64 = 1e15;

/// A time in milliseconds since 1970 or RFC 3339.
pub(crate) fn time(field: &str, raw: Option<&RawValue>) -> ApiResult<Option<u64>> {
    let Some(raw) = raw else { return Ok(None) };
    let parsed = match serde_json::from_str::<serde_json::Value>(raw.get()) {
        Ok(serde_json::Value::Null) => return Ok(None),
        Ok(serde_json::Value::Number(n)) => n.as_u64(),
        Ok(serde_json::Value::String(s)) => {
            s.parse::<jiff::Timestamp>().ok().and_then(|t| u64::try_from(t.as_millisecond()).ok())
        }
        _ => None,
    };
    let rule = || format!("{} is not a time: send milliseconds since 1970 or RFC 3339", raw.get());
    parsed.map(Some).ok_or_else(|| ApiError::field(field, rule()))
}

/// Checks that a value is plausible and within its bounds.
pub(crate) fn check_number(field: &str, value: f64, bounds: Option<[f64; 2]>) -> ApiResult<()> {
    if value.is_nan() || value.abs() > VALUE_MAX {
        let message = format!("{value} is larger than {VALUE_MAX:e}; check its unit");
        return Err(ApiError::field(field, message));
    }
    match bounds {
        Some([low, high]) if !(low..=high).contains(&value) => {
            Err(ApiError::field(field, format!("{value} is outside its bounds, {low} to {high}")))
        }
        _ => Ok(()),
    }
}

/// Refuses what would only make the fold fall further behind.
pub(crate) fn check_lag(app: &App) -> ApiResult<()> {
    if let Some(stopped) = app.live().stopped() {
        return Err(ApiError::new(Code::LogUnavailable, stopped.to_string()));
    }
    let (lag, most) = (app.live().lag_bytes(), app.config().limits.lag_bytes);
    if lag > most {
        let detail =
            format!("{lag} bytes of the log wait to be folded, `limits.lag_bytes` allows {most}");
        return Err(ApiError::new(Code::Lagging, detail));
    }
    Ok(())
}

/// Checks values against the metrics that `spec` declares.
pub(crate) fn check_metrics<'m>(
    spec: &CheckedSpec,
    metrics: impl Iterator<Item = (&'m String, &'m f64)>,
) -> ApiResult<()> {
    for (name, value) in metrics {
        let known = || spec.metrics().iter().map(|m| m.name.as_str());
        let Some(m) = spec.metric(name) else {
            let hint = suggest::nearest(name, known()).map_or_else(
                || format!("it has {}", known().collect::<Vec<_>>().join(", ")),
                |n| format!("did you mean `{n}`?"),
            );
            return Err(ApiError::field(
                "metrics",
                format!("`{name}` is not a metric of `{}`; {hint}", spec.name()),
            ));
        };
        check_number(&format!("metrics.{name}"), *value, spec.metrics()[m].bounds)?;
    }
    Ok(())
}

/// The spec that the feedback's decision was made under, as far as it is known.
fn about(app: &App, caller: &Caller, target: &Target) -> ApiResult<Arc<pawl_model::Snapshot>> {
    let name = match target {
        Target::Request { model, .. } => model.clone(),
        Target::Decision(id) => {
            let unknown = || {
                ApiError::new(
                    Code::DecisionNotFound,
                    format!("`decision_id`: there is no decision `{id}`"),
                )
            };
            match app.log().read(id.position.offset) {
                Ok(entry) => match entry.event {
                    Event::Decided(d) if d.id(id.position) == *id => d.model,
                    _ => return Err(unknown()),
                },
                Err(LogError::Absent(_) | LogError::UnknownKind(_)) => return Err(unknown()),
                Err(e) => return Err(ApiError::internal(e)),
            }
        }
    };
    caller.may(Scope::Feedback, Some(name.as_str()))?;
    app.live().published().get(name.as_str()).ok_or_else(|| ApiError::no_model(name.as_str()))
}

/// The decisions that a piece is for.
fn targets(app: &App, caller: &Caller, body: &FeedbackEvent<'_>) -> ApiResult<Vec<Target>> {
    check_id("request_id", body.request_id.as_deref())?;
    check_id("session_id", body.session_id.as_deref())?;
    match (&body.decision_id, &body.model, &body.request_id, &body.session_id) {
        (Some(id), None, None, None) => {
            let id = id.parse::<DecisionId>().map_err(|e| ApiError::field("decision_id", e))?;
            Ok(vec![Target::Decision(id)])
        }
        (None, Some(model), Some(request_id), None) => {
            let (model, request_id) = (model_name(model)?, request_id.clone());
            Ok(vec![Target::Request { model, request_id }])
        }
        (None, Some(model), None, Some(session_id)) => {
            let model = model_name(model)?;
            caller.may(Scope::Feedback, Some(model.as_str()))?;
            let snapshot = app.live().published().get(model.as_str());
            let snapshot = snapshot.ok_or_else(|| ApiError::no_model(model.as_str()))?;
            let Some(session) = snapshot.spec.session() else {
                let message = format!(
                    "`{model}` has no `[session]` in its spec; add it, or send `decision_id`"
                );
                return Err(ApiError::field("session_id", message));
            };
            let decisions = app.sessions().credited(&model, session_id, session.credit)?;
            Ok(decisions.into_iter().map(Target::Decision).collect())
        }
        _ => {
            let message =
                "give `decision_id`, or `model` with `request_id` or `session_id`, and not both";
            Err(ApiError::field("decision_id", message))
        }
    }
}

/// Checks one piece and makes its events: one a decision that it is for.
fn check(app: &App, caller: &Caller, text: &str) -> ApiResult<Vec<Event>> {
    let body: FeedbackEvent<'_> = parse(text)?;
    let mut targets = targets(app, caller, &body)?;
    // Of a session the oldest may be gone from the log.
    let Some(newest) = targets.pop() else { return Ok(Vec::new()) };
    let snapshot = about(app, caller, &newest)?;
    app.quotas().take(snapshot.spec.name().as_str(), 1, text.len())?;
    targets.push(newest);
    let mut metrics: Vec<(String, f64)> = body.metrics.into_iter().collect();
    if let Some(raw) = body.label {
        // A class is part of the name: its number may differ between versions.
        metrics.push(match label(&snapshot, raw)? {
            Given::Number(y) => (LABEL.to_owned(), y),
            Given::Class(name) => (format!("{LABEL}={name}"), 1.0),
        });
    }
    if body.not_used && !metrics.is_empty() {
        let message =
            "a decision that was not used teaches nothing: leave `metrics` and `label` out";
        return Err(ApiError::field("not_used", message));
    }
    if snapshot.spec.kind() == Kind::Policy {
        if metrics.is_empty() && !body.not_used {
            return Err(ApiError::field("metrics", "give at least one metric, or `not_used`"));
        }
        check_metrics(&snapshot.spec, metrics.iter().map(|(n, v)| (n, v)))?;
    } else if body.label.is_none() && !body.not_used || metrics.len() > 1 {
        let message = format!("`{}` learns from a `label`; give one", snapshot.spec.name());
        return Err(ApiError::field("label", message));
    }
    let action_taken = match &body.action_taken {
        None => None,
        Some(name) => {
            let known = snapshot.spec.actions().iter().map(|a| a.name.as_str());
            if snapshot.spec.action(name).is_none() {
                let hint = suggest::nearest(name, known).map_or_else(
                    || "see the model's `actions`".to_owned(),
                    |n| format!("did you mean `{n}`?"),
                );
                let message =
                    format!("`{name}` is not an action of `{}`; {hint}", snapshot.spec.name());
                return Err(ApiError::field("action_taken", message));
            }
            Some(name.parse().map_err(|e| ApiError::field("action_taken", e))?)
        }
    };
    let (at_ms, mut metadata) = (time("at", body.at)?, flat(body.metadata)?);
    let event = |target| {
        Event::Feedback(Feedback {
            target,
            received_ms: app.now_ms(),
            at_ms,
            metrics: metrics.clone(),
            action_taken: action_taken.clone(),
            not_used: body.not_used,
            principal: caller.principal(),
            // Once is enough: of a session it stands with the newest decision.
            metadata: metadata.take(),
        })
    };
    Ok(targets.into_iter().rev().map(event).collect())
}

/// Feedback on a session is a record for each of its decisions: a batch may not make more of them than it may have items.
fn fits(of_item: Vec<Event>, room: usize) -> ApiResult<Vec<Event>> {
    if of_item.len() <= room {
        return Ok(of_item);
    }
    let detail = format!(
        "has {} decisions, and with those before it the batch has room for {room} more; send it in another request",
        of_item.len()
    );
    Err(ApiError::field("session_id", detail))
}

/// Whether the body is a list of events, and then which.
fn items(text: &str) -> ApiResult<Option<Vec<&RawValue>>> {
    #[derive(Deserialize)]
    struct Probe<'a> {
        #[serde(default, borrow)]
        events: Option<&'a RawValue>,
    }
    if parse::<Probe<'_>>(text)?.events.is_none() {
        return Ok(None);
    }
    Ok(Some(parse::<FeedbackRequest<'_>>(text)?.events))
}

/// The hot route.
pub(crate) async fn feedback(
    app: &Arc<App>,
    caller: &Caller,
    body: &Bytes,
) -> ApiResult<Response<Full<Bytes>>> {
    check_lag(app)?;
    let text = utf8(body)?;
    let mut rejected = Vec::new();
    let mut events = Vec::new();
    let mut accepted = 1;
    match items(text)? {
        None => events = check(app, caller, text)?,
        Some(items) => {
            app.check_batch("events", items.len())?;
            accepted = items.len();
            let most = app.config().limits.batch.max(SESSION_DECISIONS);
            for (index, item) in items.into_iter().enumerate() {
                let room = most.saturating_sub(events.len());
                let checked = check(app, caller, item.get());
                match checked.and_then(|of_item| fits(of_item, room)) {
                    Ok(of_item) => events.extend(of_item),
                    Err(e) => {
                        rejected.push(serde_json::json!({"index": index, "error": e.member()}))
                    }
                }
            }
        }
    }
    let unavailable = |why| ApiError::new(Code::LogUnavailable, why);
    let mut end = app.log().head();
    if !events.is_empty() {
        let places = append(app, &events).await.map_err(unavailable)?;
        end = places.last().map_or(end, |p| p.end);
        app.on_disk(end).await?;
    }
    let position = Position { partition: 0, offset: end }.to_string();
    let accepted = accepted - rejected.len();
    let reply = FeedbackReply { accepted, rejected, position };
    Ok(json(202, serde_json::to_string(&reply).map_err(ApiError::internal)?))
}

/// The description of the hot route for the API's document.
#[utoipa::path(
    post, path = "/v1/feedback", request_body = FeedbackRequest,
    responses((status = 202, description = "what was taken, on the disk", body = FeedbackReply))
)]
#[expect(dead_code, reason = "carries the description; the route is served before the router")]
pub(crate) fn feedback_description() {}
