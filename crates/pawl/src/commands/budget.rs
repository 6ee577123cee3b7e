//! `pawl budget`: what was spent of a policy's budgets, and by whom.

use anyhow::Result;
use clap::Subcommand;
use comfy_table::{Table, presets};
use serde_json::Value;

use super::model::{list, show, text};
use crate::client::{Server, segment};

/// Commands on budgets.
#[derive(Subcommand, Debug)]
pub enum Budget {
    /// Show what was spent in the present periods
    Show {
        /// The model
        model: String,
        /// How many are listed of each budget, those who spent most first
        #[arg(long, default_value_t = 20)]
        top: usize,
    },
}

impl Budget {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        let Self::Show { model, top } = self;
        let reply = server.get(&format!("/v1/models/{}/budgets?top={top}", segment(model)))?;
        show(server, &reply, words);
        Ok(())
    }
}

fn words(v: &Value) -> String {
    let parts: Vec<String> = list(&v["budgets"]).map(budget).collect();
    if parts.is_empty() {
        return format!("`{}` has no budget: add a `[[budget]]` to its spec", text(v, "model"));
    }
    parts.join("\n")
}

/// Without what a terminal would take for an order.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn budget(b: &Value) -> String {
    let by = b["by"].as_str().map(|by| format!(" and {by}")).unwrap_or_default();
    let mut lines = vec![format!(
        "{} of {} a {}{by}, then {}: {:.6} spent by {}, {} over",
        b["max"],
        text(b, "metric"),
        text(b, "per"),
        text(b, "on_exceed"),
        b["spent"].as_f64().unwrap_or_default(),
        b["spenders"],
        b["over"],
    )];
    if b["untracked"] != 0 {
        lines.push(format!(
            "  {} decisions of others are in nobody's budget: there are too many",
            b["untracked"]
        ));
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let name = b["by"].as_str().unwrap_or("");
    table.set_header([name, "spent", "of which expected", "without feedback", ""]);
    for row in list(&b["top"]) {
        let number = |key: &str| format!("{:.6}", row[key].as_f64().unwrap_or_default());
        // Without `by` there is one spender: all.
        let who = if b["by"].is_null() {
            "all"
        } else {
            row["value"].as_str().unwrap_or("(hidden or no longer known)")
        };
        let over = if row["over"] == true { "over" } else { "" };
        table.add_row([
            &plain(who),
            &number("spent"),
            &number("of_which_expected"),
            &row["open"].to_string(),
            over,
        ]);
    }
    if table.row_iter().next().is_some() {
        lines.push(table.to_string());
    }
    lines.join("\n")
}
