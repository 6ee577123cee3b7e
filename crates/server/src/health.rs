//! Whether it lives, whether it is ready and why not, what it measures, where its log stands.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response, header};
use pawl_domain::Position;
use pawl_store::registry::Scope;
use serde_json::json;

use crate::{
    app::App,
    error::{ApiError, ApiResult, Code},
    http,
};

/// Whether the process answers at all.
#[utoipa::path(get, path = "/livez", responses((status = 200, description = "it does")))]
pub(crate) async fn livez() -> Response<Full<Bytes>> {
    http::json(200, "{\"status\":\"ok\"}".to_owned())
}

/// Whether decisions and feedback can be taken now. With `?verbose`, every check and its result.
#[utoipa::path(get, path = "/readyz", responses((status = 200, description = "ready"), (status = 503, description = "not ready")))]
pub(crate) async fn readyz(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Response<Full<Bytes>> {
    let lag = app.live().lag_bytes();
    let synced =
        tokio::time::timeout(std::time::Duration::from_secs(2), app.on_disk(app.log().head()));
    let synced = synced
        .await
        .map_or_else(|_| Err("no sync within 2 s".to_owned()), |r| r.map_err(|e| e.detail));
    let checks: [(&str, Result<(), String>); 6] = [
        ("registry", app.registry().ping().await.map_err(|e| e.to_string())),
        (
            "log",
            if app.log().refuses() { Err("the disk refuses records".to_owned()) } else { synced },
        ),
        ("learning", app.live().stopped().map_or(Ok(()), |s| Err(s.to_string()))),
        (
            "lag",
            if lag <= app.config().limits.lag_bytes {
                Ok(())
            } else {
                Err(format!("{lag} bytes are not folded"))
            },
        ),
        ("checkpoint", app.live().checkpoint_error().map_or(Ok(()), Err)),
        (
            "running",
            if app.is_stopping() { Err("the server is stopping".to_owned()) } else { Ok(()) },
        ),
    ];
    let ready = checks.iter().all(|(_, r)| r.is_ok());
    let status = if ready { "ready" } else { "not_ready" };
    let mut value = json!({"status": status});
    if query.is_some_and(|q| q.split('&').any(|p| p == "verbose" || p.starts_with("verbose="))) {
        let shown = checks.iter().map(|(name, result)| {
            let text = result.as_ref().map_or_else(Clone::clone, |()| "ok".to_owned());
            ((*name).to_owned(), json!(text))
        });
        value["checks"] = serde_json::Value::Object(shown.collect());
    }
    http::json(if ready { 200 } else { 503 }, value.to_string())
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "exposition text")))]
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    app.keys().caller(&headers, app.now_ms())?.may(Scope::Read, None)?;
    let text = tokio::task::spawn_blocking(move || app.metrics().text(&app)).await;
    let text = text.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
    let mut response = http::json(200, text);
    let kind = header::HeaderValue::from_static(
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    );
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Write a checkpoint now.
#[utoipa::path(post, path = "/v1/checkpoints", responses((status = 201, description = "its position")))]
pub(crate) async fn checkpoint(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    app.keys().caller(&headers, app.now_ms())?.may(Scope::Admin, None)?;
    let written = tokio::task::spawn_blocking(move || app.live().checkpoint()).await;
    let offset = written
        .map_err(ApiError::internal)?
        .map_err(|e| ApiError::new(Code::LogUnavailable, e.to_string()))?;
    let position = Position { partition: 0, offset }.to_string();
    Ok(http::json(201, json!({"position": position}).to_string()))
}

/// Where the log stands; with `?state`, the digest of the whole folded state and its position.
#[utoipa::path(get, path = "/v1/log", responses((status = 200, description = "offsets, epoch, digest")))]
pub(crate) async fn log(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    app.keys().caller(&headers, app.now_ms())?.may(Scope::Read, None)?;
    let at = |offset| Position { partition: 0, offset }.to_string();
    let log = app.log();
    let recovery = app.recovery();
    let mut value = json!({
        "epoch": log.epoch(),
        "first": at(log.first()),
        "head": at(log.head()),
        "synced": at(log.synced()),
        "folded": at(app.live().position()),
        "torn_bytes_cut": recovery.torn_bytes,
    });
    if query.is_some_and(|q| q.split('&').any(|p| p == "state" || p.starts_with("state="))) {
        let inspected = tokio::task::spawn_blocking(move || app.live().inspect()).await;
        let inspected = inspected.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
        let tally = &inspected.state.tally;
        value["state"] = json!({
            "position": at(inspected.state.position),
            "sha256": inspected.sha256.to_string(),
            "open_decisions": inspected.state.join.open(),
            "orphan": tally.orphan,
            "early": tally.early,
            "early_dropped": tally.early_dropped,
            "closed_early": tally.closed_early,
        });
    }
    Ok(http::json(200, value.to_string()))
}
