//! `pawl learner`: what a model's learner does, and what it is told.

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};

use super::model::{show, text};
use crate::client::{Server, segment};

/// Commands on a learner.
#[derive(Subcommand, Debug)]
pub enum Learner {
    /// Show what it has learned, how well it predicts, and what its monitor did
    Status {
        /// The model
        model: String,
    },
    /// Serve on, and learn nothing
    Freeze {
        /// The model
        model: String,
    },
    /// Learn again: after a freeze, or from the last good state after a failure
    Resume {
        /// The model
        model: String,
    },
    /// Forget everything
    Reset {
        /// The model
        model: String,
    },
    /// Become what it would be without some of its feedback and examples; serving goes on meanwhile
    Rewind {
        /// The model
        model: String,
        /// From where on they are left out: a position, milliseconds since 1970, or RFC 3339
        #[arg(long)]
        to: String,
        /// Which: `metadata.NAME = "value"`, `principal = "name"`, several joined by `and`; all, without it
        #[arg(long)]
        without: Option<String>,
    },
}

impl Learner {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        let (model, body) = match self {
            Self::Status { model } => return status(server, model),
            Self::Freeze { model } => (model, json!({"action": "freeze"})),
            Self::Resume { model } => (model, json!({"action": "resume"})),
            Self::Reset { model } => (model, json!({"action": "reset"})),
            Self::Rewind { model, to, without } => {
                let to = to.parse::<u64>().map_or_else(|_| json!(to), |ms| json!(ms));
                (model, json!({"action": "rewind", "to": to, "without": without}))
            }
        };
        let reply =
            server.post(&format!("/v1/models/{}/learner", segment(model)), body.to_string())?;
        show(server, &reply, |v| {
            let to = v["to"].as_str().map(|to| format!(" to {to}")).unwrap_or_default();
            format!(
                "{} of `{}`{to}: at {}",
                text(v, "action"),
                text(v, "model"),
                text(v, "position")
            )
        });
        Ok(())
    }
}

fn status(server: &Server, model: &str) -> Result<()> {
    let reply = server.get(&format!("/v1/models/{}", segment(model)))?;
    show(server, &reply, |v| {
        let mut lines = Vec::new();
        for learner in v["learners"].as_array().into_iter().flatten() {
            lines.push(format!(
                "{} on {}: {}, {} examples, at {}",
                text(learner, "id"),
                text(learner, "version"),
                text(learner, "state"),
                learner["examples"],
                text(learner, "position")
            ));
            if !learner["reason"].is_null() {
                lines.push(format!("  reason: {}", learner["reason"]));
            }
            let monitors = learner["monitors"].as_object().into_iter().flatten();
            let monitors = monitors.map(|(metric, m)| (format!("monitor of {metric}"), m));
            for (part, of) in
                [("progress".to_owned(), &learner["progress"])].into_iter().chain(monitors)
            {
                let fields = of.as_object().into_iter().flatten();
                let shown: Vec<String> = fields.map(|(k, v)| format!("{k} {}", plain(v))).collect();
                if !shown.is_empty() {
                    lines.push(format!("  {part}: {}", shown.join(", ")));
                }
            }
        }
        if !v["supply"]["stopped_since_ms"].is_null() {
            lines.push(format!("feedback has stopped; {} pieces wait", v["supply"]["held"]));
        }
        for alert in v["alerts"].as_array().into_iter().flatten() {
            lines.push(format!("{}: {}", text(alert, "position"), text(alert, "text")));
        }
        if v["rewinding"] == true {
            lines.push("a rewind is under way".to_owned());
        }
        if let Some(why) = v["rewind_error"].as_str() {
            lines.push(format!("the last rewind could not be done: {why}"));
        }
        lines.join("\n")
    });
    Ok(())
}

fn plain(value: &Value) -> String {
    match value.as_f64() {
        Some(x) if value.is_f64() => format!("{x:.5}"),
        _ => value.to_string(),
    }
}
