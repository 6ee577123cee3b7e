//! Decisions by time, action, outcome, targeting key and session.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use crate::{
    client::{Server, segment},
    commands::model::{list, text},
};

/// Decisions of a page.
const PAGE: usize = 1000;
/// How long a tail waits before it looks again.
const AGAIN: Duration = Duration::from_millis(250);

/// The same while the server does not answer.
const GONE: Duration = Duration::from_secs(2);

/// Which decisions.
#[derive(Args, Debug)]
pub struct Of {
    /// The model
    pub model: String,
    /// From when: a duration before now such as 1h, milliseconds since 1970, or RFC 3339
    #[arg(long)]
    pub since: Option<String>,
    /// Until when
    #[arg(long)]
    until: Option<String>,
    /// Only this action
    #[arg(long)]
    action: Option<String>,
    /// Only this outcome: ok, fallback, sticky or elsewhere
    #[arg(long)]
    outcome: Option<String>,
    /// Only about this one
    #[arg(long)]
    targeting_key: Option<String>,
    /// Only of this session
    #[arg(long)]
    session: Option<String>,
}

/// A page, and where the next begins.
pub struct Page {
    pub decisions: Vec<Value>,
    pub cursor: Option<String>,
    /// Where reading ended.
    position: String,
}

impl Of {
    /// Asks for a page.
    pub fn page(
        &self,
        server: &Server,
        cursor: Option<&str>,
        limit: usize,
        context: bool,
    ) -> Result<Page> {
        let model = segment(&self.model);
        let mut path = format!("/v1/models/{model}/decisions?limit={limit}&context={context}");
        let given = [
            ("since", self.since.as_deref()),
            ("until", self.until.as_deref()),
            ("action", self.action.as_deref()),
            ("outcome", self.outcome.as_deref()),
            ("targeting_key", self.targeting_key.as_deref()),
            ("session_id", self.session.as_deref()),
            ("cursor", cursor),
        ];
        for (key, value) in given.iter().filter_map(|(key, value)| Some((key, (*value)?))) {
            path.push_str(&format!("&{key}={}", segment(value)));
        }
        let mut reply = server.get(&path)?;
        let decisions = match reply["decisions"].take() {
            Value::Array(all) => all,
            _ => Vec::new(),
        };
        let cursor = reply["cursor"].as_str().map(str::to_owned);
        Ok(Page { decisions, cursor, position: text(&reply, "position") })
    }

    /// Prints them.
    pub fn list(&self, server: &Server, limit: usize) -> Result<()> {
        let (mut left, mut cursor) = (limit, None);
        while left > 0 {
            let page = self.page(server, cursor.as_deref(), left.min(PAGE), server.json)?;
            page.decisions.iter().for_each(|d| print(server, d));
            left -= page.decisions.len();
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        if cursor.is_some() && !server.json {
            eprintln!("there may be more: raise --limit {limit}, or narrow it down");
        }
        Ok(())
    }

    /// Prints them as they are made.
    pub fn tail(&self, server: &Server) -> Result<()> {
        let mut position = match &self.since {
            Some(_) => None,
            None => Some(text(&server.get("/v1/log")?, "head")),
        };
        loop {
            let page = match self.page(server, position.as_deref(), PAGE, server.json) {
                Ok(page) => page,
                // It began well: the server is gone for a while.
                Err(e) if position.is_some() => {
                    eprintln!("{e:#}; asking again");
                    std::thread::sleep(GONE);
                    continue;
                }
                Err(e) => return Err(e),
            };
            page.decisions.iter().for_each(|d| print(server, d));
            if page.cursor.is_none() {
                std::thread::sleep(AGAIN);
            }
            position = Some(page.position);
        }
    }
}

/// One line a decision.
fn print(server: &Server, d: &Value) {
    if server.json {
        say!("{d}");
        return;
    }
    let at = d["at_ms"].as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let at = at.map(|t| format!("{t:.3}")).unwrap_or_default();
    let what = match d["action"].as_str() {
        Some(action) => format!("{action} {:.4}", d["probability"].as_f64().unwrap_or(f64::NAN)),
        None => d["prediction"].to_string(),
    };
    let reason = d["reason"].as_str().map(|r| format!(" ({r})")).unwrap_or_default();
    let removed = d["removed"].as_object().map_or(0, serde_json::Map::len);
    let removed = if removed > 0 { format!(", {removed} not eligible") } else { String::new() };
    say!("{at}  {}  {what}  {}{reason}{removed}", text(d, "decision_id"), text(d, "outcome"));
}

/// The feedback for a model's decisions, page after page.
pub fn feedback(server: &Server, of: &Of, mut each: impl FnMut(&Value)) -> Result<()> {
    let mut cursor: Option<String> = None;
    loop {
        let mut path = format!("/v1/models/{}/feedback?limit={PAGE}", segment(&of.model));
        let given = [("since", of.since.as_ref()), ("cursor", cursor.as_ref())];
        for (key, value) in given.iter().filter_map(|(key, value)| Some((key, (*value)?))) {
            path.push_str(&format!("&{key}={}", segment(value)));
        }
        let reply = server.get(&path)?;
        list(&reply["feedback"]).for_each(&mut each);
        cursor = reply["cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok(());
        }
    }
}
