//! A crash at any point loses nothing that was promised and gives the same state, bit for bit.

use std::sync::Arc;

use pawl_sim::{FaultyDisk, World};
use pawl_stats::rng::Stream;

/// Runs a world for a while, crashes it in the way that `seed` says, and checks what is left; twice in a row.
fn crash(seed: u64) -> Result<(), String> {
    let mut stream = Stream::new(seed ^ 0xC4A5_4000);
    let mut disk = Arc::new(FaultyDisk::default());
    let mut earlier: Option<World<FaultyDisk>> = None;
    for round in 0..2 {
        let mut world =
            World::open(disk.clone(), seed * 7 + round).map_err(|e| format!("no start: {e}"))?;
        if let Some(earlier) = earlier.take() {
            world.inherit(earlier);
        }
        for _ in 0..20 + stream.below(100) {
            world.step().map_err(|e| format!("no step: {e}"))?;
        }
        let left = if stream.below(3) == 0 {
            disk.after_kill()
        } else {
            disk.after_power_loss(stream.bits())
        };
        // Checking opens the disk, which changes it: each on a copy of its own.
        world.check_survivor(Arc::new(left.after_kill()))?;
        disk = Arc::new(left);
        earlier = Some(world);
    }
    Ok(())
}

#[test]
fn a_thousand_crash_points() {
    let failed: Vec<String> = (0..1000)
        .filter_map(|seed| crash(seed).err().map(|why| format!("seed {seed}: {why}")))
        .collect();
    assert!(
        failed.is_empty(),
        "{} of 1000:\n{}",
        failed.len(),
        failed[..failed.len().min(10)].join("\n")
    );
}

#[test]
fn a_lost_acknowledged_record_would_be_seen() {
    let disk = Arc::new(FaultyDisk::default());
    let mut world = World::open(disk.clone(), 3).unwrap();
    while world.acknowledged.len() < 5 {
        world.step().unwrap();
    }
    // A promise that was never kept: the record of another offset.
    let (offset, event) = world.acknowledged[0].clone();
    world.acknowledged.push((offset + 8, event));
    assert!(world.check_survivor(Arc::new(disk.after_kill())).is_err());
}
