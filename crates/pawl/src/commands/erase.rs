//! `pawl erase`: what decisions say of a person is taken out, for good.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::model::{show, text};
use crate::client::Server;

/// Options of `pawl erase`.
#[derive(Args, Debug)]
pub struct Erase {
    /// The targeting key that the decisions were made with
    #[arg(long)]
    targeting_key: String,
}

impl Erase {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        let body = json!({"targeting_key": self.targeting_key}).to_string();
        let reply = server.post_long("/v1/erasures", body)?;
        show(server, &reply, |v| {
            if v["decisions"] == 0 {
                return "no decision was made with this targeting key".to_owned();
            }
            format!(
                "{} decisions say nothing of this person any more; folding begins at {} from now on, decisions before it cannot \
                 be explained. Backups made before hold what they held: make a new one, remove the old",
                v["decisions"],
                text(v, "base")
            )
        });
        Ok(())
    }
}
