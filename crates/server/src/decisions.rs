//! Reading decisions back out of the log: one, or those of a model.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response};
use pawl_domain::{
    CheckedSpec, DecisionId, Event, Position,
    event::{Decided, Removal, Target},
    spec::Kind,
};
use pawl_store::{LogError, log::Entry, registry::Scope};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    app::App,
    decide::model_name,
    error::{ApiError, ApiResult, Code},
    http, predict,
};

/// Most records that one request reads.
const SCAN_MAX: usize = 1_000_000;
/// Most decisions of a page.
const PAGE_MAX: usize = 1000;

/// The decision with this id, and the spec of its version.
pub(crate) async fn load(
    app: &App,
    headers: &HeaderMap,
    id: &str,
) -> ApiResult<(DecisionId, Entry, Decided, CheckedSpec)> {
    let caller = app.keys().caller(headers, app.now_ms())?;
    let id: DecisionId = id.parse().map_err(|e| ApiError::field("id", e))?;
    let unknown = || ApiError::new(Code::DecisionNotFound, format!("there is no decision `{id}`"));
    let entry = match app.log().read(id.position.offset) {
        Ok(entry) => entry,
        Err(LogError::Absent(_) | LogError::UnknownKind(_)) => return Err(unknown()),
        Err(e) => return Err(ApiError::internal(e)),
    };
    let decided = match &entry.event {
        Event::Decided(d) if d.id(id.position) == id => d.clone(),
        _ => return Err(unknown()),
    };
    caller.may(Scope::Read, Some(decided.model.as_str()))?;
    let spec = spec_of(app, &decided).await?;
    Ok((id, entry, decided, spec))
}

/// The spec of the version that made a decision.
pub(crate) async fn spec_of(app: &App, decided: &Decided) -> ApiResult<CheckedSpec> {
    let versions = app.registry().versions(&decided.model).await.map_err(ApiError::internal)?;
    let row = versions.into_iter().find(|v| v.version == decided.version);
    let row =
        row.ok_or_else(|| ApiError::internal("the registry lacks the version of a decision"))?;
    CheckedSpec::from_json(&row.spec).map_err(ApiError::internal)
}

/// A decision as JSON.
pub(crate) fn describe(spec: &CheckedSpec, id: DecisionId, d: &Decided) -> Value {
    let name = |i: u16| spec.actions().get(usize::from(i)).map(|a| a.name.to_string());
    let context: Value = serde_json::from_str(&d.context).unwrap_or(Value::Null);
    let probabilities: Map<String, Value> = d
        .eligible
        .iter()
        .zip(&d.probabilities)
        .filter_map(|(a, p)| Some((name(*a)?, json!(p))))
        .collect();
    let removed: Map<String, Value> = d
        .removed
        .iter()
        .filter_map(|(a, why)| {
            let why = match why {
                Removal::NotRequested => "not_requested".to_owned(),
                Removal::Max(feature) => format!("max.{feature}"),
                Removal::Retired => "retired".to_owned(),
                Removal::Rule(rule) => format!("rule.{rule}"),
                Removal::Disabled => "disabled".to_owned(),
            };
            Some((name(*a)?, json!(why)))
        })
        .collect();
    let predicts = spec.kind() != Kind::Policy;
    let metadata = d.caller.metadata.as_deref().and_then(|m| serde_json::from_str::<Value>(m).ok());
    let mut value = json!({
        "decision_id": id.to_string(),
        "at_ms": d.at_ms,
        "model": d.model,
        "version": d.version.to_string(),
        "learner": d.learner.to_string(),
        "snapshot": Position { partition: 0, offset: d.snapshot }.to_string(),
        "context": context,
        "action": d.action().and_then(name),
        "probability": d.probability(),
        "probabilities": probabilities,
        "removed": removed,
        "outcome": d.outcome,
        "reason": d.reason,
        "principal": d.caller.principal,
        "request_id": d.caller.request_id,
        "targeting_key": d.caller.targeting_key,
        "session_id": d.caller.session_id,
        "metadata": metadata,
        "reported_at_ms": d.caller.at_ms,
        "reported_metrics": d.metrics.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
    });
    if predicts && let Some(fields) = value.as_object_mut() {
        for of_a_choice in ["action", "probability", "probabilities", "removed", "reported_metrics"]
        {
            fields.remove(of_a_choice);
        }
        fields.insert("prediction".to_owned(), predict::describe(&d.metrics));
    }
    value
}

/// The feedback for a decision, found by reading on in the log; and whether the reading reached the head.
pub(crate) fn feedback_for(
    app: &App,
    id: DecisionId,
    d: &Decided,
    next: u64,
) -> ApiResult<(Vec<Value>, bool)> {
    let mut reader = app.log().reader(next);
    let mut found = Vec::new();
    for _ in 0..SCAN_MAX {
        let Some(entry) = reader.next_entry().map_err(ApiError::internal)? else {
            return Ok((found, true));
        };
        let Event::Feedback(f) = entry.event else { continue };
        let ours = match &f.target {
            Target::Decision(target) => *target == id,
            Target::Request { model, request_id } => {
                *model == d.model && d.caller.request_id.as_ref() == Some(request_id)
            }
        };
        if ours {
            found.push(json!({
                "position": Position { partition: 0, offset: entry.next }.to_string(),
                "received_ms": f.received_ms,
                "at_ms": f.at_ms,
                "metrics": f.metrics.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
                "action_taken": f.action_taken,
                "not_used": f.not_used,
                "principal": f.principal,
            }));
        }
    }
    Ok((found, false))
}

/// Show one decision with the feedback that came for it.
#[utoipa::path(
    get, path = "/v1/decisions/{id}", params(("id" = String, Path, description = "decision id")),
    responses((status = 200, description = "the record, its feedback, and whether all of the log was searched"))
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    let (id, entry, decided, spec) = load(&app, &headers, &id).await?;
    let searched = tokio::task::spawn_blocking(move || {
        let (feedback, complete) = feedback_for(&app, id, &decided, entry.next)?;
        let mut value = describe(&spec, id, &decided);
        value["feedback"] = feedback.into();
        value["feedback_complete"] = complete.into();
        Ok(value)
    });
    let value: Value = searched.await.map_err(ApiError::internal)??;
    Ok(http::json(200, value.to_string()))
}

/// What to list.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Decisions at or after this time: milliseconds since 1970, or RFC 3339.
    pub since: Option<String>,
    /// Only this action.
    pub action: Option<String>,
    /// Only this outcome.
    pub outcome: Option<String>,
    /// Go on where the last page ended.
    pub cursor: Option<String>,
    /// Most decisions of the page; 100 by default, at most 1000.
    pub limit: Option<usize>,
}

/// List a model's decisions, oldest first. `cursor` of the reply is where the next page begins; null at the end.
#[utoipa::path(
    get, path = "/v1/models/{model}/decisions",
    params(("model" = String, Path, description = "name"), ListQuery),
    responses((status = 200, description = "decisions and cursor"))
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let _in_flight = app.enter()?;
    let model = model_name(&model)?;
    caller.may(Scope::Read, Some(model.as_str()))?;
    let Query(query) = query.map_err(|e| ApiError::field("query", e.body_text()))?;
    let rows =
        app.registry().versions(&model).await.map_err(|_| ApiError::no_model(model.as_str()))?;
    let mut specs = std::collections::BTreeMap::new();
    for row in rows {
        specs.insert(row.version, CheckedSpec::from_json(&row.spec).map_err(ApiError::internal)?);
    }
    let since = match &query.since {
        None => 0,
        Some(text) => {
            let quoted = if text.bytes().all(|b| b.is_ascii_digit()) {
                text.clone()
            } else {
                json!(text).to_string()
            };
            let raw = RawValue::from_string(quoted).map_err(|e| ApiError::field("since", e))?;
            crate::feedback::time("since", Some(&raw))?.unwrap_or(0)
        }
    };
    let from = match &query.cursor {
        None => app.log().first(),
        Some(cursor) => {
            let position: Position = cursor.parse().map_err(|e| ApiError::field("cursor", e))?;
            position.offset.max(app.log().first())
        }
    };
    let given = query.cursor.is_some();
    let limit = query.limit.unwrap_or(100).clamp(1, PAGE_MAX);
    let log = app.log().clone();
    let listed = tokio::task::spawn_blocking(move || {
        let mut reader = log.reader(from);
        let mut decisions = Vec::new();
        for _ in 0..SCAN_MAX {
            if decisions.len() >= limit {
                break;
            }
            let entry = reader.next_decision(u64::MAX).map_err(|e| match e {
                LogError::Damaged(_) | LogError::Absent(_) if given => {
                    ApiError::field("cursor", format!("is not where a page ended, or {e}"))
                }
                other => ApiError::internal(other),
            })?;
            let Some(entry) = entry else { return Ok((decisions, None)) };
            let Event::Decided(d) = entry.event else { continue };
            let Some(spec) = specs.get(&d.version).filter(|_| d.model == model && d.at_ms >= since)
            else {
                continue;
            };
            let value = describe(spec, d.id(Position { partition: 0, offset: entry.offset }), &d);
            let fits = |wanted: &Option<String>, key: &str| {
                wanted.as_ref().is_none_or(|w| value[key].as_str() == Some(w))
            };
            if fits(&query.action, "action") && fits(&query.outcome, "outcome") {
                decisions.push(value);
            }
        }
        Ok((decisions, Some(Position { partition: 0, offset: reader.offset() }.to_string())))
    });
    let (decisions, cursor) = listed.await.map_err(ApiError::internal)??;
    Ok(http::json(200, json!({"decisions": decisions, "cursor": cursor}).to_string()))
}
