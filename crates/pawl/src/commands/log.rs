//! `pawl log`: the log of a server, and the log in a data directory folded again.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Result, bail};
use clap::Subcommand;
use pawl_domain::{Position, Sha256};
use pawl_driver::Fold;
use pawl_engine::{FOLD_VERSION, State};
use pawl_store::{Disk, RealDisk, checkpoints};
use serde_json::json;

use super::model::{show, text};
use crate::client::Server;

/// Commands on the log.
#[derive(Subcommand, Debug)]
pub enum Log {
    /// Show where a server's log and its fold stand
    Show,
    /// Fold a data directory's log again and compare the digests of its checkpoints; the server must be stopped
    Replay {
        /// The data directory
        #[arg(long, default_value = "pawl-data")]
        data: PathBuf,
        /// Stop at this position and print the digest there
        #[arg(long)]
        at: Option<Position>,
    },
}

impl Log {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        match self {
            Self::Show => {
                let reply = server.get("/v1/log?state")?;
                show(server, &reply, |v| {
                    format!(
                        "head {}, on disk {}, folded {}\nstate at {}: {}",
                        text(v, "head"),
                        text(v, "synced"),
                        text(v, "folded"),
                        text(&v["state"], "position"),
                        text(&v["state"], "sha256")
                    )
                });
                Ok(())
            }
            Self::Replay { data, at } => replay(data, *at, server.json),
        }
    }
}

fn replay(data: &Path, at: Option<Position>, json: bool) -> Result<()> {
    if !data.join("log").is_dir() {
        bail!("there is no log in `{}`", data.display());
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(data)?);
    let (mut fold, from) = Fold::replay(&disk)?;
    let end = at.map_or(u64::MAX, |p| p.offset);
    let mut compared = Vec::new();
    let marks: Vec<u64> = checkpoints::positions(disk.as_ref())?
        .into_iter()
        .filter(|p| *p > from && *p <= end)
        .collect();
    let mut records = 0_u64;
    for mark in marks.into_iter().chain([end]) {
        while fold.position() < mark && fold.step()? {
            records += 1;
        }
        if fold.position() == mark
            && let Some(bytes) = checkpoints::read(disk.as_ref(), mark)?
        {
            // An older binary's state is another function of the same log.
            let same = State::version_of(&bytes) == Ok(FOLD_VERSION);
            let equal = same.then(|| fold.engine().state_sha256() == Sha256::of(&bytes));
            compared.push((mark, equal));
        }
    }
    if let Some(at) = at
        && fold.position() != at.offset
    {
        bail!("`{at}` is not the place of a record; the fold went on to 0.{}", fold.position());
    }
    let position = Position { partition: 0, offset: fold.position() };
    let sha256 = fold.engine().state_sha256();
    let equal = compared.iter().all(|(_, equal)| *equal != Some(false));
    let learners: Vec<_> = fold.engine().state().models.iter().filter_map(|(name, model)| {
        let learner = model.production()?;
        Some(json!({"model": name, "learner": learner.id().to_string(), "state_sha256": learner.sha256().to_string()}))
    }).collect();
    if json {
        let checkpoints: Vec<_> =
            compared.iter().map(|(p, equal)| json!({"position": Position { partition: 0, offset: *p }.to_string(), "equal": equal})).collect();
        say!(
            "{}",
            json!({
                "from": Position { partition: 0, offset: from }.to_string(), "position": position.to_string(),
                "records": records, "state_sha256": sha256.to_string(), "learners": learners,
                "checkpoints": checkpoints, "equal": equal,
            })
        );
    } else {
        say!("folded {records} records from 0.{from} to {position}");
        for (mark, equal) in &compared {
            let said = match equal {
                Some(true) => "equal",
                Some(false) => "DIFFERENT",
                None => "of another version of the fold, not compared",
            };
            say!("  checkpoint at 0.{mark}: {said}");
        }
        say!("state {sha256}");
    }
    if equal { Ok(()) } else { bail!("a checkpoint differs from what the log folds to") }
}
