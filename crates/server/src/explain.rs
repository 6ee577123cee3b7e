//! `GET /v1/decisions/{id}/explain`: the decision run again, from the weights that answered it.

use std::sync::Arc;

use axum::extract::{Path, State};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response};
use pawl_domain::{
    CheckedSpec, DecisionId,
    event::{Decided, Outcome},
    spec::Kind,
};
use pawl_driver::{Fold, RecoverError};
use pawl_model::{Snapshot, context::Context, snapshot::Workspace};
use pawl_store::registry::Scope;
use serde_json::{Map, Value, json};

use crate::{
    app::App,
    decisions::{describe, feedback_for, load, record_reading},
    error::{ApiError, ApiResult, Code},
    http, predict,
};

/// How many contributions of a metric and action are shown.
const SHOWN: usize = 8;

/// The snapshot that answered: the fold of the log up to its position.
fn snapshot(app: &App, decided: &Decided) -> ApiResult<Snapshot> {
    let fold = Fold::at(app.disk(), app.log(), decided.snapshot);
    let gone = |e: RecoverError| {
        ApiError::new(
            Code::NotExplainable,
            format!("the weights that answered cannot be folded again: {e}"),
        )
    };
    let mut fold = fold.map_err(gone)?;
    let snapshot =
        fold.engine_mut().snapshot(&decided.model).filter(|s| s.learner == decided.learner);
    snapshot.ok_or_else(|| {
        ApiError::new(Code::NotExplainable, "its learner did not exist at that position")
    })
}

fn explanation(
    app: &App,
    id: DecisionId,
    next: u64,
    d: &Decided,
    spec: &CheckedSpec,
) -> ApiResult<Value> {
    let mut value = describe(spec, id, d);
    let (feedback, complete) = feedback_for(app, id, d, next)?;
    value["feedback"] = feedback.into();
    value["feedback_complete"] = complete.into();
    if d.outcome != Outcome::Ok {
        return Ok(value);
    }
    let snapshot = snapshot(app, d)?;
    let context = Context::read_logged(spec, &d.context).map_err(ApiError::internal)?;
    if spec.kind() != Kind::Policy {
        let again = snapshot.predict(&context, &mut Workspace::default()).named(spec);
        let mut parts = snapshot.contributions(&context, 0, 0);
        parts.truncate(SHOWN);
        let parts: Vec<Value> =
            parts.into_iter().map(|(slot, v)| json!({"slot": slot, "value": v})).collect();
        value["explanation"] = json!({
            "recomputed_equal": again == d.metrics,
            "prediction": predict::describe(&again),
            "contributions": parts,
        });
        return Ok(value);
    }
    let actions = snapshot.spec.actions().len();
    if d.eligible.is_empty() || d.eligible.iter().any(|a| usize::from(*a) >= actions) {
        return Err(ApiError::internal("a decision names actions that its version lacks"));
    }
    let mut work = Workspace::default();
    let again = snapshot.decide_again(&context, &d.eligible, d.nonce, &mut work);
    let same = again.probabilities == d.probabilities && again.chosen == usize::from(d.chosen);
    let scores = snapshot.scores(&context, &d.eligible);
    let mut actions = Map::new();
    for (i, &action) in d.eligible.iter().enumerate() {
        let Some(known) = spec.actions().get(usize::from(action)) else { continue };
        let mut metrics = Map::new();
        for (m, metric) in spec.metrics().iter().enumerate() {
            let mut parts = snapshot.contributions(&context, m, action);
            parts.truncate(SHOWN);
            let parts: Vec<Value> =
                parts.into_iter().map(|(slot, v)| json!({"slot": slot, "value": v})).collect();
            let prior = snapshot.metrics[m].prior[usize::from(action)];
            let entry = json!({
                "predicted": scores.predicted[m][i],
                "deviation": scores.deviation[m][i],
                "weight": snapshot.weights[m],
                "prior": prior,
                "contributions": parts,
            });
            metrics.insert(metric.name.clone(), entry);
        }
        let entry = json!({
            "probability": again.probabilities[i],
            "score": scores.score[i],
            "score_deviation": scores.score_deviation[i],
            "metrics": metrics,
        });
        actions.insert(known.name.to_string(), entry);
    }
    value["explanation"] = json!({"recomputed_equal": same, "actions": actions});
    Ok(value)
}

/// Explain one decision: recomputed from the log, with scores and the largest contributions. Needs the scope `context` too.
#[utoipa::path(
    get, path = "/v1/decisions/{id}/explain", params(("id" = String, Path, description = "decision id")),
    responses((status = 200, description = "the record and its explanation"))
)]
pub(crate) async fn explain(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    let _in_flight = app.enter()?;
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let (id, entry, decided, spec) = load(&app, &caller, &id).await?;
    // Contributions say what was in the context.
    caller.may(Scope::Context, Some(decided.model.as_str()))?;
    record_reading(&app, &caller, &headers, &decided.model, "explain", 1).await?;
    let busy = |_| ApiError::new(Code::TooManyRequests, "another decision is being explained");
    let _one = app.explaining().try_acquire().map_err(busy)?;
    let folding = app.clone();
    let work =
        tokio::task::spawn_blocking(move || explanation(&folding, id, entry.next, &decided, &spec));
    let value = work.await.map_err(ApiError::internal)??;
    Ok(http::json(200, value.to_string()))
}
