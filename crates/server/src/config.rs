//! What an operator can set. Unknown keys are errors; each key is documented by [`KEYS`].

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use pawl_domain::{duration::Duration, suggest};
use serde::{Deserialize, Serialize};

/// What is guaranteed before an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Decisions are in the operating system's hands, feedback is on the disk.
    Os,
    /// Both are on the disk.
    Disk,
}

/// What to do with a decision that the log cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLogFailure {
    /// Answer 503.
    Refuse,
    /// Answer with outcome `unlogged` and no id: nothing is learned from it.
    Serve,
}

/// What a namespace may ask: the models whose names have it before their first dot, or of `default` those without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Decisions, predictions, examples and pieces of feedback a second.
    pub requests: Option<u64>,
    /// Bytes of their bodies a second.
    pub bytes: Option<u64>,
    /// Models.
    pub models: Option<usize>,
}

/// How the process's own log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// From which severity on the process logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "documented by KEYS")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
}

/// The process's own log, on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "documented by KEYS")]
pub struct Logging {
    pub format: LogFormat,
    pub level: LogLevel,
}

/// The configuration of `pawl serve`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// See [`KEYS`], as all below.
    pub data: PathBuf,
    #[expect(missing_docs, reason = "documented by KEYS")]
    pub listen: SocketAddr,
    #[expect(missing_docs, reason = "documented by KEYS")]
    pub insecure: bool,
    #[expect(missing_docs, reason = "documented by KEYS")]
    pub workers: usize,
    #[expect(missing_docs, reason = "documented by KEYS")]
    pub durability: Durability,
    #[expect(missing_docs, reason = "documented by KEYS")]
    pub on_log_failure: OnLogFailure,
    #[expect(missing_docs, reason = "documented by KEYS")]
    pub checkpoint_interval: Duration,
    #[expect(missing_docs, reason = "documented by KEYS")]
    pub quotas: BTreeMap<String, Quota>,
    #[expect(missing_docs, reason = "documented by KEYS")]
    pub limits: Limits,
    #[expect(missing_docs, reason = "documented by KEYS")]
    pub log: Log,
    #[expect(missing_docs, reason = "documented by KEYS")]
    pub join: Join,
    #[expect(missing_docs, reason = "documented by KEYS")]
    pub logging: Logging,
    #[expect(missing_docs, reason = "documented by KEYS")]
    pub tls: Tls,
}

/// The certificate of the port, and its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "documented by KEYS")]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Tls {
    /// Whether the port speaks TLS.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.cert.as_os_str().is_empty()
    }
}

/// Limits on requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "documented by KEYS")]
pub struct Limits {
    pub body_bytes: usize,
    pub artifact_bytes: usize,
    pub batch: usize,
    pub in_flight: usize,
    pub connections: usize,
    pub lag_bytes: u64,
    pub request_window: Duration,
    pub shutdown: Duration,
}

/// The size of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "documented by KEYS")]
pub struct Log {
    pub max_bytes: u64,
    pub segment_bytes: u64,
    pub retention: Duration,
    pub context_retention: Duration,
}

/// Bounds of the join.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "documented by KEYS")]
pub struct Join {
    pub open: u64,
    pub requests: usize,
    pub early: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("pawl-data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 7295)),
            insecure: false,
            workers: 0,
            durability: Durability::Os,
            on_log_failure: OnLogFailure::Refuse,
            checkpoint_interval: Duration::from_ms(300_000),
            quotas: BTreeMap::new(),
            limits: Limits::default(),
            log: Log::default(),
            join: Join::default(),
            logging: Logging::default(),
            tls: Tls::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 1 << 20,
            artifact_bytes: 256 << 20,
            batch: 1000,
            in_flight: 1024,
            connections: 10_000,
            lag_bytes: 64 << 20,
            request_window: Duration::from_ms(600_000),
            shutdown: Duration::from_ms(10_000),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            max_bytes: 10 << 30,
            segment_bytes: 64 << 20,
            retention: Duration::from_ms(30 * 86_400_000),
            context_retention: Duration::from_ms(30 * 86_400_000),
        }
    }
}

impl Default for Join {
    fn default() -> Self {
        let limits = pawl_domain::event::JoinLimits::default();
        Self {
            open: limits.open_max,
            requests: limits.requests_max as usize,
            early: limits.early_max as usize,
        }
    }
}

/// Every key with its meaning, in the order of the file.
pub const KEYS: &[(&str, &str)] = &[
    ("data", "directory that holds everything: log, checkpoints, artifacts, registry"),
    ("listen", "address and port; port 0 lets the system choose"),
    ("insecure", "accept an address other than loopback although there is no key"),
    ("workers", "threads that answer requests; 0 is one a core"),
    (
        "durability",
        "`os`: a decision is in the operating system's hands before it is answered, feedback is on the disk before it is acknowledged; `disk`: both are on the disk",
    ),
    (
        "on_log_failure",
        "a decision that the log cannot take: `refuse` answers 503; `serve` answers with outcome `unlogged` and no id",
    ),
    (
        "checkpoint_interval",
        "longest time between two checkpoints; a spec may ask for less, and one comes sooner when the tail would take more than a second to fold",
    ),
    (
        "quotas",
        "by namespace, what a model's name has before its first dot, else `default`: `[quotas.search] requests = 500` and `bytes` a second, \
         `models`; 429 beyond",
    ),
    ("limits.body_bytes", "largest request body; 413 beyond"),
    ("limits.artifact_bytes", "largest artifact that may be sent; 413 beyond"),
    ("limits.batch", "most items of a batch; 422 beyond"),
    ("limits.in_flight", "most requests at once; 429 beyond"),
    ("limits.connections", "most open connections; more wait to be accepted"),
    (
        "limits.lag_bytes",
        "feedback gets 503 while more than this of the log waits to be folded; decisions go on",
    ),
    ("limits.request_window", "how long the same request_id answers the same decision"),
    ("limits.shutdown", "how long a shutdown waits for open requests"),
    (
        "log.max_bytes",
        "the oldest segments are trimmed beyond this; at most nine tenths of the free space at the start",
    ),
    ("log.segment_bytes", "size of a segment, the unit of trimming"),
    ("log.retention", "records older than this are trimmed"),
    (
        "log.context_retention",
        "contexts older than this are taken out of the log, once their decisions are closed; the records stay",
    ),
    (
        "join.open",
        "most decisions that wait for feedback; the oldest closes beyond, as if its deadline had passed",
    ),
    (
        "join.requests",
        "most request_ids remembered for feedback by request_id, and most decisions of sessions",
    ),
    ("join.early", "most pieces of feedback held because their decision has not come"),
    ("logging.format", "what the process says on stderr: `text`, or `json`, an object a line"),
    (
        "logging.level",
        "`error`, `warn` (requests that failed), `info`, or `debug` (every request); no level logs a context",
    ),
    (
        "tls.cert",
        "PEM file of the certificate and its chain, from the working directory if relative; read again when it changes; empty: plain HTTP",
    ),
    ("tls.key", "PEM file of its private key"),
];

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// If it is not TOML or has an unknown or wrong key; the message names it.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        let config: Self =
            toml::from_str(text).map_err(|e| suggest::explain_unknown(&e.to_string()))?;
        config.check()
    }

    /// Checks that every value can work.
    ///
    /// # Errors
    /// If one cannot; the message names it.
    pub fn check(self) -> Result<Self, String> {
        let rules = [
            ("limits.body_bytes", self.limits.body_bytes >= 1024, "at least 1024"),
            (
                "limits.body_bytes",
                self.limits.body_bytes <= 8 << 20,
                "at most 8388608: a record must hold it",
            ),
            ("limits.batch", self.limits.batch >= 1, "at least 1"),
            ("limits.in_flight", self.limits.in_flight >= 1, "at least 1"),
            ("limits.connections", self.limits.connections >= 1, "at least 1"),
            ("log.segment_bytes", self.log.segment_bytes >= 65_536, "at least 65536"),
            (
                "log.max_bytes",
                self.log.max_bytes >= 4 * self.log.segment_bytes,
                "at least four segments",
            ),
            ("join.open", self.join.open >= 1, "at least 1"),
            ("checkpoint_interval", self.checkpoint_interval.ms() >= 100, "at least 100ms"),
        ];
        let none = |q: &Quota| q.requests == Some(0) || q.bytes == Some(0);
        if let Some((name, _)) = self.quotas.iter().find(|(_, q)| none(q)) {
            return Err(format!("`quotas.{name}`: `requests` and `bytes` must be at least 1"));
        }
        let given = |path: &PathBuf| !path.as_os_str().is_empty();
        match (given(&self.tls.cert), given(&self.tls.key)) {
            (true, false) => return Err("`tls.key` is missing: `tls.cert` needs it".to_owned()),
            (false, true) => return Err("`tls.cert` is missing: `tls.key` needs it".to_owned()),
            _ => {}
        }
        match rules.iter().find(|(_, ok, _)| !ok) {
            Some((key, _, rule)) => Err(format!("`{key}` must be {rule}")),
            None => Ok(self),
        }
    }

    /// Every key with its default and meaning, as a configuration file.
    #[must_use]
    pub fn explain() -> String {
        let defaults =
            toml::Value::try_from(Self::default()).unwrap_or(toml::Value::Boolean(false));
        let mut out = String::new();
        let mut section = "";
        for (key, meaning) in KEYS {
            let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
            if table != section {
                out.push_str(&format!("\n[{table}]\n"));
                section = table;
            }
            let value = key.split('.').try_fold(&defaults, |v, part| v.get(part));
            let value = value.map_or_else(String::new, ToString::to_string);
            out.push_str(&format!("# {meaning}\n{name} = {value}\n"));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_explanation_is_a_configuration_with_every_key() {
        let text = Config::explain();
        assert_eq!(Config::from_toml(&text), Ok(Config::default()));
        let value = toml::Value::try_from(Config::default()).unwrap();
        let mut keys = Vec::new();
        for (name, value) in value.as_table().unwrap() {
            match value.as_table() {
                Some(table) if !table.is_empty() => {
                    keys.extend(table.keys().map(|k| format!("{name}.{k}")))
                }
                _ => keys.push(name.clone()),
            }
        }
        let mut documented: Vec<String> = KEYS.iter().map(|(k, _)| (*k).to_owned()).collect();
        documented.sort();
        keys.sort();
        assert_eq!(keys, documented);
    }

    #[test]
    fn unknown_and_impossible_keys_are_errors() {
        for (text, expected) in [
            ("lisen = \"127.0.0.1:1\"", "did you mean `listen`?"),
            ("[log]\nmax_byte = 5", "did you mean `max_bytes`?"),
            ("durability = \"ram\"", "unknown variant `ram`"),
            ("[quotas.search]\nrequests = 0", "`quotas.search`: `requests` and `bytes` must be"),
            ("[quotas.search]\nrequest = 5", "did you mean `requests`?"),
            ("[tls]\ncert = \"a.pem\"", "`tls.key` is missing"),
            ("[limits]\nbatch = 0", "`limits.batch` must be at least 1"),
        ] {
            let message = Config::from_toml(text).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
