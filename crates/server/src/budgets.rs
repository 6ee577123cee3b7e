//! `GET /v1/models/{model}/budgets`: what was spent, and by whom.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response};
use pawl_domain::{
    Event,
    spec::{Budget, spender},
};
use pawl_engine::{BudgetKey, Ledger, Model, Spent};
use pawl_model::context::Context;
use pawl_store::registry::Scope;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::App,
    decide::model_name,
    decisions::record_reading,
    error::{ApiError, ApiResult},
    http::json,
};

/// Most spenders that are listed of a budget.
const TOP_MAX: usize = 1000;
/// Characters that are shown of a value.
const SHOWN: usize = 256;

/// The query.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    /// How many spenders are listed of each budget, those who spent most first: 20.
    #[serde(default)]
    top: Option<usize>,
}

/// Show what was spent of a model's budgets in the present periods. By which values of a feature needs the scope `context`.
#[utoipa::path(
    get, path = "/v1/models/{model}/budgets",
    params(("model" = String, Path, description = "name"), Asked),
    responses((status = 200, description = "budgets: what each is, its period, and who spent most of it"))
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    query: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let name = model_name(&model)?;
    caller.may(Scope::Read, Some(name.as_str()))?;
    let Query(asked) = query.map_err(|e| ApiError::field("query", e.body_text()))?;
    let top = asked.top.unwrap_or(20);
    if top > TOP_MAX {
        return Err(ApiError::field("top", format!("`{top}` is too many; at most {TOP_MAX}")));
    }
    let (shared, wanted) = (app.clone(), name.clone());
    let inspected = tokio::task::spawn_blocking(move || shared.live().model(wanted)).await;
    let found = inspected.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
    let model = found.ok_or_else(|| ApiError::no_model(name.as_str()))?.model;
    let named = caller.may(Scope::Context, Some(name.as_str())).is_ok()
        && model.budgets().iter().any(|(budget, _, _)| budget.by.is_some());
    if named {
        record_reading(&app, &caller, &headers, &name, "budgets", top).await?;
    }
    let told = tokio::task::spawn_blocking(move || {
        let budgets = model.budgets().into_iter();
        let told: Vec<Value> = budgets
            .map(|(budget, key, ledger)| describe(&app, &model, budget, &key, ledger, top, named))
            .collect();
        json!({"model": name, "budgets": told}).to_string()
    });
    Ok(json(200, told.await.map_err(ApiError::internal)?))
}

/// A budget, and who spent most of it.
fn describe(
    app: &App,
    model: &Model,
    budget: &Budget,
    key: &BudgetKey,
    ledger: Option<&Ledger>,
    top: usize,
    named: bool,
) -> Value {
    let begin = budget.per.begin(app.now_ms());
    let ledger = ledger.filter(|l| l.begin_ms == begin);
    let spenders = ledger.map_or_else(Vec::new, |l| ranked(model, key, l));
    let row = |(who, spent, sum): &(u64, &Spent, f64)| {
        let value = if named { said(app, model, key, *who, spent) } else { None };
        let over = ledger.is_some_and(|l| l.over.contains(who));
        json!({
            "value": value, "spent": sum, "of_which_expected": sum - spent.seen,
            "open": spent.open.values().sum::<u64>(), "over": over,
        })
    };
    json!({
        "metric": key.metric, "per": key.per, "by": key.by, "max": budget.max, "on_exceed": budget.on_exceed,
        "begin_ms": begin, "end_ms": begin + budget.per.ms(), "spenders": spenders.len(),
        "spent": spenders.iter().map(|(_, _, sum)| sum).sum::<f64>(),
        "over": ledger.map_or(0, |l| l.over.len()), "untracked": ledger.map_or(0, |l| l.untracked),
        "top": spenders.iter().take(top).map(row).collect::<Vec<_>>(),
    })
}

/// Who spent what, the most first.
fn ranked<'l>(model: &Model, key: &BudgetKey, ledger: &'l Ledger) -> Vec<(u64, &'l Spent, f64)> {
    let mean = model.mean_of(&key.metric);
    let all = ledger.spent.iter().map(|(who, spent)| (*who, spent, spent.in_all(&mean)));
    let mut all: Vec<_> = all.collect();
    all.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
    all
}

/// The value of the feature, as the spender's last decision has it; nothing where that is gone or erased.
fn said(app: &App, model: &Model, key: &BudgetKey, who: u64, spent: &Spent) -> Option<String> {
    let spec = model.production()?.spec();
    let at = spec.features().iter().position(|f| Some(&f.name) == key.by.as_ref())?;
    let Event::Decided(decided) = app.log().read(spent.decision).ok()?.event else { return None };
    let context = Context::read_logged(spec, &decided.context).ok()?;
    let value = &context.values[at];
    (spender(value) == who).then(|| match value {
        pawl_model::context::Value::Text(text) => text.chars().take(SHOWN).collect(),
        value => value.to_json(),
    })
}
