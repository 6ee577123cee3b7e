//! `pawl health`: whether a server is ready, for whoever restarts it.

use anyhow::{Result, bail};
use clap::Args;

use super::model::text;
use crate::client::Server;

/// Options of `pawl health`.
#[derive(Args, Debug)]
pub struct Health {}

impl Health {
    /// Runs the command: fails where the server is not ready.
    pub fn run(&self, server: &Server) -> Result<()> {
        let reply = server.readiness()?;
        if server.json {
            say!("{reply}");
        } else {
            say!("{}", text(&reply, "status"));
            for (check, result) in reply["checks"].as_object().into_iter().flatten() {
                say!("  {check:12} {}", result.as_str().unwrap_or_default());
            }
        }
        if reply["status"] != "ready" {
            bail!("the server is not ready");
        }
        Ok(())
    }
}
