//! `pawl key`: who may do what.

use anyhow::{Result, anyhow};
use clap::Subcommand;
use pawl_domain::duration::Duration;
use serde_json::{Value, json};

use super::model::{list, show, text};
use crate::client::{Server, segment};

/// Commands on keys.
#[derive(Subcommand, Debug)]
pub enum Key {
    /// Create a key; its secret is shown once
    Create {
        /// The principal in events and changes
        name: String,
        /// decide, feedback, read, context (what decisions say of a person) or admin; may be repeated
        #[arg(long = "scope", required = true)]
        scopes: Vec<String>,
        /// Models it may be used for; * stands for any text
        #[arg(long, default_value = "*")]
        model: String,
        /// When it stops working: a duration such as 30d, or a time as RFC 3339
        #[arg(long)]
        expires: Option<String>,
    },
    /// List the keys, without secrets
    List,
    /// Revoke a key, at once
    Revoke {
        /// Its name
        name: String,
    },
}

/// A duration from now, or a time, in milliseconds since 1970.
fn expiry(text: &str) -> Result<i64> {
    if let Ok(duration) = text.parse::<Duration>() {
        return Ok(jiff::Timestamp::now().as_millisecond() + duration.ms().cast_signed());
    }
    let time = text.parse::<jiff::Timestamp>();
    let time = time.map_err(|_| {
        anyhow!(
            "`{text}` is neither a duration such as 30d nor a time such as 2027-01-31T00:00:00Z"
        )
    })?;
    Ok(time.as_millisecond())
}

impl Key {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        match self {
            Self::Create { name, scopes, model, expires } => {
                let expires = expires.as_deref().map(expiry).transpose()?;
                let body =
                    json!({"name": name, "scopes": scopes, "model": model, "expires": expires});
                let reply = server.post("/v1/keys", body.to_string())?;
                show(server, &reply, |v| {
                    format!(
                        "{}\nkept nowhere and shown only now; send it as `Authorization: Bearer`, or set PAWL_KEY",
                        text(v, "secret")
                    )
                });
            }
            Self::List => {
                let reply = server.get("/v1/keys")?;
                show(server, &reply, |v| {
                    let line = |k: &Value| {
                        let scopes: Vec<&str> =
                            list(&k["scopes"]).filter_map(Value::as_str).collect();
                        let state = if k["valid"] == true { "valid" } else { "invalid" };
                        format!(
                            "{:24} {:24} {:16} {state}",
                            text(k, "name"),
                            scopes.join(","),
                            text(k, "model")
                        )
                    };
                    list(&v["keys"]).map(line).collect::<Vec<_>>().join("\n")
                });
            }
            Self::Revoke { name } => {
                let reply = server.delete(&format!("/v1/keys/{}", segment(name)))?;
                show(server, &reply, |v| format!("`{}` no longer works", text(v, "name")));
            }
        }
        Ok(())
    }
}
