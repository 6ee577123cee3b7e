//! Every error that a client can meet: one table, RFC 9457 on the wire, `docs/errors.md` for people.

use axum::response::IntoResponse;
use http_body_util::Full;
use hyper::{Response, StatusCode, header};
use serde_json::json;

use crate::request_id;

macro_rules! codes {
    ($($(#[$meta:meta])* $variant:ident $code:literal $status:literal $retry:literal $remedy:literal;)*) => {
        /// The code of an error: stable, and what a program should look at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $($(#[$meta])* $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As it is written.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// The HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// Whether the same request may succeed later.
            #[must_use]
            pub const fn retryable(self) -> bool {
                match self { $(Self::$variant => $retry,)* }
            }

            /// What to do about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }
        }
    };
}

codes! {
    /// Not HTTP as it should be.
    InvalidRequest "invalid_request" 422 false "correct the field that `detail` names";
    /// The body is not JSON.
    InvalidJson "invalid_json" 400 false "send a JSON object";
    /// The spec does not hold together.
    InvalidSpec "invalid_spec" 422 false "correct every field in `detail`; `pawl spec check` tells the same";
    /// The artifact cannot be read.
    InvalidArtifact "invalid_artifact" 422 false "send a file that `pawl learn --out` or `pawl version download` wrote";
    /// The context is not an object.
    InvalidContext "invalid_context" 422 false "send `context` as a JSON object";
    /// Nothing can be chosen.
    NoEligibleAction "no_eligible_action" 422 false "allow at least one action in `actions`, or raise its `max`";
    /// Two requests with one id.
    RequestIdReused "request_id_reused" 409 false "use a new `request_id` for another request";
    /// The first of two equal requests is not answered yet.
    RequestInProgress "request_in_progress" 409 true "wait for the answer to the first request";
    /// No such model.
    ModelNotFound "model_not_found" 404 false "create the model, or correct its name";
    /// The model answers no more.
    ModelArchived "model_archived" 410 false "ask another model, or `pawl model unarchive` it";
    /// The model is gone, and its name stays taken.
    ModelDeleted "model_deleted" 410 false "choose another name; what it decided can be listed until it is trimmed";
    /// Only an archived model may be deleted.
    NotArchived "not_archived" 409 false "`pawl model archive` it first, and see that nobody misses it";
    /// A policy was asked to predict, or another model to choose.
    WrongKind "wrong_kind" 422 false "ask the route of the model's kind: `decide` or `predict`";
    /// No such version, alias or stage.
    ReferenceNotFound "reference_not_found" 404 false "ask without `@ref`, for the version in production or by its number";
    /// A namespace has used its quota of requests or bytes.
    QuotaExceeded "quota_exceeded" 429 true "ask less often, or raise `quotas.NAMESPACE` in the server's configuration";
    /// A namespace has its quota of models.
    ModelQuotaExceeded "model_quota_exceeded" 429 false "delete a model, or raise `quotas.NAMESPACE.models` in the server's configuration";
    /// No such decision.
    DecisionNotFound "decision_not_found" 404 false "use an id that a decide reply gave; old decisions are trimmed";
    /// No such key.
    KeyNotFound "key_not_found" 404 false "see `pawl key list`";
    /// No such path.
    NotFound "not_found" 404 false "see /openapi.json";
    /// The path has other methods.
    MethodNotAllowed "method_not_allowed" 405 false "see /openapi.json";
    /// The name is taken.
    AlreadyExists "already_exists" 409 false "choose another name, or add a version";
    /// Nothing would change.
    Unchanged "unchanged" 409 false "nothing to do: this spec is in production";
    /// It moved on.
    Conflict "conflict" 412 false "read it again and repeat with the new `If-Match`";
    /// No key was sent.
    Unauthenticated "unauthenticated" 401 false "send `Authorization: Bearer` with a key";
    /// The key may not do that.
    Forbidden "forbidden" 403 false "use a key with the scope and model that `detail` names";
    /// The body is too large.
    BodyTooLarge "body_too_large" 413 false "send less, or raise `limits.body_bytes` (of artifacts `limits.artifact_bytes`)";
    /// The caller was too slow.
    BodyTimeout "body_timeout" 408 true "send the body without pauses";
    /// Too many requests at once.
    TooManyRequests "too_many_requests" 429 true "wait as Retry-After says";
    /// Learning is behind.
    Lagging "lagging" 503 true "wait as Retry-After says; decisions go on";
    /// The log takes nothing.
    LogUnavailable "log_unavailable" 503 true "check the disk of the server";
    /// The server is stopping or starting.
    Unavailable "unavailable" 503 true "wait as Retry-After says";
    /// A rewind needs records that are gone.
    PositionGone "position_gone" 410 false "rewind to a later time; what is kept is a matter of `log.max_bytes` and `log.retention`, and nothing from before an erasure is";
    /// What is needed to explain is gone.
    NotExplainable "not_explainable" 410 false "explain sooner; what is kept is a matter of `log.max_bytes` and `log.retention`, and nothing from before an erasure is";
    /// A fault of the server.
    Internal "internal" 500 true "see the server's log";
}

/// An error on its way to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// What kind.
    pub code: Code,
    /// What exactly: field, value, remedy.
    pub detail: String,
    /// What the caller may do meanwhile: of a decision that could not be recorded.
    pub fallback_action: Option<String>,
}

/// The result of a request.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// An error with its detail.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), fallback_action: None }
    }

    /// A field that is wrong.
    #[must_use]
    pub fn field(field: &str, message: impl core::fmt::Display) -> Self {
        Self::new(Code::InvalidRequest, format!("`{field}`: {message}"))
    }

    /// A model that is unknown.
    #[must_use]
    pub fn no_model(name: &str) -> Self {
        Self::new(Code::ModelNotFound, format!("there is no model `{name}`"))
    }

    /// A fault of the server: logged, and told in short.
    #[must_use]
    pub fn internal(why: impl core::fmt::Display) -> Self {
        tracing::error!(request_id = request_id::current(), %why, "internal error");
        Self::new(Code::Internal, "the server failed; its log says why")
    }

    /// The JSON of the `error` member.
    #[must_use]
    pub fn member(&self) -> serde_json::Value {
        let mut member = json!({
            "code": self.code.as_str(),
            "message": self.detail,
            "retryable": self.code.retryable(),
            "remedy": self.code.remedy(),
        });
        if let Some(action) = &self.fallback_action {
            member["fallback_action"] = json!(action);
        }
        member
    }

    /// With what the caller may do meanwhile.
    #[must_use]
    pub fn or_do(mut self, action: &str) -> Self {
        self.fallback_action = Some(action.to_owned());
        self
    }

    /// The response.
    #[must_use]
    pub fn response(&self) -> Response<Full<bytes::Bytes>> {
        let status =
            StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = json!({
            "type": format!("urn:pawl:error:{}", self.code.as_str()),
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": self.detail,
            "error": self.member(),
        });
        let mut response = Response::new(Full::new(body.to_string().into()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/problem+json"),
        );
        if self.code.retryable() {
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        if self.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> axum::response::Response {
        self.response().map(axum::body::Body::new)
    }
}

/// `docs/errors.md`.
#[must_use]
pub fn documentation() -> String {
    let mut out = String::from(
        "# Errors\n\nEvery error is `application/problem+json` (RFC 9457) with an `error` member: `code`, `message`, \
         `retryable`, `remedy`. `Retry-After` is set where a retry may help.\n\n\
         | code | status | retryable | remedy |\n| --- | --- | --- | --- |\n",
    );
    for code in Code::ALL {
        let retry = if code.retryable() { "yes" } else { "no" };
        out.push_str(&format!(
            "| `{}` | {} | {retry} | {} |\n",
            code.as_str(),
            code.status(),
            code.remedy()
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_documentation_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
        if std::env::var_os("PAWL_WRITE_DOCS").is_some() {
            std::fs::write(path, super::documentation()).unwrap();
        }
        let file = std::fs::read_to_string(path).unwrap();
        assert_eq!(file, super::documentation(), "run the tests with PAWL_WRITE_DOCS=1");
    }
}
