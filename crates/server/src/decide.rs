//! `POST /v1/models/{model}/decide`: from a request's bytes to a recorded decision.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use axum::extract::{Path, State};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response};
use pawl_domain::{
    CheckedSpec, DecisionId, Event, ModelName, Position,
    event::{self, Decided, Outcome},
    spec::Kind,
    suggest,
};
use pawl_engine::request_key;
use pawl_model::{
    HashKey, Refusal, Request, Snapshot,
    context::Context,
    snapshot::{Choice, Made, Workspace},
};
use pawl_store::registry::Scope;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    actions,
    app::App,
    append::append,
    auth::Caller,
    config::{Durability, OnLogFailure},
    decisions::spec_of,
    error::{ApiError, ApiResult, Code},
    http::{json, read_body},
    request_id,
    requests::Known,
    sessions,
};

/// The body of a decide request.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecideRequest<'a> {
    /// What is known of the request: a JSON object. Declared features are stored, the rest is ignored.
    #[serde(borrow)]
    #[schema(value_type = Object)]
    pub context: &'a RawValue,
    /// Only these actions: names, or names with features of their own, `{"name": …, "features": {…}}`.
    #[serde(default, borrow)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub actions: Option<Vec<&'a RawValue>>,
    /// Whom the decision is about.
    #[serde(default)]
    pub targeting_key: Option<String>,
    /// The session it belongs to.
    #[serde(default)]
    pub session_id: Option<String>,
    /// The caller's own id: the same request again within a window answers the same decision.
    #[serde(default)]
    pub request_id: Option<String>,
    /// A flat object, stored with the decision.
    #[serde(default, borrow)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<&'a RawValue>,
    /// Decide without recording: the reply has no `decision_id`.
    #[serde(default)]
    pub dry_run: bool,
}

/// The reply to a decide request.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub struct DecideReply {
    /// What feedback refers to. Absent for dry runs and unlogged decisions.
    decision_id: Option<String>,
    /// The model.
    model: String,
    /// The version that answered.
    version: String,
    /// The log position up to which it had learned.
    position: String,
    /// The chosen action.
    action: String,
    /// The action's payload, as the spec gives it.
    #[schema(value_type = Option<Object>)]
    payload: Option<serde_json::Value>,
    /// The probability with which it was drawn.
    probability: f64,
    /// `ok`, `fallback`, `sticky`, `dry_run` or `unlogged`.
    outcome: String,
    /// Why it was not the policy that chose (`holdback`, `ramp`, `floor`, `pinned`, `budget`, `session`, `policy_failed`), or why it is not in the log.
    reason: Option<String>,
}

/// Longest id, key or session of a caller.
const ID_MAX: usize = 256;
/// Largest metadata.
const METADATA_MAX: usize = 8192;

thread_local! {
    static WORK: RefCell<Workspace> = RefCell::default();
}

/// Parses JSON, naming the field and the nearest known one where it does not fit.
pub(crate) fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> ApiResult<T> {
    serde_json::from_str(text).map_err(|e| {
        let code = if e.is_data() { Code::InvalidRequest } else { Code::InvalidJson };
        ApiError::new(code, suggest::explain_unknown(&e.to_string()))
    })
}

/// The body as text.
pub(crate) fn utf8(body: &[u8]) -> ApiResult<&str> {
    core::str::from_utf8(body)
        .map_err(|_| ApiError::new(Code::InvalidJson, "the body is not UTF-8"))
}

/// The name and snapshot of `model[@ref]`. A reference other than the production version is not served.
pub(crate) fn find(app: &App, reference: &str) -> ApiResult<Arc<Snapshot>> {
    let (name, wanted) = reference.split_once('@').map_or((reference, None), |(n, r)| (n, Some(r)));
    let snapshot = app.live().published().get(name).ok_or_else(|| ApiError::no_model(name))?;
    if snapshot.archived {
        return Err(ApiError::new(Code::ModelArchived, format!("the model `{name}` is archived")));
    }
    match wanted {
        Some(r) if r != "production" && snapshot.version.to_string() != r => {
            let detail =
                format!("`{r}` is not served: `{name}` is at {} in production", snapshot.version);
            Err(ApiError::new(Code::ReferenceNotFound, detail))
        }
        _ => Ok(snapshot),
    }
}

/// The same, of a model that chooses or of one that predicts.
pub(crate) fn find_kind(app: &App, reference: &str, chooses: bool) -> ApiResult<Arc<Snapshot>> {
    let snapshot = find(app, reference)?;
    let name = snapshot.spec.name();
    match (snapshot.spec.kind(), chooses) {
        (Kind::Policy, true) | (Kind::Regressor | Kind::Classifier, false) => Ok(snapshot),
        (Kind::Policy, false) => {
            let detail = format!("`{name}` is a policy: ask `/v1/models/{name}/decide`");
            Err(ApiError::new(Code::WrongKind, detail))
        }
        (_, true) => {
            let detail = format!("`{name}` does not choose: ask `/v1/models/{name}/predict`");
            Err(ApiError::new(Code::WrongKind, detail))
        }
    }
}

/// Checks a caller's id.
pub(crate) fn check_id(field: &str, id: Option<&str>) -> ApiResult<()> {
    match id {
        Some(id) if id.is_empty() || id.len() > ID_MAX => {
            Err(ApiError::field(field, format!("has {} bytes; use 1 to {ID_MAX}", id.len())))
        }
        _ => Ok(()),
    }
}

/// Checks that metadata is a flat object, and returns its text.
pub(crate) fn flat(metadata: Option<&RawValue>) -> ApiResult<Option<String>> {
    let Some(raw) = metadata else { return Ok(None) };
    let text = raw.get();
    if text == "null" {
        return Ok(None);
    }
    let nested = |v: &serde_json::Value| v.is_object() || v.is_array();
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text) {
        Ok(map) if text.len() <= METADATA_MAX && !map.values().any(nested) => {
            Ok(Some(text.to_owned()))
        }
        _ => Err(ApiError::field(
            "metadata",
            format!("must be a flat JSON object of at most {METADATA_MAX} bytes"),
        )),
    }
}

/// Decides once. Returns the record, which is not yet in the log.
async fn choose(
    app: &App,
    snapshot: &Snapshot,
    body: &DecideRequest<'_>,
    caller: event::Caller,
) -> ApiResult<Decided> {
    let spec = &snapshot.spec;
    let mut context = read_context(app, spec, body.context.get())?;
    let listed = body.actions.as_deref();
    let wanted = listed.map(|list| actions::read(spec, list, &mut context)).transpose()?;
    let (missing, unknown) = context.gaps(spec);
    if missing + unknown > 0 {
        app.metrics().missing.inc_by(missing as u64);
        app.metrics().unknown.inc_by(unknown as u64);
    }
    let nonce = nonce()?;
    let request = Request { context: &context, actions: wanted.as_deref(), seed: nonce };
    let (choice, outcome) = decide_or_fall_back(snapshot, &request)?;
    let made = Made { epoch: app.log().epoch(), nonce, at_ms: app.now_ms(), caller };
    let mut decided = snapshot.record(&context, choice, made);
    if outcome == Outcome::Fallback {
        (decided.outcome, decided.reason) = (outcome, Some("policy_failed".to_owned()));
    }
    sessions::repeat(app, snapshot, &mut decided).await;
    Ok(decided)
}

/// The policy's choice, or where it panics the incumbent: an eligible action is always answered.
fn decide_or_fall_back(snapshot: &Snapshot, request: &Request<'_>) -> ApiResult<(Choice, Outcome)> {
    let refused = |e: Refusal| match e {
        Refusal::NoEligibleAction(_) => ApiError::new(Code::NoEligibleAction, e.to_string()),
    };
    let decided = catch_unwind(AssertUnwindSafe(|| {
        WORK.with_borrow_mut(|work| snapshot.decide(request, work))
    }));
    match decided {
        Ok(choice) => Ok((choice.map_err(refused)?, Outcome::Ok)),
        Err(_) => {
            tracing::error!(request_id = request_id::current(), model = %snapshot.spec.name(), "the policy panicked; the incumbent is answered");
            // What it left behind may be half written.
            WORK.set(Workspace::default());
            Ok((snapshot.fall_back(request).map_err(refused)?, Outcome::Fallback))
        }
    }
}

/// Reads a context.
pub(crate) fn read_context<'a>(
    app: &App,
    spec: &CheckedSpec,
    text: &'a str,
) -> ApiResult<Context<'a>> {
    let invalid = |e| ApiError::new(Code::InvalidContext, format!("`context` {e}"));
    let key = if spec.is_keyed() { app.hash_key(spec.name()) } else { HashKey::default() };
    Context::read(spec, &key, text).map_err(invalid)
}

/// 64 random bits of the operating system, drawn in blocks.
pub(crate) fn nonce() -> ApiResult<u64> {
    thread_local! {
        static BLOCK: RefCell<([u8; 512], usize)> = const { RefCell::new(([0; 512], 512)) };
    }
    BLOCK.with_borrow_mut(|(block, used)| {
        if *used == block.len() {
            getrandom::fill(block).map_err(ApiError::internal)?;
            *used = 0;
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&block[*used..*used + 8]);
        *used += 8;
        Ok(u64::from_le_bytes(bytes))
    })
}

/// The reply for a decision.
fn reply(
    spec: &CheckedSpec,
    decided: &Decided,
    id: Option<DecisionId>,
    outcome: &str,
    reason: Option<&str>,
) -> String {
    use core::fmt::Write as _;
    let mut out = String::with_capacity(320);
    out.push('{');
    // Writing to a string cannot fail.
    if let Some(id) = id {
        let _infallible = write!(out, "\"decision_id\":\"{id}\",");
    }
    let action = decided.action().and_then(|a| spec.actions().get(usize::from(a)));
    let position = Position { partition: 0, offset: decided.snapshot };
    let _infallible = write!(
        out,
        "\"model\":\"{}\",\"version\":\"{}\",\"position\":\"{position}\",\"action\":",
        decided.model, decided.version
    );
    let name = action.map_or("", |a| a.name.as_str());
    if name.bytes().any(|b| matches!(b, b'"' | b'\\')) {
        out.push_str(&serde_json::Value::from(name).to_string());
    } else {
        let _infallible = write!(out, "\"{name}\"");
    }
    if let Some(payload) = action.and_then(|a| a.payload.as_ref()) {
        let _infallible = write!(out, ",\"payload\":{payload}");
    }
    let probability = decided.probability().unwrap_or_default();
    let _infallible = write!(out, ",\"probability\":{probability:?},\"outcome\":\"{outcome}\"");
    if let Some(reason) = reason {
        let _infallible = write!(out, ",\"reason\":{}", serde_json::Value::from(reason));
    }
    out.push('}');
    out
}

/// Decides, records, and only then answers.
async fn answer(app: &Arc<App>, model: &str, caller: &Caller, text: &str) -> ApiResult<String> {
    let begun = Instant::now();
    let snapshot = find_kind(app, model, true)?;
    caller.may(Scope::Decide, Some(snapshot.spec.name().as_str()))?;
    app.quotas().take(snapshot.spec.name().as_str(), 1, text.len())?;
    let body: DecideRequest<'_> = parse(text)?;
    check_id("targeting_key", body.targeting_key.as_deref())?;
    check_id("session_id", body.session_id.as_deref())?;
    check_id("request_id", body.request_id.as_deref())?;
    let who = event::Caller {
        principal: caller.principal(),
        request_id: body.request_id.clone(),
        targeting_key: body.targeting_key.clone(),
        session_id: body.session_id.clone(),
        metadata: flat(body.metadata)?,
        at_ms: None,
        body_hash: body.request_id.as_ref().map(|_| app.request_hash(text)),
    };
    if body.dry_run {
        let decided = choose(app, &snapshot, &body, who).await?;
        let reason = decided.reason.as_deref();
        return Ok(reply(&snapshot.spec, &decided, None, "dry_run", reason));
    }
    let key = body.request_id.as_ref().map(|id| request_key(snapshot.spec.name(), id));
    let Some(key) = key else {
        let decided = choose(app, &snapshot, &body, who).await?;
        let (text, _) = record(app, &snapshot, decided).await?;
        app.metrics().decide_seconds.observe(begun.elapsed().as_secs_f64());
        return Ok(text);
    };
    match app.requests().reserve(key, app.now_ms()) {
        Known::InProgress => {
            let detail = "a request with this `request_id` is being answered";
            Err(ApiError::new(Code::RequestInProgress, detail))
        }
        Known::Answered(id) => repeated(app, id, who.request_id.as_ref(), text).await,
        Known::New => {
            let reserved = Reserved::new(app.clone(), key);
            let decided = choose(app, &snapshot, &body, who).await?;
            // A task of its own: a caller that hangs up now and asks again gets this decision, not another.
            let app = app.clone();
            let recording = tokio::spawn(request_id::keep(async move {
                let (text, id) = record(&app, &snapshot, decided).await?;
                match id {
                    Some(id) => reserved.complete(id),
                    None => drop(reserved),
                }
                Ok(text)
            }));
            recording.await.map_err(ApiError::internal)?
        }
    }
}

/// A reserved request id: released unless it was answered.
pub(crate) struct Reserved {
    app: Arc<App>,
    key: u64,
    answered: bool,
}

impl Reserved {
    pub(crate) const fn new(app: Arc<App>, key: u64) -> Self {
        Self { app, key, answered: false }
    }

    pub(crate) fn complete(mut self, id: DecisionId) {
        self.app.requests().complete(self.key, self.app.now_ms(), id);
        self.answered = true;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.answered {
            self.app.requests().release(self.key);
        }
    }
}

/// The decision that this request id was answered with, read from the log.
async fn repeated(
    app: &App,
    id: DecisionId,
    request_id: Option<&String>,
    text: &str,
) -> ApiResult<String> {
    let entry = app.log().read(id.position.offset).map_err(ApiError::internal)?;
    let Event::Decided(decided) = entry.event else {
        return Err(ApiError::internal("a remembered request id points to no decision"));
    };
    if !app.answered(&decided, request_id, text) {
        let detail = "`request_id` was used for another request; use a new one";
        return Err(ApiError::new(Code::RequestIdReused, detail));
    }
    let spec = spec_of(app, &decided).await?;
    let reason = decided.reason.as_deref();
    Ok(reply(&spec, &decided, Some(id), outcome(&decided), reason))
}

/// The outcome of a recorded decision, as a reply has it.
const fn outcome(decided: &Decided) -> &'static str {
    match decided.outcome {
        Outcome::Fallback => "fallback",
        Outcome::Sticky => "sticky",
        Outcome::Ok | Outcome::Elsewhere => "ok",
    }
}

/// What a caller may do where a decision cannot be recorded: the incumbent where it is eligible, else what was chosen.
fn meanwhile<'a>(spec: &'a CheckedSpec, decided: &Decided) -> Option<&'a str> {
    let incumbent = spec.incumbent().map(|i| i as u16).filter(|i| decided.eligible.contains(i));
    let action = spec.actions().get(usize::from(incumbent.or(decided.action())?))?;
    Some(action.name.as_str())
}

/// Puts a decision into the log and gives its reply and id.
async fn record(
    app: &Arc<App>,
    snapshot: &Snapshot,
    decided: Decided,
) -> ApiResult<(String, Option<DecisionId>)> {
    let events = [Event::Decided(decided)];
    let appended = append(app, &events).await;
    let [Event::Decided(decided)] = events else {
        return Err(ApiError::internal("a decision turned into another event"));
    };
    let place = match appended {
        Ok(places) => places[0],
        Err(why) if app.config().on_log_failure == OnLogFailure::Serve => {
            tracing::warn!(request_id = request_id::current(), %why, "a decision is served unlogged");
            return Ok((reply(&snapshot.spec, &decided, None, "unlogged", Some(&why)), None));
        }
        Err(why) => {
            let error = ApiError::new(Code::LogUnavailable, why);
            let meanwhile = meanwhile(&snapshot.spec, &decided);
            return Err(meanwhile.map_or(error.clone(), |action| error.or_do(action)));
        }
    };
    if app.config().durability == Durability::Disk {
        let meanwhile = meanwhile(&snapshot.spec, &decided);
        let synced = app.on_disk(place.end).await;
        synced.map_err(|e| meanwhile.map_or(e.clone(), |action| e.or_do(action)))?;
    }
    let id = decided.id(Position { partition: 0, offset: place.offset });
    if snapshot.spec.session().is_some() {
        app.sessions().note(id, &decided);
    }
    let reason = decided.reason.as_deref();
    Ok((reply(&snapshot.spec, &decided, Some(id), outcome(&decided), reason), Some(id)))
}

/// The hot route.
pub(crate) async fn decide(
    app: &Arc<App>,
    model: &str,
    caller: &Caller,
    body: &Bytes,
) -> ApiResult<Response<Full<Bytes>>> {
    Ok(json(200, answer(app, model, caller, utf8(body)?).await?))
}

/// The body of a batch.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchRequest<'a> {
    /// Decide requests.
    #[serde(borrow)]
    #[schema(value_type = Vec<Object>)]
    pub requests: Vec<&'a RawValue>,
}

/// Decide several times; each item has its own answer or error.
#[utoipa::path(
    post, path = "/v1/models/{model}/decide/batch", request_body = BatchRequest,
    params(("model" = String, Path, description = "name, or name@version")),
    responses((status = 200, description = "decisions: one reply or error a request"))
)]
pub(crate) async fn batch(
    State(app): State<Arc<App>>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> ApiResult<Response<Full<Bytes>>> {
    let caller = app.keys().caller(&headers, app.now_ms())?;
    let _in_flight = app.enter()?;
    let body = read_body(&app, body).await?;
    let request: BatchRequest<'_> = parse(utf8(&body)?)?;
    let n = request.requests.len();
    app.check_batch("requests", n)?;
    find_kind(&app, &model, true)?;
    let mut answers = Vec::with_capacity(n);
    // Together, so that their records go into one write.
    let pending = request.requests.iter().map(|item| answer(&app, &model, &caller, item.get()));
    for answer in futures_join(pending).await {
        answers
            .push(answer.unwrap_or_else(|e| serde_json::json!({"error": e.member()}).to_string()));
    }
    Ok(json(200, format!("{{\"decisions\":[{}]}}", answers.join(","))))
}

/// Runs futures concurrently on this task and gives their results in order.
async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.map(|f| (Box::pin(f), None)).collect();
    core::future::poll_fn(|context| {
        let mut waiting = false;
        for (future, output) in &mut running {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    core::task::Poll::Ready(value) => *output = Some(value),
                    core::task::Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { core::task::Poll::Pending } else { core::task::Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}

/// The name of a model in a path.
pub(crate) fn model_name(text: &str) -> ApiResult<ModelName> {
    text.parse().map_err(|e| ApiError::field("model", e))
}

/// The description of the hot route for the API's document.
#[utoipa::path(
    post, path = "/v1/models/{model}/decide", request_body = DecideRequest,
    params(("model" = String, Path, description = "name, or name@version")),
    responses((status = 200, description = "the decision", body = DecideReply))
)]
#[expect(dead_code, reason = "carries the description; the route is served before the router")]
pub(crate) fn decide_description() {}

#[cfg(test)]
mod tests {
    use pawl_domain::{LearnerId, ModelSpec};
    use pawl_learn::Learner;
    use pawl_model::{Views, snapshot::Estimates};
    use semver::Version;

    use super::*;

    /// A policy that panics does not cost the caller an answer, and the next decision is not touched by it.
    #[test]
    fn a_policy_that_panics_is_answered_for_by_the_incumbent() {
        let text = "schema = 1\nname = \"m\"\nkind = \"policy\"\nactions = [\"a\", \"b\"]\n[metrics]\nquality = {}\n\
                    [objective]\nincumbent = \"b\"\n[learner]\nalgorithm = \"epsilon_greedy\"\nepsilon = 0.0\n";
        let spec = Arc::new(ModelSpec::from_toml(text).unwrap().check().unwrap());
        let views = Arc::new(Views::of(&spec));
        let mut learner = Learner::new(&spec, &views);
        let sound = learner.snapshot(&spec, &views, Version::new(1, 0, 0), LearnerId(1), 0);
        let mut broken = sound.clone();
        broken.metrics[0].estimates = Estimates::Counts(Vec::new());
        let context = Context::read(&spec, &HashKey::default(), "{}").unwrap();
        let request = Request { context: &context, actions: None, seed: 3 };
        let (choice, outcome) = decide_or_fall_back(&broken, &request).unwrap();
        assert_eq!(outcome, Outcome::Fallback);
        assert_eq!((choice.eligible[choice.chosen], choice.probabilities[choice.chosen]), (1, 1.0));
        let request = Request { actions: Some(&[0]), ..request };
        let (choice, _) = decide_or_fall_back(&broken, &request).unwrap();
        assert_eq!(choice.eligible[choice.chosen], 0, "the incumbent is not eligible");
        let (_, outcome) = decide_or_fall_back(&sound, &request).unwrap();
        assert_eq!(outcome, Outcome::Ok);
    }
}
