//! `POST /v1/models/{model}/learner`: what a learner is told to do.

use std::sync::Arc;

use axum::extract::{Path, State};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response};
use pawl_domain::{Position, event::LearnerChange, rewind::Conditions};
use pawl_driver::Fold;
use pawl_store::{Log, LogError, registry::Scope};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::{
    app::App,
    decide::{find, parse, utf8},
    error::{ApiError, ApiResult, Code},
    feedback::time,
    http::{self, read_body},
    models::{by, refused, to_the_end},
};

/// What is to be done.
#[derive(Clone, Copy, Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Serve on, and learn nothing.
    Freeze,
    /// Learn again.
    Resume,
    /// Forget everything.
    Reset,
    /// Become what it would be without some of its feedback and examples.
    Rewind,
}

/// The body that tells a learner something.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LearnerRequest<'a> {
    /// What.
    pub action: Action,
    /// Of a rewind: from where on feedback and examples are left out. A position, milliseconds since 1970, or RFC 3339.
    #[serde(default, borrow)]
    #[schema(value_type = Option<String>)]
    pub to: Option<&'a RawValue>,
    /// Of a rewind: which are left out, such as `metadata.source = "x"`; all, without it.
    #[serde(default)]
    pub without: Option<String>,
}

/// The first record that came at or after a time.
fn at_time(log: &Arc<Log>, at_ms: u64) -> Result<u64, LogError> {
    let mut reader = log.reader(log.first());
    while let Some(entry) = reader.next_entry()? {
        if entry.event.came_ms().is_some_and(|came_ms| came_ms >= at_ms) {
            return Ok(entry.offset);
        }
    }
    Ok(log.head())
}

/// The first record that a rewind leaves out; the log must hold everything from there on, or a checkpoint before.
async fn first_left_out(app: &Arc<App>, to: Option<&RawValue>) -> ApiResult<u64> {
    let Some(raw) = to else {
        return Err(ApiError::field("to", "a rewind needs a position or a time"));
    };
    let position = serde_json::from_str::<String>(raw.get()).ok();
    let position = position.and_then(|text| text.parse::<Position>().ok());
    let at_ms = match position {
        Some(_) => 0,
        None => time("to", Some(raw))?.unwrap_or_default(),
    };
    let asked = app.clone();
    let found = tokio::task::spawn_blocking(move || {
        let (log, disk) = (asked.log(), asked.disk());
        let to = match position {
            Some(position) => position.offset,
            None => at_time(log, at_ms).map_err(ApiError::internal)?,
        };
        if to > log.head() {
            return Err(ApiError::field("to", "lies beyond the head of the log"));
        }
        let gone = |e| ApiError::new(Code::PositionGone, format!("nothing to fold on from: {e}"));
        Fold::before(disk, log, to).map_err(gone)?;
        Ok(to)
    });
    found.await.map_err(ApiError::internal)?
}

/// Tell a model's learner to freeze, resume, reset or rewind.
#[utoipa::path(
    post, path = "/v1/models/{model}/learner", request_body = LearnerRequest,
    params(("model" = String, Path, description = "name")),
    responses((status = 202, description = "model, action, position from which on it holds"))
)]
pub(crate) async fn change(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let snapshot = find(&app, &model)?;
    let name = snapshot.spec.name().clone();
    caller.may(Scope::Admin, Some(name.as_str()))?;
    let body = read_body(&app, body).await?;
    let request: LearnerRequest<'_> = parse(utf8(&body)?)?;
    let rewinds = matches!(request.action, Action::Rewind);
    if !rewinds && (request.to.is_some() || request.without.is_some()) {
        return Err(ApiError::field("to", "only a rewind has `to` and `without`"));
    }
    let change = match request.action {
        Action::Freeze => LearnerChange::Freeze,
        Action::Resume => LearnerChange::Resume,
        Action::Reset => LearnerChange::Reset,
        Action::Rewind => {
            let without = request.without.as_deref().map(str::parse::<Conditions>).transpose();
            let without = without.map_err(|e| ApiError::field("without", e))?.unwrap_or_default();
            LearnerChange::Rewind { to: first_left_out(&app, request.to).await?, without }
        }
    };
    let (by, changed, told) = (by(&app, &caller, &headers), name.clone(), change.clone());
    let relaying = app.clone();
    to_the_end(async move {
        relaying.registry().change_learner(&changed, &told, &by).await.map_err(refused)?;
        relaying.relay().await
    })
    .await?;
    let position = Position { partition: 0, offset: app.log().head() }.to_string();
    let mut value = json!({"model": name, "action": change.as_str(), "position": position});
    if let LearnerChange::Rewind { to, without } = change {
        value["to"] = json!(Position { partition: 0, offset: to }.to_string());
        value["without"] = json!(without.to_string());
    }
    Ok(http::json(202, value.to_string()))
}
