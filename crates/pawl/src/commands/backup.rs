//! `pawl backup` and `pawl restore`: a running server's data, elsewhere and back.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use pawl_store::backup::{self, Manifest};
use serde_json::json;

use super::model::show;
use crate::client::{Server, segment};

/// Times that a backup is begun anew because the server changed a file meanwhile.
const TRIES: u32 = 5;

/// Commands on backups.
#[derive(Subcommand, Debug)]
pub enum Backup {
    /// Copy a running server's log, checkpoints, artifacts and registry, as of one position; what is there already is kept
    Create {
        /// The directory of the backup
        #[arg(long)]
        to: PathBuf,
    },
    /// Check every byte of a backup
    Verify {
        /// The directory of the backup
        directory: PathBuf,
    },
}

impl Backup {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        match self {
            Self::Create { to } => {
                let (manifest, copied, bytes) = create(server, to)?;
                let reply = json!({
                    "position": manifest.position.to_string(), "state_sha256": manifest.state_sha256.to_string(),
                    "files": manifest.files.len(), "copied": copied, "bytes": bytes,
                });
                show(server, &reply, |v| {
                    format!(
                        "backed up to {}: {} of {} files copied, {} bytes\nstate {}",
                        v["position"].as_str().unwrap_or_default(),
                        v["copied"],
                        v["files"],
                        v["bytes"],
                        v["state_sha256"].as_str().unwrap_or_default()
                    )
                });
            }
            Self::Verify { directory } => said(server, &backup::verify(directory)?, "is sound"),
        }
        Ok(())
    }
}

/// Options of `pawl restore`.
#[derive(Args, Debug)]
pub struct Restore {
    /// The directory of the backup
    #[arg(long)]
    from: PathBuf,
    /// The data directory to make; it must be empty
    #[arg(long)]
    data: PathBuf,
}

impl Restore {
    /// Runs the command.
    pub fn run(&self, server: &Server) -> Result<()> {
        said(
            server,
            &backup::restore(&self.from, &self.data)?,
            "is restored; `pawl serve` goes on from it",
        );
        Ok(())
    }
}

fn said(server: &Server, manifest: &Manifest, what: &str) {
    let (position, state) = (manifest.position.to_string(), manifest.state_sha256.to_string());
    let reply = json!({"position": position, "state_sha256": state, "files": manifest.files.len()});
    show(server, &reply, |v| {
        format!("the backup of {position}, {} files, {what}\nstate {state}", v["files"])
    });
}

/// Returns the manifest, how many files were copied, and how many bytes.
fn create(server: &Server, to: &Path) -> Result<(Manifest, usize, u64)> {
    backup::begin(to)?;
    let (mut copied, mut bytes) = (0, 0);
    let mut changed = String::new();
    for _ in 0..TRIES {
        let manifest: Manifest = serde_json::from_value(server.post_slow("/v1/backups")?)?;
        let mut whole = true;
        for file in manifest.files.iter().filter(|f| !backup::has(to, f)) {
            let path =
                format!("/v1/backups/file?path={}&bytes={}", segment(&file.path), file.bytes);
            // It may have been trimmed away meanwhile.
            let content = server.download_if_there(&path)?;
            let put = content.map(|c| backup::put(to, file, &c)).transpose()?;
            if put != Some(true) {
                (whole, changed) = (false, file.path.clone());
                break;
            }
            copied += 1;
            bytes += file.bytes;
        }
        if whole {
            backup::finish(to, &manifest)?;
            return Ok((manifest, copied, bytes));
        }
    }
    bail!(
        "the server changed `{changed}` while it was copied, the last of {TRIES} times; try again"
    )
}
