//! The key under which words of a model's contexts are hashed: for whoever teaches it elsewhere.

use std::sync::Arc;

use axum::extract::{Path, State};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response};
use pawl_store::registry::Scope;
use serde_json::json;

use crate::{
    app::App,
    decide::model_name,
    error::ApiResult,
    http,
    models::{by, refused, to_the_end},
};

/// The secret key under which words of features with `log = "encoded"` become slots, for `pawl learn`. The model need not be
/// there yet. Each reading is a row of the audit trail.
#[utoipa::path(
    get, path = "/v1/models/{model}/hash-key", params(("model" = String, Path, description = "name")),
    responses((status = 200, description = "the key, and a fingerprint that may be shown"))
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let model = model_name(&model)?;
    caller.may(Scope::Admin, Some(model.as_str()))?;
    let by = by(&app, &caller, &headers);
    let key = app.hash_key(&model);
    let value = json!({
        "model": model,
        "hash_key": key.reveal(),
        "fingerprint": key.fingerprint(),
    });
    to_the_end(async move {
        app.registry().note_key_reading(&model, &by).await.map_err(refused)?;
        app.relay().await
    })
    .await?;
    Ok(http::json(200, value.to_string()))
}
