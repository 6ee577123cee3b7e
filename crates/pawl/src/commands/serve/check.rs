//! `pawl serve --check`: what a start of this binary would do to a data directory.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use pawl_driver::{Begins, Fold, Plan};
use pawl_engine::FOLD_VERSION;
use pawl_store::{Disk, RealDisk, registry::Registry};

/// How long a part of the log is folded to tell how long all of it takes.
const TRIAL: Duration = Duration::from_secs(1);

/// Tells what a start would do, and changes nothing. A server may be running there.
pub fn run(data: &Path) -> Result<()> {
    let shown = data.display();
    if !data.exists() {
        say!("`{shown}` does not exist: a start creates it");
        return Ok(());
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::look_into(data)?);
    let plan = Plan::of(&disk).context("a start would be refused")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pending = runtime.block_on(Registry::pending(&data.join("registry.sqlite")))?;
    match plan.written_by {
        Some(FOLD_VERSION) => say!("`{shown}` was written by this fold, version {FOLD_VERSION}"),
        Some(version) => say!(
            "`{shown}` was written by version {version} of the fold; this binary has {FOLD_VERSION}"
        ),
        None => {
            say!("`{shown}` has no checkpoint; this binary has version {FOLD_VERSION} of the fold")
        }
    }
    match plan.begins {
        Begins::Empty => say!("  nothing is in it yet"),
        Begins::Checkpoint(position) => {
            say!(
                "  a start goes on from the checkpoint at 0.{position}: {} bytes behind it are folded",
                plan.head - position
            );
        }
        Begins::Log => {
            let time = estimate(&disk, plan.head)?;
            say!("  the log is whole: a start folds all of it again, {} bytes, {time}", plan.head);
        }
        Begins::Older(position) => {
            say!(
                "  the log no longer holds its beginning: a start takes over the checkpoint at 0.{position}"
            );
            say!("  and folds the {} bytes behind it", plan.head - position);
        }
    }
    for migration in &pending {
        say!("  the registry gets {migration}");
    }
    let older = plan.written_by.is_some_and(|v| v < FOLD_VERSION);
    if older || !pending.is_empty() {
        say!(
            "  afterwards an older binary refuses it: `pawl backup create` first, and restore that to go back"
        );
    }
    Ok(())
}

/// How long the whole log takes, from a part of it.
fn estimate(disk: &Arc<dyn Disk>, head: u64) -> Result<String> {
    let (mut fold, _) = Fold::replay(disk)?;
    let begun = Instant::now();
    while begun.elapsed() < TRIAL && fold.step()? {}
    let took = begun.elapsed().as_secs_f64();
    let part = fold.position() as f64 / head.max(1) as f64;
    Ok(if part >= 1.0 {
        format!("{took:.2} s")
    } else {
        format!("about {:.0} s", took / part.max(1e-9))
    })
}
