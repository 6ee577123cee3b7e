//! `POST /v1/erasures`: what decisions say of a person is taken out, for good.

use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response};
use pawl_domain::{Position, Sha256};
use pawl_store::registry::Scope;
use serde::Deserialize;
use serde_json::json;

use crate::{
    app::App,
    decide::{check_id, parse, utf8},
    error::{ApiError, ApiResult, Code},
    http::{self, read_body},
    models::{by, refused, to_the_end},
};

/// Whom to forget.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EraseRequest {
    /// The targeting key that the decisions were made with.
    pub targeting_key: String,
}

/// Take out of every decision made with a targeting key what it says of that person: context, targeting key, session and
/// metadata. What was learned stays; what comes later for those decisions teaches nothing. Folding begins anew from a base
/// behind them: decisions before it can no longer be explained, learners not be rewound to before it. Backups made before
/// hold what they held.
#[utoipa::path(
    post, path = "/v1/erasures", request_body = EraseRequest,
    responses((status = 200, description = "decisions, segments, base"))
)]
pub(crate) async fn erase(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    caller.may(Scope::Admin, None)?;
    let body = read_body(&app, body).await?;
    let EraseRequest { targeting_key } = parse(utf8(&body)?)?;
    check_id("targeting_key", Some(&targeting_key))?;
    let by = by(&app, &caller, &headers);
    let value = to_the_end(async move {
        let digest = Sha256::of(targeting_key.as_bytes());
        let live = app.clone();
        let erased = tokio::task::spawn_blocking(move || {
            live.live().erase(|d| d.caller.targeting_key.as_ref() == Some(&targeting_key))
        });
        let erased = erased.await.map_err(ApiError::internal)?;
        let erased = erased.map_err(|e| ApiError::new(Code::LogUnavailable, e.to_string()))?;
        let noted = app.registry().note_erasure(digest, erased.decisions, &by).await;
        noted.map_err(refused)?;
        app.relay().await?;
        let base = (erased.decisions > 0)
            .then(|| Position { partition: 0, offset: erased.base }.to_string());
        Ok(json!({"decisions": erased.decisions, "segments": erased.segments, "base": base}))
    })
    .await?;
    Ok(http::json(200, value.to_string()))
}
