//! `pawl action`, `pin`, `unpin`, `explore`, `ramp`: what an operator changes of a running model at once.

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{
    model::{show, text},
    report::time,
};
use crate::client::{Server, segment};

/// Commands on an action of a policy.
#[derive(Subcommand, Debug)]
pub enum Action {
    /// Choose it no more, from now on
    Disable {
        /// The model
        model: String,
        /// The action
        action: String,
        #[command(flatten)]
        order: Order,
    },
    /// It may be chosen again
    Enable {
        /// The model
        model: String,
        /// The action
        action: String,
    },
}

/// Why, and for how long.
#[derive(Args, Debug)]
pub struct Order {
    /// Why, for the audit trail
    #[arg(long)]
    reason: Option<String>,
    /// For how long, such as 30m; without it until it is said otherwise
    #[arg(long = "for")]
    duration: Option<String>,
}

impl Order {
    fn of(&self, lever: &str, action: &str) -> Value {
        json!({"lever": lever, "action": action, "reason": self.reason, "for": self.duration})
    }
}

impl Action {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        match self {
            Self::Disable { model, action, order } => {
                pull(server, model, &order.of("disable", action))
            }
            Self::Enable { model, action } => {
                pull(server, model, &json!({"lever": "enable", "action": action}))
            }
        }
    }
}

/// Options of `pawl pin`.
#[derive(Args, Debug)]
pub struct Pin {
    /// The model
    model: String,
    /// The action
    #[arg(long)]
    action: String,
    #[command(flatten)]
    order: Order,
}

impl Pin {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        pull(server, &self.model, &self.order.of("pin", &self.action))
    }
}

/// Options of `pawl unpin`.
#[derive(Args, Debug)]
pub struct Unpin {
    /// The model
    model: String,
}

impl Unpin {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        pull(server, &self.model, &json!({"lever": "unpin"}))
    }
}

/// Whether the policy may explore.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Switch {
    /// It may
    On,
    /// It takes the best that it knows
    Off,
}

/// Options of `pawl explore`.
#[derive(Args, Debug)]
pub struct Explore {
    /// On or off
    switch: Switch,
    /// The model
    model: String,
}

impl Explore {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        let on = matches!(self.switch, Switch::On);
        pull(server, &self.model, &json!({"lever": "explore", "on": on}))
    }
}

/// Options of `pawl ramp`.
#[derive(Args, Debug)]
pub struct Ramp {
    /// The model
    model: String,
    /// From 0 to 1; without it what the spec says
    share: Option<f64>,
}

impl Ramp {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        pull(server, &self.model, &json!({"lever": "ramp", "share": self.share}))
    }
}

fn pull(server: &Server, model: &str, body: &Value) -> Result<()> {
    let path = format!("/v1/models/{}/levers", segment(model));
    let reply = server.post(&path, body.to_string())?;
    show(server, &reply, |v| {
        format!("{} of `{}`\n{}", text(v, "lever"), text(v, "model"), stand(&v["levers"]))
    });
    Ok(())
}

/// The levers in words, a line each that is not as usual.
pub fn stand(levers: &Value) -> String {
    let why = |order: &Value| {
        let reason = order["reason"].as_str().map(|r| format!(": {r}")).unwrap_or_default();
        let until = order["until_ms"]
            .as_u64()
            .map(|ms| format!(" until {} UTC", time(&ms.into())))
            .unwrap_or_default();
        format!("{until}{reason}")
    };
    let mut lines = Vec::new();
    for (action, order) in levers["disabled"].as_object().into_iter().flatten() {
        lines.push(format!("  `{action}` is disabled{}", why(order)));
    }
    if let Some(action) = levers["pinned"]["action"].as_str() {
        lines.push(format!("  `{action}` is pinned{}", why(&levers["pinned"])));
    }
    if levers["explore"] == false {
        lines.push("  the policy does not explore".to_owned());
    }
    let share = |key: &str| 100.0 * levers[key].as_f64().unwrap_or_default();
    lines.push(format!(
        "  the policy may decide {} % of traffic; {} % is held back",
        share("ramp"),
        share("holdback")
    ));
    lines.join("\n")
}
