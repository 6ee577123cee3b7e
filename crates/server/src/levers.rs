//! `POST /v1/models/{model}/levers`: what an operator changes of a running model at once.

use std::sync::Arc;

use axum::extract::{Path, State};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response};
use pawl_domain::{
    ActionName, CheckedSpec, LeverChange, Levers, Order, Position, duration::Duration,
    spec::ActionState,
};
use pawl_store::registry::Scope;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    actions,
    app::App,
    decide::{find_kind, parse, utf8},
    error::{ApiError, ApiResult},
    http::{self, read_body},
    models::{by, refused, to_the_end},
};

/// Which lever.
#[derive(Clone, Copy, Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lever {
    /// `action` is not to be chosen.
    Disable,
    /// `action` may be chosen again.
    Enable,
    /// `action` is always to be chosen where it is eligible.
    Pin,
    /// The policy chooses again.
    Unpin,
    /// Whether the policy may explore: `on`.
    Explore,
    /// The share of traffic that the policy may decide: `share`; without it what the spec says.
    Ramp,
}

/// The body that pulls a lever.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeverRequest {
    /// Which.
    pub lever: Lever,
    /// Of `disable`, `enable` and `pin`: the action.
    #[serde(default)]
    pub action: Option<String>,
    /// Of `explore`: whether it may.
    #[serde(default)]
    pub on: Option<bool>,
    /// Of `ramp`: from 0 to 1.
    #[serde(default)]
    pub share: Option<f64>,
    /// Of `disable` and `pin`: why.
    #[serde(default)]
    pub reason: Option<String>,
    /// Of `disable` and `pin`: for how long, such as `30m`; without it until it is said otherwise.
    #[serde(default, rename = "for")]
    #[schema(value_type = Option<String>)]
    pub duration: Option<Duration>,
}

/// Longest reason.
const REASON_MAX: usize = 1024;

impl LeverRequest {
    /// The change that is asked for, where it can be.
    fn change(self, spec: &CheckedSpec, levers: &Levers, now_ms: u64) -> ApiResult<LeverChange> {
        let Self { lever, action, on, share, reason, duration } = self;
        let of = |given: bool, field: &str, allowed: bool| match (given, allowed) {
            (true, false) => Err(ApiError::field(field, "this lever has none; leave it out")),
            (false, true) => Err(ApiError::field(field, "this lever needs it")),
            _ => Ok(()),
        };
        let named = matches!(lever, Lever::Disable | Lever::Enable | Lever::Pin);
        let ordered = matches!(lever, Lever::Disable | Lever::Pin);
        of(action.is_some(), "action", named)?;
        of(on.is_some(), "on", matches!(lever, Lever::Explore))?;
        of(share.is_some(), "share", matches!(lever, Lever::Ramp) && share.is_some())?;
        of(reason.is_some(), "reason", ordered && reason.is_some())?;
        of(duration.is_some(), "for", ordered && duration.is_some())?;
        if reason.as_ref().is_some_and(|r| r.len() > REASON_MAX) {
            return Err(ApiError::field("reason", format!("has more than {REASON_MAX} bytes")));
        }
        let name = |action: Option<String>| -> ApiResult<ActionName> {
            let i = actions::index(spec, "action", &action.unwrap_or_default())?;
            Ok(spec.actions()[usize::from(i)].name.clone())
        };
        let until_ms = duration.map(|d| now_ms.saturating_add(d.ms()));
        let order = Order { reason, until_ms };
        Ok(match lever {
            Lever::Disable => {
                let action = name(action)?;
                let left = spec.actions().iter().any(|a| {
                    a.state != ActionState::Retired
                        && a.name != action
                        && !levers.disabled.contains_key(&a.name)
                });
                if !left {
                    let detail = format!(
                        "`{action}` is the last one that can be chosen; enable another first"
                    );
                    return Err(ApiError::field("action", detail));
                }
                LeverChange::Disable { action, order }
            }
            Lever::Enable => {
                // Also one that the present version no longer has.
                let disabled =
                    levers.disabled.keys().find(|a| Some(a.as_str()) == action.as_deref());
                let action = disabled.cloned().map_or_else(|| name(action), Ok)?;
                LeverChange::Enable { action }
            }
            Lever::Pin => {
                let action = name(action)?;
                let state = spec.actions().iter().find(|a| a.name == action).map(|a| a.state);
                if state == Some(ActionState::Retired) || levers.disabled.contains_key(&action) {
                    let detail = format!("`{action}` cannot be chosen: it is retired or disabled");
                    return Err(ApiError::field("action", detail));
                }
                LeverChange::Pin { action, order }
            }
            Lever::Unpin => LeverChange::Unpin,
            Lever::Explore => LeverChange::Explore(on.unwrap_or(true)),
            Lever::Ramp => {
                let wrong = |share: &f64| !(0.0..=1.0).contains(share);
                if let Some(share) = share.filter(wrong) {
                    return Err(ApiError::field("share", format!("`{share}` must be from 0 to 1")));
                }
                if share.is_some() && spec.incumbent().is_none() {
                    let detail = "the rest is the incumbent's: declare `objective.incumbent` first";
                    return Err(ApiError::field("share", detail));
                }
                LeverChange::Ramp(share)
            }
        })
    }
}

/// The levers as they stand.
pub(crate) fn describe(spec: &CheckedSpec, levers: &Levers) -> Value {
    let order = |o: &Order| json!({"reason": o.reason, "until_ms": o.until_ms});
    let disabled: serde_json::Map<String, Value> =
        levers.disabled.iter().map(|(name, o)| (name.to_string(), order(o))).collect();
    let pinned = levers
        .pinned
        .as_ref()
        .map(|(name, o)| json!({"action": name, "reason": o.reason, "until_ms": o.until_ms}));
    let [holdback, ramp] = spec.shares();
    json!({
        "disabled": disabled,
        "pinned": pinned,
        "explore": !levers.greedy,
        "ramp": levers.ramp.unwrap_or(ramp).min(1.0 - holdback),
        "holdback": holdback,
    })
}

/// Pull a lever: disable or enable an action, pin one, let the policy explore or not, give it a share of traffic. It is in
/// force for every decision after the reply, is kept over a restart, and makes no new version.
#[utoipa::path(
    post, path = "/v1/models/{model}/levers", request_body = LeverRequest,
    params(("model" = String, Path, description = "name")),
    responses((status = 200, description = "model, lever, levers as they stand, position"))
)]
pub(crate) async fn pull(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let name = find_kind(&app, &model, true)?.spec.name().clone();
    caller.may(Scope::Admin, Some(name.as_str()))?;
    let body = read_body(&app, body).await?;
    let request: LeverRequest = parse(utf8(&body)?)?;
    let mut by = by(&app, &caller, &headers);
    let (pulling, of) = (app.clone(), name.clone());
    let change = to_the_end(async move {
        // One after the other: each is checked against how things stand.
        let _one = pulling.pulling().lock().await;
        let snapshot = find_kind(&pulling, of.as_str(), true)?;
        let change = request.change(&snapshot.spec, &snapshot.levers, pulling.now_ms())?;
        if let LeverChange::Disable { order, .. } | LeverChange::Pin { order, .. } = &change {
            by.why = by.why.or_else(|| order.reason.clone());
        }
        pulling.registry().pull_lever(&of, &change, &by).await.map_err(refused)?;
        pulling.relay().await.map(|()| change)
    })
    .await?;
    let now = find_kind(&app, name.as_str(), true)?;
    let position = Position { partition: 0, offset: now.position }.to_string();
    let value = json!({
        "model": name,
        "lever": change.as_str(),
        "levers": describe(&now.spec, &now.levers),
        "position": position,
    });
    Ok(http::json(200, value.to_string()))
}
