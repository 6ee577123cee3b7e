//! Reading decisions back out of the log: one, or those of a model.

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::{Path, Query, State};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response};
use pawl_domain::{
    CheckedSpec, DecisionId, Event, ModelName, Position,
    event::{Decided, Feedback, Outcome, Removal, Target},
    spec::Kind,
};
use pawl_store::{LogError, log::Entry, registry::Scope};
use semver::Version;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    actions,
    app::App,
    auth::Caller,
    decide::model_name,
    error::{ApiError, ApiResult, Code},
    http,
    models::{by, refused, to_the_end},
    predict,
    report::moment,
};

/// Most records that one request reads.
const SCAN_MAX: usize = 1_000_000;
/// Most decisions of a page.
const PAGE_MAX: usize = 1000;

/// What a decision says of a person.
const PERSONAL: [&str; 4] = ["context", "targeting_key", "session_id", "metadata"];

/// Takes out what a decision says of a person, for those who may not read that.
pub(crate) fn hide(decision: &mut Value) {
    for field in PERSONAL {
        decision[field] = Value::Null;
    }
    decision["hidden"] = json!(PERSONAL);
}

/// Records that a caller is about to be told what decisions say of a person.
///
/// # Errors
/// If it cannot be recorded: then it must not be told.
pub(crate) async fn record_reading(
    app: &Arc<App>,
    caller: &Caller,
    headers: &HeaderMap,
    model: &ModelName,
    request: &'static str,
    decisions: usize,
) -> ApiResult<()> {
    let (app, by, model) = (app.clone(), by(app, caller, headers), model.clone());
    to_the_end(async move {
        let noted = app.registry().note_reading(&model, request, decisions, &by).await;
        noted.map_err(refused)?;
        app.relay().await
    })
    .await
}

/// The decision with this id, and the spec of its version.
pub(crate) async fn load(
    app: &App,
    caller: &Caller,
    id: &str,
) -> ApiResult<(DecisionId, Entry, Decided, CheckedSpec)> {
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
        "erased": d.is_erased(),
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
        "reported_metrics": d.metrics.iter().cloned().collect::<BTreeMap<_, _>>(),
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

/// A piece of feedback as JSON; `next` is where its record ends.
fn describe_feedback(f: &Feedback, next: u64) -> Value {
    json!({
        "position": Position { partition: 0, offset: next }.to_string(),
        "received_ms": f.received_ms,
        "at_ms": f.at_ms,
        "metrics": f.metrics.iter().cloned().collect::<BTreeMap<_, _>>(),
        "action_taken": f.action_taken,
        "not_used": f.not_used,
        "principal": f.principal,
    })
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
            found.push(describe_feedback(&f, entry.next));
        }
    }
    Ok((found, false))
}

/// Show one decision with the feedback that came for it. What it says of a person needs the scope `context`; else `hidden` names it.
#[utoipa::path(
    get, path = "/v1/decisions/{id}", params(("id" = String, Path, description = "decision id")),
    responses((status = 200, description = "the record, its feedback, and whether all of the log was searched"))
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let (id, entry, decided, spec) = load(&app, &caller, &id).await?;
    let hidden = caller.may(Scope::Context, Some(decided.model.as_str())).is_err();
    if !hidden {
        record_reading(&app, &caller, &headers, &decided.model, "show", 1).await?;
    }
    let searched = tokio::task::spawn_blocking(move || {
        let (feedback, complete) = feedback_for(&app, id, &decided, entry.next)?;
        let mut value = describe(&spec, id, &decided);
        if hidden {
            hide(&mut value);
        }
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
    /// Decisions at or after this time: a duration before now such as `1h`, milliseconds since 1970, or RFC 3339.
    pub since: Option<String>,
    /// Decisions before this time.
    pub until: Option<String>,
    /// Only this action.
    pub action: Option<String>,
    /// Only this outcome.
    pub outcome: Option<String>,
    /// Only about this one: needs the scope `context`.
    pub targeting_key: Option<String>,
    /// Only of this session: needs the scope `context`.
    pub session_id: Option<String>,
    /// Whether to show what they say of a person, which needs the scope `context`: by default, where the caller has that.
    pub context: Option<bool>,
    /// Go on where the last page ended.
    pub cursor: Option<String>,
    /// Most decisions of the page; 100 by default, at most 1000.
    pub limit: Option<usize>,
}

/// Who lists what of which model, and the specs of its versions. A deleted model's records are there until they are trimmed.
async fn listing(
    app: &App,
    headers: &HeaderMap,
    model: &str,
) -> ApiResult<(Caller, ModelName, BTreeMap<Version, CheckedSpec>)> {
    let caller = app.keys().caller(headers, app.now_ms())?;
    let model = model_name(model)?;
    caller.may(Scope::Read, Some(model.as_str()))?;
    let rows = app.registry().versions(&model).await.map_err(refused)?;
    let mut specs = BTreeMap::new();
    for row in rows {
        specs.insert(row.version, CheckedSpec::from_json(&row.spec).map_err(ApiError::internal)?);
    }
    Ok((caller, model, specs))
}

/// A filter by what no decision can have finds nothing for ever: it is a mistake.
fn check_filters(query: &ListQuery, specs: &BTreeMap<Version, CheckedSpec>) -> ApiResult<()> {
    if let Some(action) = &query.action
        && let Some((_, newest)) = specs.last_key_value()
        && specs.values().all(|s| s.action(action).is_none())
    {
        actions::index(newest, "action", action)?;
    }
    if let Some(outcome) = &query.outcome
        && serde_json::from_value::<Outcome>(json!(outcome)).is_err()
    {
        let message = format!("`{outcome}` is not an outcome: ok, fallback, sticky or elsewhere");
        return Err(ApiError::field("outcome", message));
    }
    Ok(())
}

/// Where a listing begins.
fn begin(app: &App, cursor: Option<&String>) -> ApiResult<u64> {
    let Some(cursor) = cursor else { return Ok(app.log().first()) };
    let position: Position = cursor.parse().map_err(|e| ApiError::field("cursor", e))?;
    Ok(position.offset.max(app.log().first()))
}

/// A cursor that a caller made up points into the middle of a record.
fn misplaced(given: bool) -> impl Fn(LogError) -> ApiError {
    move |e| match e {
        LogError::Damaged(_) | LogError::Absent(_) if given => {
            ApiError::field("cursor", format!("is not where a page ended, or {e}"))
        }
        other => ApiError::internal(other),
    }
}

/// Which decisions are meant.
struct Wanted {
    model: ModelName,
    from_ms: u64,
    below_ms: u64,
    query: ListQuery,
}

impl Wanted {
    fn has(&self, d: &Decided) -> bool {
        let same = |wanted: &Option<String>, is: &Option<String>| wanted.is_none() || wanted == is;
        d.model == self.model
            && (self.from_ms..self.below_ms).contains(&d.at_ms)
            && same(&self.query.targeting_key, &d.caller.targeting_key)
            && same(&self.query.session_id, &d.caller.session_id)
    }

    /// Whether the described decision is meant too.
    fn says(&self, value: &Value) -> bool {
        let fits = |wanted: &Option<String>, key: &str| {
            wanted.as_ref().is_none_or(|w| value[key].as_str() == Some(w))
        };
        fits(&self.query.action, "action") && fits(&self.query.outcome, "outcome")
    }
}

/// List a model's decisions, oldest first. `cursor` of the reply is where the next page begins; null at the end. `position` is where
/// reading ended, also there: a cursor for what comes later.
#[utoipa::path(
    get, path = "/v1/models/{model}/decisions",
    params(("model" = String, Path, description = "name"), ListQuery),
    responses((status = 200, description = "decisions, cursor and position"))
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    let _in_flight = app.enter()?;
    let (caller, model, specs) = listing(&app, &headers, &model).await?;
    let Query(query) = query.map_err(|e| ApiError::field("query", e.body_text()))?;
    check_filters(&query, &specs)?;
    let at = |field: &str, text: &Option<String>, otherwise| {
        text.as_ref().map_or(Ok(otherwise), |t| moment(field, t, app.now_ms()))
    };
    let (from_ms, below_ms) = (at("since", &query.since, 0)?, at("until", &query.until, u64::MAX)?);
    let from = begin(&app, query.cursor.as_ref())?;
    let misplaced = misplaced(query.cursor.is_some());
    let limit = query.limit.unwrap_or(100).clamp(1, PAGE_MAX);
    let may = caller.may(Scope::Context, Some(model.as_str()));
    // Who may not read whom a decision is about may not find it by that either.
    let by_person = query.targeting_key.is_some() || query.session_id.is_some();
    if by_person || query.context == Some(true) {
        may.clone()?;
    }
    let hidden = may.is_err() || query.context == Some(false);
    let log = app.log().clone();
    let wanted = Wanted { model: model.clone(), from_ms, below_ms, query };
    let listed = tokio::task::spawn_blocking(move || {
        let mut reader = log.reader(from);
        let mut decisions = Vec::new();
        let mut ended = false;
        for _ in 0..SCAN_MAX {
            if decisions.len() >= limit {
                break;
            }
            let Some(entry) = reader.next_decision(u64::MAX).map_err(&misplaced)? else {
                ended = true;
                break;
            };
            let Event::Decided(d) = entry.event else { continue };
            let Some(spec) = specs.get(&d.version).filter(|_| wanted.has(&d)) else { continue };
            let mut value =
                describe(spec, d.id(Position { partition: 0, offset: entry.offset }), &d);
            if wanted.says(&value) {
                if hidden {
                    hide(&mut value);
                }
                decisions.push(value);
            }
        }
        let position = Position { partition: 0, offset: reader.offset() }.to_string();
        let cursor = (!ended).then_some(&position);
        let value = json!({"decisions": decisions, "cursor": cursor, "position": position});
        Ok::<_, ApiError>((decisions.len(), value))
    });
    let (n, value) = listed.await.map_err(ApiError::internal)??;
    if !hidden && n > 0 {
        record_reading(&app, &caller, &headers, &model, "list", n).await?;
    }
    Ok(http::json(200, value.to_string()))
}

/// Which feedback to list.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct FeedbackQuery {
    /// Feedback that came at or after this time: a duration before now such as `1h`, milliseconds since 1970, or RFC 3339.
    pub since: Option<String>,
    /// Go on where the last page ended.
    pub cursor: Option<String>,
    /// Most pieces of the page; 100 by default, at most 1000.
    pub limit: Option<usize>,
}

/// List the feedback for a model's decisions in the order in which it came, as it came: also what taught nothing because it was late
/// or a repetition. `cursor` of the reply is where the next page begins; null at the end.
#[utoipa::path(
    get, path = "/v1/models/{model}/feedback",
    params(("model" = String, Path, description = "name"), FeedbackQuery),
    responses((status = 200, description = "feedback, each piece with its decision_id or request_id, and cursor"))
)]
pub(crate) async fn list_feedback(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    query: Result<Query<FeedbackQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    let _in_flight = app.enter()?;
    let (_, model, _) = listing(&app, &headers, &model).await?;
    let Query(query) = query.map_err(|e| ApiError::field("query", e.body_text()))?;
    let from_ms = query.since.as_ref().map_or(Ok(0), |text| moment("since", text, app.now_ms()))?;
    let from = begin(&app, query.cursor.as_ref())?;
    let misplaced = misplaced(query.cursor.is_some());
    let limit = query.limit.unwrap_or(100).clamp(1, PAGE_MAX);
    let log = app.log().clone();
    let listed = tokio::task::spawn_blocking(move || {
        let mut reader = log.reader(from);
        let mut found = Vec::new();
        let mut ended = false;
        for _ in 0..SCAN_MAX {
            if found.len() >= limit {
                break;
            }
            let Some(entry) = reader.next_entry().map_err(&misplaced)? else {
                ended = true;
                break;
            };
            let Event::Feedback(f) = entry.event else { continue };
            if f.received_ms < from_ms {
                continue;
            }
            // An id says nothing of its model: its record does.
            let (ours, id, request_id) = match &f.target {
                Target::Decision(id) => {
                    let made = log.read(id.position.offset).map(|e| e.event);
                    let ours = matches!(&made, Ok(Event::Decided(d)) if d.model == model);
                    (ours, Some(id.to_string()), None)
                }
                Target::Request { model: of, request_id } => (*of == model, None, Some(request_id)),
            };
            if ours {
                let mut value = describe_feedback(&f, entry.next);
                value["decision_id"] = id.into();
                value["request_id"] = request_id.cloned().into();
                found.push(value);
            }
        }
        let cursor = Position { partition: 0, offset: reader.offset() }.to_string();
        Ok::<_, ApiError>(json!({"feedback": found, "cursor": (!ended).then_some(cursor)}))
    });
    let value = listed.await.map_err(ApiError::internal)??;
    Ok(http::json(200, value.to_string()))
}
