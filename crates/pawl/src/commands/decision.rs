//! `pawl decision`: what was decided, and why.

mod export;
mod list;

use anyhow::Result;
use clap::Subcommand;
use serde_json::Value;

use super::model::{list, show, text};
use crate::client::{Server, segment};

/// Commands on decisions.
#[derive(Subcommand, Debug)]
pub enum Decision {
    /// List a model's decisions, the oldest first
    List {
        #[command(flatten)]
        of: list::Of,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Follow a model's decisions as they are made, until interrupted
    Tail {
        #[command(flatten)]
        of: list::Of,
    },
    /// Write a model's decisions with what came of them to a file that `pawl simulate` and `pawl import` read
    Export {
        #[command(flatten)]
        of: list::Of,
        /// The file: .jsonl, .csv, each with .gz or not, or .parquet
        #[arg(long)]
        out: std::path::PathBuf,
    },
    /// Show a decision and the feedback that came for it
    Show {
        /// The decision id
        id: String,
    },
    /// Run a decision again from the log: scores, probabilities, contributions
    Explain {
        /// The decision id
        id: String,
    },
}

impl Decision {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        let (id, what) = match self {
            Self::Show { id } => (id, ""),
            Self::Explain { id } => (id, "/explain"),
            Self::List { of, limit } => return of.list(server, *limit),
            Self::Tail { of } => return of.tail(server),
            Self::Export { of, out } => return export::run(server, of, out),
        };
        let reply = server.get(&format!("/v1/decisions/{}{what}", segment(id)))?;
        show(server, &reply, describe);
        Ok(())
    }
}

fn describe(v: &Value) -> String {
    let mut lines = vec![
        format!(
            "{} by {} {} (learner {}, snapshot {})",
            text(v, "decision_id"),
            text(v, "model"),
            text(v, "version"),
            text(v, "learner"),
            text(v, "snapshot")
        ),
        match v["hidden"].is_array() {
            true => "context  hidden: the key lacks the scope `context`".to_owned(),
            false => format!("context  {}", v["context"]),
        },
        format!(
            "action   {} with probability {}, outcome {}",
            text(v, "action"),
            text(v, "probability"),
            text(v, "outcome")
        ),
    ];
    for (action, p) in v["probabilities"].as_object().into_iter().flatten() {
        lines.push(format!("  {action:32} {p}"));
    }
    for (action, why) in v["removed"].as_object().into_iter().flatten() {
        lines.push(format!("  {action:32} not eligible: {}", why.as_str().unwrap_or_default()));
    }
    let feedback: Vec<&Value> = list(&v["feedback"]).collect();
    lines.push(format!("feedback {}", if feedback.is_empty() { "none" } else { "" }));
    for f in feedback {
        lines.push(format!(
            "  {} {}",
            f["metrics"],
            if f["not_used"] == true { "(not used)" } else { "" }
        ));
    }
    let explanation = &v["explanation"];
    if let Some(actions) = explanation["actions"].as_object() {
        lines.push(format!(
            "recomputed from the log, equal to what was served: {}",
            explanation["recomputed_equal"]
        ));
        for (action, of) in actions {
            lines.push(format!(
                "  {action}: score {} ± {}",
                text(of, "score"),
                text(of, "score_deviation")
            ));
            for (metric, m) in of["metrics"].as_object().into_iter().flatten() {
                lines.push(format!(
                    "    {metric}: predicted {} ± {}, weight {}",
                    text(m, "predicted"),
                    text(m, "deviation"),
                    text(m, "weight")
                ));
                for part in list(&m["contributions"]) {
                    lines.push(format!(
                        "      {:+.6} {}",
                        part["value"].as_f64().unwrap_or_default(),
                        text(part, "slot")
                    ));
                }
            }
        }
    }
    lines.join("\n")
}
