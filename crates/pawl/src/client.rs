//! A client of the server's public API: what every command but `serve` and the offline ones uses.

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use reqwest::{
    Certificate, Method,
    blocking::{Client as Http, RequestBuilder},
};
use serde_json::Value;

/// The longest that an answer may take that takes long.
const SLOW: std::time::Duration = std::time::Duration::from_secs(3600);

/// Where the server is and how to talk to it.
#[derive(Args, Debug, Clone)]
pub struct Server {
    /// The server's URL
    #[arg(long, env = "PAWL_SERVER", default_value = "http://127.0.0.1:7295", global = true)]
    server: String,
    /// The key to send
    #[arg(long, env = "PAWL_KEY", hide_env_values = true, global = true)]
    key: Option<String>,
    /// Trust the certificates of this PEM file and no other, for an https:// server with one of one's own
    #[arg(long, env = "PAWL_CA", global = true)]
    ca: Option<String>,
    /// Print the reply as one JSON object
    #[arg(long, global = true)]
    pub json: bool,
}

impl Server {
    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder> {
        let url = format!("{}{path}", self.server.trim_end_matches('/'));
        let request = self.http()?.request(method, url);
        Ok(match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        })
    }

    fn http(&self) -> Result<Http> {
        let mut builder = Http::builder();
        let ca = self.ca.as_ref().filter(|path| !path.is_empty());
        if let Some(path) = ca {
            let pem = std::fs::read(path).with_context(|| format!("cannot read `--ca {path}`"))?;
            let trusted = Certificate::from_pem_bundle(&pem)
                .with_context(|| format!("`--ca {path}` is not PEM"))?;
            if trusted.is_empty() {
                bail!("`--ca {path}` holds no certificate in PEM");
            }
            builder = builder.tls_certs_only(trusted);
        } else if !self.server.starts_with("https://") {
            // The system's certificates are not read where they serve nothing: a container may have none.
            builder = builder.tls_certs_only([]);
        }
        builder.build().map_err(|e| match ca {
            Some(path) => anyhow!("`--ca {path}` cannot be used: {}", reason(&e)),
            None => anyhow!("{}: `--ca FILE` (PAWL_CA) names whom to trust", reason(&e)),
        })
    }

    /// Why there is no answer, down to what the connection said, and what to do.
    fn unanswered(&self, e: &reqwest::Error) -> anyhow::Error {
        let why = reason(e);
        let remedy = match why.as_str() {
            why if why.contains("CaUsedAsEndEntity") => {
                "an authority's own certificate is no server's: sign one with it, or make one that is none (docs/operations.md)"
            }
            why if [
                "NotValidForName",
                "Expired",
                "NotValidYet",
                "not valid for name",
                "expired",
            ]
            .iter()
            .any(|known| why.contains(known)) =>
            {
                "see that it serves a certificate for this name and time"
            }
            why if why.contains("certificate") => "`--ca FILE` (PAWL_CA) names whom to trust",
            why if why.contains("handshake eof") || why.contains("corrupt message") => {
                "does it speak TLS? without `[tls]` its URL begins with http://"
            }
            _ if e.is_builder() => "a URL begins with http:// or https://",
            _ => "is `pawl serve` running there?",
        };
        anyhow!("no answer from `{}`: {why}; {remedy}", self.server)
    }

    fn send(&self, request: RequestBuilder) -> Result<Value> {
        Ok(serde_json::from_slice(&self.bytes(request)?).unwrap_or(Value::Null))
    }

    fn bytes(&self, request: RequestBuilder) -> Result<Vec<u8>> {
        let (_, bytes) = self.answer(request)?;
        bytes
    }

    /// The status, and the body or the error in it.
    fn answer(&self, request: RequestBuilder) -> Result<(u16, Result<Vec<u8>>)> {
        let response = request.send().map_err(|e| self.unanswered(&e))?;
        let status = response.status();
        let body = response.bytes()?;
        if status.is_success() {
            return Ok((status.as_u16(), Ok(body.to_vec())));
        }
        let text = String::from_utf8_lossy(&body);
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        let error = &value["error"];
        match (error["code"].as_str(), error["message"].as_str(), error["remedy"].as_str()) {
            (Some(code), Some(message), Some(remedy)) => {
                Ok((status.as_u16(), Err(anyhow!("{message} ({code}): {remedy}"))))
            }
            _ => bail!("`{}` answered {status}: {text}", self.server),
        }
    }

    /// `GET path`.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.send(self.request(Method::GET, path)?)
    }

    /// Every check of the server's readiness, also where it is not ready.
    pub fn readiness(&self) -> Result<Value> {
        let request = self.request(Method::GET, "/readyz?verbose")?;
        let request = request.timeout(std::time::Duration::from_secs(5));
        let response = request.send().map_err(|e| self.unanswered(&e))?;
        let (status, text) = (response.status(), response.text()?);
        serde_json::from_str(&text)
            .map_err(|_| anyhow!("`{}` answered {status}: {text}", self.server))
    }

    /// `POST path` with a JSON body.
    pub fn post(&self, path: &str, body: String) -> Result<Value> {
        let request = self.request(Method::POST, path)?;
        self.send(request.header("content-type", "application/json").body(body))
    }

    /// The same, refused where the version in production is another.
    pub fn post_if_match(&self, path: &str, body: String, version: &str) -> Result<Value> {
        let request =
            self.request(Method::POST, path)?.header("if-match", format!("\"{version}\""));
        self.send(request.header("content-type", "application/json").body(body))
    }

    /// `GET path`, for bytes that are no JSON.
    pub fn download(&self, path: &str) -> Result<Vec<u8>> {
        self.bytes(self.request(Method::GET, path)?)
    }

    /// The same of what may be gone, and may be large.
    pub fn download_if_there(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let request = self.request(Method::GET, path)?;
        match self.answer(request.timeout(std::time::Duration::from_secs(600)))? {
            (404, Err(_)) => Ok(None),
            (_, answer) => answer.map(Some),
        }
    }

    /// `POST path` without a body, where the answer may take minutes.
    pub fn post_slow(&self, path: &str) -> Result<Value> {
        self.send(self.request(Method::POST, path)?.timeout(SLOW))
    }

    /// `POST path` with a JSON body, where the answer may take minutes.
    pub fn post_long(&self, path: &str, body: String) -> Result<Value> {
        let request = self.request(Method::POST, path)?.timeout(SLOW);
        self.send(request.header("content-type", "application/json").body(body))
    }

    /// `POST path` with an artifact.
    pub fn upload(&self, path: &str, bytes: Vec<u8>) -> Result<Value> {
        let request = self.request(Method::POST, path)?;
        let request = request.timeout(std::time::Duration::from_secs(120));
        self.send(request.header("content-type", "application/octet-stream").body(bytes))
    }

    /// `DELETE path`.
    pub fn delete(&self, path: &str) -> Result<Value> {
        self.send(self.request(Method::DELETE, path)?)
    }
}

/// The innermost reason of a failure: what the connection said.
fn reason(e: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = e;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// A path segment, percent-encoded.
pub fn segment(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}
