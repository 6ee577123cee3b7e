//! Versions of models, and the artifacts that carry what they learned.

use std::sync::Arc;

use axum::extract::{Path, State};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response, header};
use pawl_domain::{CheckedSpec, ModelName, ModelSpec, Position, Sha256};
use pawl_learn::Artifact;
use pawl_store::{
    artifacts,
    registry::{Scope, VersionRow},
};
use semver::Version;
use serde_json::{Value, json};

use crate::{
    app::App,
    auth::Caller,
    decide::{model_name, utf8},
    error::{ApiError, ApiResult, Code},
    http::{self, BINARY, read_artifact, read_body},
    models::{by, refused, to_the_end},
};

pub(crate) fn describe_version(row: &VersionRow) -> Value {
    let position = row.position.map(|offset| Position { partition: 0, offset }.to_string());
    json!({
        "version": row.version.to_string(),
        "stage": row.stage,
        "learner": row.learner.to_string(),
        "spec_sha256": row.spec_sha256.to_string(),
        "artifact_sha256": row.artifact_sha256.map(|a| a.to_string()),
        "position": position,
        "created_ms": row.created_ms,
        "created_by": row.created_by,
    })
}

/// What a new version is made from.
pub(crate) struct New {
    pub spec: CheckedSpec,
    pub artifact: Option<Sha256>,
}

/// Reads the spec or artifact in the body, checks it and stores it.
pub(crate) async fn read_new(
    app: &Arc<App>,
    caller: &Caller,
    model: Option<&ModelName>,
    headers: &HeaderMap,
    body: axum::body::Body,
) -> ApiResult<New> {
    // Who may not add anything sends nothing large.
    match model {
        Some(model) => caller.may(Scope::Admin, Some(model.as_str()))?,
        None => caller.may_for_some(Scope::Admin)?,
    }
    let _in_flight = app.enter()?;
    let binary =
        headers.get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes() == BINARY.as_bytes());
    let invalid = |why: String| ApiError::new(Code::InvalidSpec, why);
    let (spec, artifact) = if binary {
        let busy = |_| ApiError::new(Code::TooManyRequests, "another artifact is being read");
        let _one = app.reading_artifact().try_acquire().map_err(busy)?;
        let body = read_artifact(app, body).await?;
        let read = tokio::task::spawn_blocking(move || {
            Artifact::read(&body).map(|artifact| (artifact, body))
        });
        let read = read.await.map_err(ApiError::internal)?;
        let invalid = |why: String| ApiError::new(Code::InvalidArtifact, why);
        let (artifact, body) = read.map_err(|e| invalid(e.to_string()))?;
        check_hash_key(app, &artifact).map_err(invalid)?;
        (artifact.spec, Some(body))
    } else {
        let body = read_body(app, body).await?;
        let spec = ModelSpec::from_json(utf8(&body)?).map_err(invalid)?;
        (spec.check().map_err(|e| invalid(e.to_string()))?, None)
    };
    caller.may(Scope::Admin, Some(spec.name().as_str()))?;
    if let Some(model) = model.filter(|m| *m != spec.name()) {
        return Err(ApiError::field(
            "name",
            format!("`{}` is not the model of the path, `{model}`", spec.name()),
        ));
    }
    let (disk, text) = (app.disk().clone(), spec.to_json());
    let stored = tokio::task::spawn_blocking(move || {
        artifacts::put(disk.as_ref(), text.as_bytes())?;
        artifact.map(|bytes| artifacts::put(disk.as_ref(), &bytes)).transpose()
    });
    let artifact = stored.await.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
    Ok(New { spec, artifact })
}

/// What was learned of words holds under the key that they were hashed with, and no other.
fn check_hash_key(app: &App, artifact: &Artifact) -> Result<(), String> {
    let name = artifact.spec.name();
    let ours = app.hash_key(name).fingerprint();
    if !artifact.spec.is_keyed() || artifact.hash_key.as_ref() == Some(&ours) {
        return Ok(());
    }
    let theirs = artifact.hash_key.as_deref().unwrap_or("none");
    Err(format!(
        "its words were hashed under the key {theirs}, those of `{name}` are hashed under {ours} here: learn it with this \
         server's key"
    ))
}

/// Add a version from a changed spec. Pawl computes its number; it goes into production and keeps what it can of the
/// learning; or begins from the artifact that is sent instead of a spec. `If-Match` with the present version guards against a change in between.
#[utoipa::path(
    post, path = "/v1/models/{model}/versions",
    request_body(content = Object, description = "a spec as JSON, or an artifact as application/octet-stream"),
    params(("model" = String, Path, description = "name")),
    responses((status = 201, description = "the version and the differences that made its number"))
)]
pub(crate) async fn add(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let model = model_name(&model)?;
    let New { spec, artifact } = read_new(&app, &caller, Some(&model), &headers, body).await?;
    let expected = match headers.get(header::IF_MATCH).map(|v| v.to_str().unwrap_or_default()) {
        None => None,
        Some(text) => {
            let text = text.trim_matches('"');
            let version = text
                .parse()
                .map_err(|_| ApiError::field("If-Match", format!("`{text}` is not a version")));
            Some(version?)
        }
    };
    let by = by(&app, &caller, &headers);
    let (row, differences) = to_the_end(async move {
        let made = app.registry().create_version(&spec, artifact, expected.as_ref(), &by).await;
        let made = made.map_err(refused)?;
        app.relay().await.map(|()| made)
    })
    .await?;
    let mut value = describe_version(&row);
    value["name"] = json!(row.model);
    value["differences"] = json!(differences);
    Ok(http::json(201, value.to_string()))
}

/// Cut a version from what the production learner knows: a PATCH with an artifact, in the stage `staging`. The learner
/// learns on.
#[utoipa::path(
    post, path = "/v1/models/{model}/versions/cut", params(("model" = String, Path, description = "name")),
    responses((status = 201, description = "the version, its artifact, and the position up to which it had learned"))
)]
pub(crate) async fn cut(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let name = model_name(&model)?;
    caller.may(Scope::Admin, Some(name.as_str()))?;
    let by = by(&app, &caller, &headers);
    let row = to_the_end(async move {
        let asked = app.clone();
        let frozen = tokio::task::spawn_blocking(move || {
            let known = asked.live().model(name.clone()).map_err(ApiError::internal)?;
            let known = known.ok_or_else(|| ApiError::no_model(name.as_str()))?;
            let learner = known.model.production();
            let learner = learner.ok_or_else(|| ApiError::no_model(name.as_str()))?;
            let bytes = learner.artifact(&asked.hash_key(&name)).map_err(ApiError::internal)?;
            let digest = artifacts::put(asked.disk().as_ref(), &bytes);
            let digest = digest.map_err(ApiError::internal)?;
            let (spec, version) = (learner.spec().clone(), learner.version().clone());
            Ok::<_, ApiError>((spec, version, digest, learner.learned_to(known.position)))
        });
        let (spec, of, artifact, position) = frozen.await.map_err(ApiError::internal)??;
        let cut = app.registry().cut_version(&spec, &of, artifact, position, &by).await;
        let row = cut.map_err(refused)?;
        app.relay().await.map(|()| row)
    })
    .await?;
    let mut value = describe_version(&row);
    value["name"] = json!(row.model);
    Ok(http::json(201, value.to_string()))
}

/// The artifact of a version, in the safetensors format.
#[utoipa::path(
    get, path = "/v1/models/{model}/versions/{version}/artifact",
    params(("model" = String, Path, description = "name"), ("version" = String, Path, description = "such as 1.0.1")),
    responses((status = 200, description = "the file", content_type = "application/octet-stream", body = Vec<u8>))
)]
pub(crate) async fn artifact(
    State(app): State<Arc<App>>,
    Path((model, version)): Path<(String, String)>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let _in_flight = app.enter()?;
    let model = model_name(&model)?;
    caller.may(Scope::Read, Some(model.as_str()))?;
    let wanted: Version = version
        .parse()
        .map_err(|_| ApiError::field("version", format!("`{version}` is not a version")))?;
    let rows = app.registry().versions(&model).await.map_err(refused)?;
    let none =
        |what: &str| ApiError::new(Code::ReferenceNotFound, format!("`{model}@{wanted}` {what}"));
    let row = rows.iter().find(|r| r.version == wanted).ok_or_else(|| none("does not exist"))?;
    let digest = row.artifact_sha256.ok_or_else(|| none("has no artifact: cut a version first"))?;
    let _one = app.reading_artifact().acquire().await.map_err(ApiError::internal)?;
    let disk = app.disk().clone();
    let read = tokio::task::spawn_blocking(move || artifacts::get(disk.as_ref(), digest));
    let bytes = read.await.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
    let bytes = bytes.ok_or_else(|| ApiError::internal("an artifact is not there, or damaged"))?;
    Ok(http::binary(bytes))
}

/// List a model's versions, oldest first.
#[utoipa::path(
    get, path = "/v1/models/{model}/versions", params(("model" = String, Path, description = "name")),
    responses((status = 200, description = "versions, each with its spec"))
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let model = model_name(&model)?;
    caller.may(Scope::Read, Some(model.as_str()))?;
    let rows = app.registry().versions(&model).await.map_err(refused)?;
    let version = |row: &VersionRow| {
        let mut value = describe_version(row);
        value["spec"] = serde_json::from_str(&row.spec).unwrap_or(Value::Null);
        value
    };
    let versions: Vec<Value> = rows.iter().map(version).collect();
    Ok(http::json(200, json!({"versions": versions}).to_string()))
}
