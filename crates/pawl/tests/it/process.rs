//! A `pawl serve` of our own on a port that the system picks.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use reqwest::blocking::{Client, Response};
use serde_json::Value;

/// A spec that the tests share.
pub const ROUTER: &str = r#"
schema = 1
name = "router"
kind = "policy"

[actions.big]
payload = { model = "azure/big" }
[actions.small]
max = { prompt_tokens = 1000 }

[features]
prompt_tokens = { type = "number", scale = "log" }
task = { type = "category", vocabulary = ["code", "chat"] }

[metrics]
quality = { bounds = [0, 1] }
cost_usd = { goal = "min", explore = false }

[objective]
incumbent = "big"
weights = { quality = 1.0, cost_usd = -10.0 }

[learner]
algorithm = "linear_thompson"
"#;

/// The binary under test.
pub fn pawl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pawl"));
    command.env_remove("PAWL_SERVER").env_remove("PAWL_KEY").stdin(Stdio::null());
    command
}

/// A running server. Killed when dropped.
pub struct Server {
    child: Child,
    pub base: String,
    pub http: Client,
    pub key: Option<String>,
}

impl Server {
    /// Starts a server on `data` and waits until it says where it listens.
    pub fn start(data: &Path, extra: &[&str]) -> Self {
        let mut command = pawl();
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data).args(extra);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let base = line.split_whitespace().find(|w| w.starts_with("http://"));
        let base = base.unwrap_or_else(|| panic!("the server did not start: {line}")).to_owned();
        Self { child, base, http: Client::new(), key: None }
    }

    pub fn post(&self, path: &str, body: &str) -> Response {
        let request = self.http.post(format!("{}{path}", self.base)).body(body.to_owned());
        self.keyed(request).send().unwrap()
    }

    pub fn get(&self, path: &str) -> Response {
        self.keyed(self.http.get(format!("{}{path}", self.base))).send().unwrap()
    }

    fn keyed(
        &self,
        request: reqwest::blocking::RequestBuilder,
    ) -> reqwest::blocking::RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// The reply to a request that must succeed.
    pub fn ok(&self, path: &str, body: &str) -> Value {
        let response = self.post(path, body);
        let status = response.status();
        let text = response.text().unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The status and error code of a request that must fail.
    pub fn refused(&self, path: &str, body: &str) -> (u16, String, String) {
        let response = self.post(path, body);
        let status = response.status().as_u16();
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert_eq!(kind, "application/problem+json");
        let value: Value = serde_json::from_str(&response.text().unwrap()).unwrap();
        assert_eq!(value["status"], status);
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        (status, text(&value["error"]["code"]), text(&value["detail"]))
    }

    pub fn json(&self, path: &str) -> Value {
        let response = self.get(path);
        let status = response.status();
        let text = response.text().unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Creates the shared model.
    pub fn create_router(&self) {
        let spec = pawl_domain::ModelSpec::from_toml(ROUTER).unwrap().check().unwrap();
        self.ok("/v1/models", &spec.to_json());
    }

    /// Runs a client command against this server.
    pub fn command(&self, arguments: &[&str]) -> Output {
        self.prepared(arguments).output().unwrap()
    }

    /// Begins one that goes on, its output to be read.
    pub fn follow(&self, arguments: &[&str]) -> Child {
        self.prepared(arguments).stdout(Stdio::piped()).spawn().unwrap()
    }

    fn prepared(&self, arguments: &[&str]) -> Command {
        let mut command = pawl();
        command.args(arguments).env("PAWL_SERVER", &self.base);
        if let Some(key) = &self.key {
            command.env("PAWL_KEY", key);
        }
        command
    }

    /// kill -9, without waiting for the end.
    pub fn kill_now(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-KILL", &id]).status().unwrap().success());
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks the process to end and gives its exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}
