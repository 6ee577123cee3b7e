//! The end of a model: archived it answers no more, deleted it is gone.

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
    error::{ApiError, ApiResult, Code},
    http,
    models::{by, refused, to_the_end},
};

async fn change(
    app: Arc<App>,
    model: &str,
    headers: HeaderMap,
    archived: bool,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let name = model_name(model)?;
    caller.may(Scope::Admin, Some(name.as_str()))?;
    let by = by(&app, &caller, &headers);
    let of = name.clone();
    to_the_end(async move {
        app.registry().archive(&of, archived, &by).await.map_err(refused)?;
        app.relay().await
    })
    .await?;
    Ok(http::json(200, json!({"name": name, "archived": archived}).to_string()))
}

/// Archive a model: it answers no more (410), feedback for its decisions still teaches it. In force with the reply.
#[utoipa::path(
    post, path = "/v1/models/{model}/archive", params(("model" = String, Path, description = "name")),
    responses((status = 200, description = "name, archived"))
)]
pub(crate) async fn archive(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    change(app, &model, headers, true).await
}

/// Let an archived model answer again.
#[utoipa::path(
    delete, path = "/v1/models/{model}/archive", params(("model" = String, Path, description = "name")),
    responses((status = 200, description = "name, archived"))
)]
pub(crate) async fn unarchive(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    change(app, &model, headers, false).await
}

/// Delete an archived model and what it learned. Its name stays taken, and its decisions stay in the log until they are trimmed; feedback
/// for them is an orphan.
#[utoipa::path(
    delete, path = "/v1/models/{model}", params(("model" = String, Path, description = "name")),
    responses((status = 200, description = "name, deleted"))
)]
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let name = model_name(&model)?;
    caller.may(Scope::Admin, Some(name.as_str()))?;
    let by = by(&app, &caller, &headers);
    let of = name.clone();
    to_the_end(async move {
        let (asked, wanted) = (app.clone(), of.clone());
        let known = tokio::task::spawn_blocking(move || asked.live().model(wanted)).await;
        let known = known.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
        if known.is_some_and(|k| k.rewinding) {
            let detail = format!("a learner of `{of}` is being rewound; wait for its end");
            return Err(ApiError::new(Code::Conflict, detail));
        }
        app.registry().delete(&of, &by).await.map_err(refused)?;
        app.relay().await
    })
    .await?;
    Ok(http::json(200, json!({"name": name, "deleted": true}).to_string()))
}
