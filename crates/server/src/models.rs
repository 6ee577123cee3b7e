//! The control plane: models, versions, keys, the audit trail.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response, header};
use pawl_domain::{
    ActionName, Alert, ModelName, Position, Sha256,
    spec::{Keep, Kind},
};
use pawl_engine::{ActionTally, Enrolled, Model, Status, Tally};
use pawl_judge::Rules;
use pawl_model::counts::Count;
use pawl_store::registry::{By, NewKey, RegistryError, Scope};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::App,
    auth::{Caller, new_secret},
    decide::{model_name, parse, utf8},
    error::{ApiError, ApiResult, Code},
    feedback::time,
    http::{self, read_body},
    levers, request_id,
    versions::{self, New, describe_version},
};

pub(crate) fn refused(e: RegistryError) -> ApiError {
    let code = match &e {
        RegistryError::Exists { .. } => Code::AlreadyExists,
        RegistryError::Deleted(_) => Code::ModelDeleted,
        RegistryError::NotArchived(_) => Code::NotArchived,
        RegistryError::NotFound { what: "model", .. } => Code::ModelNotFound,
        RegistryError::NotFound { .. } => Code::KeyNotFound,
        RegistryError::Unchanged(_) => Code::Unchanged,
        RegistryError::TooManyMetrics(_) => Code::InvalidSpec,
        RegistryError::Conflict { .. } => Code::Conflict,
        RegistryError::Database(_)
        | RegistryError::Migration(_)
        | RegistryError::Copy { .. }
        | RegistryError::Open { .. }
        | RegistryError::Corrupt { .. } => {
            return ApiError::internal(e);
        }
    };
    ApiError::new(code, e.to_string())
}

/// Runs a change to its end, also where the caller hangs up in the middle of it.
pub(crate) async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = ApiResult<T>> + Send + 'static,
) -> ApiResult<T> {
    tokio::spawn(request_id::keep(change)).await.map_err(ApiError::internal)?
}

pub(crate) fn by(app: &App, caller: &Caller, headers: &HeaderMap) -> By {
    let why = headers.get("x-pawl-why").and_then(|v| v.to_str().ok()).map(str::to_owned);
    By { at_ms: app.now_ms(), principal: caller.principal(), why }
}

/// Create a model from its spec, or from an artifact with what was learned: version 1.0.0, in production.
#[utoipa::path(
    post, path = "/v1/models",
    request_body(content = Object, description = "a spec as JSON, or an artifact as application/octet-stream"),
    responses((status = 201, description = "name, version, stage, learner, spec_sha256, artifact_sha256"))
)]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let New { spec, artifact } = versions::read_new(&app, &caller, None, &headers, body).await?;
    let by = by(&app, &caller, &headers);
    let known = app.live().published().names();
    app.quotas().admit(spec.name().as_str(), known.iter().map(ModelName::as_str))?;
    let row = to_the_end(async move {
        let row = app.registry().create_model(&spec, artifact, &by).await.map_err(refused)?;
        app.relay().await.map(|()| row)
    })
    .await?;
    let mut value = describe_version(&row);
    value["name"] = json!(row.model);
    Ok(http::json(201, value.to_string()))
}

/// List the models that answer.
#[utoipa::path(get, path = "/v1/models", responses((status = 200, description = "models")))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let published = app.live().published();
    let readable = |name: &ModelName| caller.may(Scope::Read, Some(name.as_str())).is_ok();
    let models: Vec<Value> = published
        .names()
        .into_iter()
        .filter(readable)
        .filter_map(|name| {
            let snapshot = published.get(name.as_str())?;
            Some(json!({
                "name": name, "kind": snapshot.spec.kind(), "production": snapshot.version.to_string(),
                "archived": snapshot.archived,
            }))
        })
        .collect();
    Ok(http::json(200, json!({"models": models}).to_string()))
}

fn describe_learner(e: &Enrolled, position: u64) -> Value {
    let (state, why) = match e.status() {
        Status::Learning => ("learning", Value::Null),
        Status::Frozen => ("frozen", Value::Null),
        Status::Quarantined { at_example, why } => {
            ("quarantined", json!({"at_example": at_example, "why": why}))
        }
    };
    let mut value = json!({
        "id": e.id().to_string(),
        "version": e.version().to_string(),
        "examples": e.examples(),
        "position": Position { partition: 0, offset: e.learned_to(position) }.to_string(),
        "state_sha256": e.sha256().to_string(),
        "state": state,
        "reason": why,
    });
    if e.spec().kind() != Kind::Policy {
        let p = e.progress();
        value["progress"] = json!({
            "loss": p.mean(), "recent_loss": p.recent_mean(), "refused": e.refused(),
        });
        if e.spec().kind() == Kind::Classifier && p.weight > 0.0 {
            value["progress"]["accuracy"] = json!(p.correct / p.weight);
            value["progress"]["calibration_error"] = json!(p.calibration_error());
        }
    }
    for (metric, m) in e.monitors() {
        let last = m.last.map(|(why, at)| json!({"why": why.as_str(), "at_example": at}));
        value["monitors"][metric] = json!({
            "holding": m.is_holding(), "rate_factor": m.rate(), "went_back": m.went_back, "last": last,
            "drifts": m.drifts, "accepted_changes": m.accepted,
        });
        if m.is_holding() && state == "learning" {
            value["state"] = json!("holding");
        }
    }
    value
}

fn describe_alert(alert: &Alert) -> Value {
    let position = Position { partition: 0, offset: alert.raised.0 }.to_string();
    json!({
        "position": position, "at_ms": alert.at_ms, "what": alert.what.as_str(), "text": alert.what.to_string(),
    })
}

fn describe_tally(t: &Tally) -> Value {
    json!({
        "decisions": t.decisions, "learned": t.learned, "duplicate": t.duplicate, "late": t.late,
        "not_used": t.not_used, "undeclared": t.undeclared, "missing": t.missing,
    })
}

/// What became of an action's decisions; a mean with the half-width of its 95 % interval, by the normal approximation.
/// Every action that was ever chosen or may be.
fn describe_actions(model: &Model) -> Value {
    let mut tallies = model.by_action.clone();
    if model.production().is_some_and(|e| e.spec().kind() == Kind::Policy) {
        let of_spec = model.production().into_iter().flat_map(|e| e.spec().actions());
        for action in of_spec {
            tallies.entry(action.name.clone()).or_default();
        }
    }
    tallies.iter().map(describe_action).collect::<serde_json::Map<_, _>>().into()
}

fn describe_action((name, t): (&ActionName, &ActionTally)) -> (String, Value) {
    let metric = |(name, c): (&String, &Count)| {
        let mean = c.sum / c.n;
        let variance = ((c.squares - mean * c.sum) / (c.n - 1.0)).max(0.0);
        let interval = (c.n > 1.0).then(|| 1.96 * (variance / c.n).sqrt());
        (name.clone(), json!({"n": c.n, "mean": mean, "interval": interval}))
    };
    let metrics: serde_json::Map<String, Value> = t.metrics.iter().map(metric).collect();
    let value = json!({
        "decisions": t.decisions, "not_by_policy": t.not_by_policy, "overridden": t.overridden,
        "missing": t.missing, "metrics": metrics,
    });
    (name.to_string(), value)
}

/// How each floor stands: `released` while the policy may decide, else `holding`; the certain sum is in values of the metric.
fn describe_floors(model: &Model) -> Value {
    let Some(spec) = model.production().map(Enrolled::spec) else { return json!({}) };
    let describe = |keep: Keep| {
        let name = spec.metrics()[keep.metric].name.clone();
        let kept = model.floors.get(&name)?;
        let rules = Rules { keep: keep.part, bounds: keep.bounds };
        let share = kept.floor.share(rules);
        let state = if kept.floor.released { "released" } else { "holding" };
        let value = json!({
            "part": keep.part, "incumbent": kept.incumbent, "state": state, "since_ms": kept.floor.changed_ms,
            "values": kept.floor.values, "certain_sum": kept.floor.certain_sum(rules), "share": share,
            "weight": kept.floor.weight,
        });
        Some((name, value))
    };
    spec.floors().into_iter().filter_map(describe).collect()
}

/// Show a model: its versions, what is in production, and what its learners have learned.
#[utoipa::path(
    get, path = "/v1/models/{model}", params(("model" = String, Path, description = "name")),
    responses((status = 200, description = "name, kind, versions, production, learners, feedback"))
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let name = model_name(&model)?;
    caller.may(Scope::Read, Some(name.as_str()))?;
    let rows = app.registry().versions(&name).await.map_err(refused)?;
    let last_change = app.registry().last_change(&name).await.map_err(refused)?;
    let (asked, wanted) = (app.clone(), name.clone());
    let inspected = tokio::task::spawn_blocking(move || asked.live().model(wanted)).await;
    let found = inspected.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
    let Some(known) = found else {
        let deleted = app.registry().is_deleted(&name).await.map_err(refused)?;
        return Err(match deleted {
            true => refused(RegistryError::Deleted(name)),
            false => ApiError::no_model(name.as_str()),
        });
    };
    let (state, position) = (known.model, known.position);
    let production = rows.iter().find(|r| r.stage == "production");
    let value = json!({
        "name": name,
        "kind": state.production().map(|e| e.spec().kind()),
        "production": production.map(|r| r.version.to_string()),
        "archived": state.archived.0,
        "versions": rows.iter().map(describe_version).collect::<Vec<_>>(),
        "spec": production.and_then(|r| serde_json::from_str::<Value>(&r.spec).ok()),
        "learners": state.learners().map(|e| describe_learner(e, position)).collect::<Vec<_>>(),
        "feedback": describe_tally(&state.tally),
        "actions": describe_actions(&state),
        "floors": describe_floors(&state),
        "levers": state.production().map(|e| levers::describe(e.spec(), &state.levers)),
        "supply": {
            "closed": state.supply.closed, "recent_share": state.supply.recent,
            "share": state.supply.history, "stopped_since_ms": state.supply.stopped_since_ms,
            "held": state.supply.held(),
        },
        "alerts": state.alerts.iter().map(describe_alert).collect::<Vec<_>>(),
        "last_change": last_change,
        "rewinding": known.rewinding,
        "rewind_error": app.live().rewind_error(),
    });
    let mut response = http::json(200, value.to_string());
    if let Some(version) = production.and_then(|r| format!("\"{}\"", r.version).parse().ok()) {
        response.headers_mut().insert(header::ETAG, version);
    }
    Ok(response)
}

/// The body that asks for a key.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest<'a> {
    /// The principal in events and changes.
    pub name: String,
    /// `decide`, `feedback`, `read`, `admin`.
    pub scopes: Vec<String>,
    /// Models it may be used for; `*` stands for any text.
    #[serde(default)]
    pub model: Option<String>,
    /// When it stops working: milliseconds since 1970, or RFC 3339.
    #[serde(default, borrow)]
    #[schema(value_type = Option<String>)]
    pub expires: Option<&'a serde_json::value::RawValue>,
}

/// Create a key. The reply holds its secret, which is shown only now.
#[utoipa::path(
    post, path = "/v1/keys", request_body = KeyRequest,
    responses((status = 201, description = "name, secret, scopes, model, expires_ms"))
)]
pub(crate) async fn create_key(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    caller.may(Scope::Admin, None)?;
    let body = read_body(&app, body).await?;
    let request: KeyRequest<'_> = parse(utf8(&body)?)?;
    let named =
        (1..=64).contains(&request.name.len()) && !request.name.chars().any(char::is_control);
    if !named {
        return Err(ApiError::field(
            "name",
            "a key's name has 1 to 64 bytes and no control character",
        ));
    }
    let scopes: Result<Vec<Scope>, String> = request.scopes.iter().map(|s| s.parse()).collect();
    let scopes = scopes.map_err(|e| ApiError::field("scopes", e))?;
    if scopes.is_empty() {
        return Err(ApiError::field(
            "scopes",
            "give at least one: decide, feedback, read or admin",
        ));
    }
    let model = request.model.unwrap_or_else(|| "*".to_owned());
    if model.is_empty() || model.len() > 128 {
        return Err(ApiError::field("model", "write a model's name, or a pattern with `*`"));
    }
    let expires_ms = time("expires", request.expires)?;
    if expires_ms.is_some_and(|at| at <= app.now_ms()) {
        return Err(ApiError::field("expires", "is not in the future"));
    }
    let unlimited = scopes.contains(&Scope::Admin) && model == "*" && expires_ms.is_none();
    if app.keys().none_ever() && !unlimited {
        let message = "the first key must have the scope `admin`, for every model and without end: from then on every \
                       request needs a key";
        return Err(ApiError::field("scopes", message));
    }
    let secret = new_secret().map_err(ApiError::internal)?;
    let key = NewKey {
        name: request.name,
        sha256: Sha256::of(secret.as_bytes()),
        scopes,
        model,
        expires_ms,
    };
    let (by, made) = (by(&app, &caller, &headers), key.clone());
    to_the_end(async move {
        app.registry().create_key(&made, &by).await.map_err(refused)?;
        app.keys().reload(app.registry()).await.map_err(ApiError::internal)?;
        app.relay().await
    })
    .await?;
    let scopes: Vec<&str> = key.scopes.iter().map(|s| s.as_str()).collect();
    let value = json!({
        "name": key.name, "secret": secret, "scopes": scopes, "model": key.model, "expires_ms": key.expires_ms,
    });
    Ok(http::json(201, value.to_string()))
}

/// List keys, without secrets.
#[utoipa::path(get, path = "/v1/keys", responses((status = 200, description = "keys")))]
pub(crate) async fn keys(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    app.keys().caller(&headers, app.now_ms())?.may(Scope::Admin, None)?;
    let keys = app.registry().keys().await.map_err(refused)?;
    let now_ms = app.now_ms();
    let keys: Vec<Value> = keys
        .iter()
        .map(|k| {
            let scopes: Vec<&str> = k.new.scopes.iter().map(|s| s.as_str()).collect();
            json!({
                "name": k.new.name, "scopes": scopes, "model": k.new.model, "created_ms": k.created_ms,
                "expires_ms": k.new.expires_ms, "revoked_ms": k.revoked_ms, "valid": k.valid(now_ms),
            })
        })
        .collect();
    Ok(http::json(200, json!({"keys": keys}).to_string()))
}

/// Revoke a key, at once.
#[utoipa::path(
    delete, path = "/v1/keys/{name}", params(("name" = String, Path, description = "name")),
    responses((status = 200, description = "the key no longer works"))
)]
pub(crate) async fn revoke_key(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    caller.may(Scope::Admin, None)?;
    if app.keys().is_last_admin(&name, app.now_ms()) {
        let detail =
            format!("`{name}` is the last admin key: without it nobody could make another");
        return Err(ApiError::new(Code::Conflict, detail));
    }
    let (by, revoked) = (by(&app, &caller, &headers), name.clone());
    to_the_end(async move {
        let done = app.registry().revoke_key(&revoked, &by).await.map_err(refused);
        // Also where it was revoked before: the table may not know.
        app.keys().reload(app.registry()).await.map_err(ApiError::internal)?;
        done?;
        app.relay().await
    })
    .await?;
    Ok(http::json(200, json!({"name": name, "revoked": true}).to_string()))
}

/// Where the trail is read from.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ChangesQuery {
    /// Changes after this one.
    pub after: Option<u64>,
}

/// The audit trail: every change of the registry in order, at most 1000 a page.
#[utoipa::path(get, path = "/v1/changes", params(ChangesQuery), responses((status = 200, description = "changes")))]
pub(crate) async fn changes(
    State(app): State<Arc<App>>,
    query: Result<Query<ChangesQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    app.keys().caller(&headers, app.now_ms())?.may(Scope::Admin, None)?;
    let Query(query) = query.map_err(|e| ApiError::field("query", e.body_text()))?;
    let rows = app.registry().audit(query.after.unwrap_or(0), 1000).await.map_err(refused)?;
    Ok(http::json(200, json!({"changes": rows}).to_string()))
}
