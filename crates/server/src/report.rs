//! `GET /v1/models/{model}/report`: what was served over a time, beside what the incumbent would have given.

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::{Path, Query, State};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response};
use pawl_domain::{duration::Duration, spec::Kind};
use pawl_engine::{Entry, Model, Page};
use pawl_judge::Estimate;
use pawl_store::registry::Scope;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    app::App,
    decide::model_name,
    error::{ApiError, ApiResult, Code},
    feedback::time,
    http,
    models::refused,
};

const DAY_MS: u64 = 86_400_000;
/// A longer time is told by days, a shorter one by hours.
const BY_HOUR_MAX_MS: u64 = 3 * DAY_MS;
/// Most changes that are told, the latest.
const CHANGES_MAX: u32 = 200;

/// Over what time.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ReportQuery {
    /// From when: a duration before now such as `7d`, milliseconds since 1970, or RFC 3339. `7d` by default.
    pub since: Option<String>,
}

/// The time that a text means, counted back from now where it is a duration.
pub(crate) fn moment(field: &str, text: &str, now_ms: u64) -> ApiResult<u64> {
    if let Ok(duration) = text.parse::<Duration>() {
        return Ok(now_ms.saturating_sub(duration.ms()));
    }
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let json = if digits { text.to_owned() } else { json!(text).to_string() };
    let raw = RawValue::from_string(json).map_err(|e| ApiError::field(field, e))?;
    Ok(time(field, Some(&raw))
        .map_err(|_| {
            let rule =
                "is neither a duration such as `7d`, nor milliseconds since 1970, nor RFC 3339";
            ApiError::field(field, format!("`{text}` {rule}"))
        })?
        .unwrap_or(0))
}

fn estimate(e: Estimate) -> Value {
    json!({"value": e.value, "interval": e.interval()})
}

/// One metric over some decisions. Without enough values of the incumbent there is no comparison.
fn describe_entry(entry: &Entry, decisions: u64) -> Value {
    let c = &entry.compared;
    let of = decisions.saturating_sub(entry.apart.n as u64);
    let (n, apart) = (c.n(), entry.apart.n);
    let sum = entry.apart.sum + if n > 0 { n as f64 * c.served(of).value } else { 0.0 };
    let mut value = json!({
        "n": n as f64 + apart, "sum": sum, "compared": n, "incumbents": c.incumbents(),
        "enough": c.is_enough(),
    });
    if n > 0 {
        value["served"] = estimate(c.served(of));
    }
    if c.is_enough() {
        value["incumbent"] = estimate(c.incumbent(of));
        value["difference"] = estimate(c.difference(of));
        if c.incumbent(of).value > 0.0 {
            value["relative"] = estimate(c.relative(of));
        }
    }
    value
}

fn describe_page(page: &Page) -> Value {
    let decisions: u64 = page.decisions.values().sum();
    let metrics: Map<String, Value> = page
        .metrics
        .iter()
        .map(|(name, entry)| (name.clone(), describe_entry(entry, decisions)))
        .collect();
    json!({"decisions": decisions, "by_action": page.decisions, "metrics": metrics})
}

/// The pages since a time, by hour or by day, and all of them as one.
fn pages(model: &Model, from_ms: u64, now_ms: u64) -> (Vec<Value>, Page) {
    let by_day = now_ms.saturating_sub(from_ms) > BY_HOUR_MAX_MS;
    let mut all = Page::default();
    let mut merged: BTreeMap<u64, (u64, Page)> = BTreeMap::new();
    for (begins, length, page) in model.books.0.since(from_ms) {
        all.merge(page);
        let (begins, length) =
            if by_day { (begins / DAY_MS * DAY_MS, DAY_MS) } else { (begins, length) };
        merged.entry(begins).or_insert_with(|| (length, Page::default())).1.merge(page);
    }
    let told = merged.into_iter().map(|(begins, (length, page))| {
        let mut value = describe_page(&page);
        value["from_ms"] = begins.into();
        value["length_ms"] = length.into();
        value
    });
    (told.collect(), all)
}

/// Tell what a policy served since a time: decisions by action, each metric beside what the incumbent would have given on
/// the same requests (95 % intervals), over all and by hour or day, and what was changed.
#[utoipa::path(
    get, path = "/v1/models/{model}/report",
    params(("model" = String, Path, description = "name"), ReportQuery),
    responses((status = 200, description = "decisions, by_action, metrics, pages, changes"))
)]
pub(crate) async fn report(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    query: Result<Query<ReportQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    let now_ms = app.now_ms();
    let caller = app.keys().caller(&headers, now_ms)?;
    let name = model_name(&model)?;
    caller.may(Scope::Read, Some(name.as_str()))?;
    let Query(query) = query.map_err(|e| ApiError::field("query", e.body_text()))?;
    let from_ms = moment("since", query.since.as_deref().unwrap_or("7d"), now_ms)?;
    let (asked, wanted) = (app.clone(), name.clone());
    let inspected = tokio::task::spawn_blocking(move || asked.live().model(wanted)).await;
    let found = inspected.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
    let known = found.ok_or_else(|| ApiError::no_model(name.as_str()))?.model;
    let spec = known.production().map(|e| e.spec()).filter(|s| s.kind() == Kind::Policy);
    let Some(spec) = spec else {
        let why = format!("`{name}` does not choose; see `pawl learner status {name}`");
        return Err(ApiError::new(Code::WrongKind, why));
    };
    let changes = app.registry().changes_of(&name, from_ms, CHANGES_MAX).await.map_err(refused)?;
    let (pages, all) = pages(&known, from_ms, now_ms);
    let metrics: Map<String, Value> =
        spec.metrics().iter().map(|m| (m.name.clone(), json!({"goal": m.goal}))).collect();
    let begins = pages.first().map_or(from_ms, |p| p["from_ms"].as_u64().unwrap_or(from_ms));
    let mut value = describe_page(&all);
    value["name"] = json!(name);
    value["production"] = json!(known.production().map(|e| e.version().to_string()));
    value["incumbent"] = json!(spec.incumbent().map(|i| spec.actions()[i].name.clone()));
    value["holdback"] = json!(spec.shares()[0]);
    value["from_ms"] = begins.into();
    value["to_ms"] = now_ms.into();
    value["goals"] = Value::Object(metrics);
    value["pages"] = pages.into();
    value["changes"] = json!(changes);
    Ok(http::json(200, value.to_string()))
}
