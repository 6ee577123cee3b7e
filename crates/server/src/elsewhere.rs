//! `POST /v1/models/{model}/decisions`: decisions that another system made, to be learned from.

use std::{borrow::Cow, sync::Arc};

use axum::extract::{Path, State};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response};
use pawl_domain::{
    Event, Position, Probability,
    event::{self, Decided, Outcome},
};
use pawl_model::Snapshot;
use pawl_store::registry::Scope;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    actions,
    app::App,
    append::append,
    auth::Caller,
    decide::{check_id, find_kind, flat, nonce, parse, read_context, utf8},
    error::{ApiError, ApiResult, Code},
    feedback::{check_metrics, time},
    http::{json, read_body},
};

/// One decision made elsewhere.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reported<'a> {
    /// What was known.
    #[serde(borrow)]
    #[schema(value_type = Object)]
    pub context: &'a RawValue,
    /// What could be chosen: names, or names with features of their own; by default every action.
    #[serde(default, borrow)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub actions: Option<Vec<&'a RawValue>>,
    /// What was chosen.
    #[serde(borrow)]
    #[schema(value_type = String)]
    pub action: Cow<'a, str>,
    /// With which probability, where known.
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    pub probability: Option<Probability>,
    /// When: milliseconds since 1970, or RFC 3339.
    #[serde(borrow)]
    #[schema(value_type = String)]
    pub at: &'a RawValue,
    /// Metrics that are known already.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub metrics: std::collections::BTreeMap<String, f64>,
    /// The caller's own id, for feedback.
    #[serde(default)]
    pub request_id: Option<String>,
    /// Whom it was about.
    #[serde(default)]
    pub targeting_key: Option<String>,
    /// The session it belonged to.
    #[serde(default)]
    pub session_id: Option<String>,
    /// A flat object.
    #[serde(default, borrow)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<&'a RawValue>,
}

/// Decisions made elsewhere.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportRequest<'a> {
    /// The decisions.
    #[serde(borrow)]
    #[schema(value_type = Vec<Object>)]
    pub decisions: Vec<&'a RawValue>,
}

fn check(app: &App, snapshot: &Snapshot, caller: &Caller, text: &str) -> ApiResult<Event> {
    let body: Reported<'_> = parse(text)?;
    check_id("request_id", body.request_id.as_deref())?;
    check_id("targeting_key", body.targeting_key.as_deref())?;
    check_id("session_id", body.session_id.as_deref())?;
    let spec = &snapshot.spec;
    let mut context = read_context(app, spec, body.context.get())?;
    let eligible: Vec<u16> = match &body.actions {
        None => (0..spec.actions().len() as u16).collect(),
        Some(listed) => actions::read(spec, listed, &mut context)?,
    };
    let action = actions::index(spec, "action", &body.action)?;
    let Some(chosen) = eligible.iter().position(|a| *a == action) else {
        return Err(ApiError::field("action", format!("`{}` is not among `actions`", body.action)));
    };
    check_metrics(spec, body.metrics.iter())?;
    // Only the chosen one's probability is known: the others share the rest.
    let probabilities = body.probability.map_or_else(Vec::new, |p| {
        let rest = (1.0 - p.get()) / (eligible.len().max(2) - 1) as f64;
        (0..eligible.len()).map(|i| if i == chosen { p.get() } else { rest }).collect()
    });
    Ok(Event::Decided(Decided {
        epoch: app.log().epoch(),
        nonce: nonce()?,
        at_ms: app.now_ms(),
        model: spec.name().clone(),
        version: snapshot.version.clone(),
        learner: snapshot.learner,
        snapshot: snapshot.position,
        clock: snapshot.decisions,
        context: context.logged(spec, &eligible).into_owned(),
        eligible,
        removed: Vec::new(),
        probabilities,
        chosen: chosen as u16,
        outcome: Outcome::Elsewhere,
        reason: None,
        caller: event::Caller {
            principal: caller.principal(),
            request_id: body.request_id,
            targeting_key: body.targeting_key,
            session_id: body.session_id,
            metadata: flat(body.metadata)?,
            at_ms: time("at", Some(body.at))?,
            body_hash: None,
        },
        metrics: body.metrics.into_iter().collect(),
    }))
}

/// Report decisions that another system made. Their deadline for feedback counts from the report.
#[utoipa::path(
    post, path = "/v1/models/{model}/decisions", request_body = ReportRequest,
    params(("model" = String, Path, description = "name")),
    responses((status = 202, description = "accepted, rejected, decision_ids (null where rejected), position"))
)]
pub(crate) async fn report(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let _in_flight = app.enter()?;
    let snapshot = find_kind(&app, &model, true)?;
    caller.may(Scope::Decide, Some(snapshot.spec.name().as_str()))?;
    let body = read_body(&app, body).await?;
    let request: ReportRequest<'_> = parse(utf8(&body)?)?;
    app.check_batch("decisions", request.decisions.len())?;
    app.quotas().take(snapshot.spec.name().as_str(), request.decisions.len(), body.len())?;
    let mut events = Vec::new();
    let mut ids: Vec<Option<usize>> = Vec::new();
    let mut rejected = Vec::new();
    for (index, item) in request.decisions.iter().enumerate() {
        match check(&app, &snapshot, &caller, item.get()) {
            Ok(event) => {
                ids.push(Some(events.len()));
                events.push(event);
            }
            Err(e) => {
                ids.push(None);
                rejected.push(serde_json::json!({"index": index, "error": e.member()}));
            }
        }
    }
    let mut places = Vec::new();
    let mut end = app.log().head();
    if !events.is_empty() {
        let unavailable = |why| ApiError::new(Code::LogUnavailable, why);
        places = append(&app, &events).await.map_err(unavailable)?;
        end = places.last().map_or(end, |p| p.end);
        app.on_disk(end).await?;
    }
    let sessions = snapshot.spec.session().map(|_| app.sessions());
    let id = |i: usize| match &events[i] {
        Event::Decided(d) => {
            let id = d.id(Position { partition: 0, offset: places[i].offset });
            sessions.iter().for_each(|s| s.note(id, d));
            Some(id.to_string())
        }
        _ => None,
    };
    let ids: Vec<Option<String>> = ids.into_iter().map(|i| i.and_then(id)).collect();
    let reply = serde_json::json!({
        "accepted": events.len(),
        "rejected": rejected,
        "decision_ids": ids,
        "position": Position { partition: 0, offset: end }.to_string(),
    });
    Ok(json(202, reply.to_string()))
}
