//! A full disk and a disk that cannot sync.

use std::sync::Arc;

use pawl_domain::Event;
use pawl_sim::{FaultyDisk, World};
use pawl_store::LogError;

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    for seed in 0..50 {
        let disk = Arc::new(FaultyDisk::default());
        let mut world = World::open(disk.clone(), seed).unwrap();
        (0..40).for_each(|_| world.step().unwrap());
        disk.limit(Some(100 + 37 * seed));
        let mut refused = 0;
        for _ in 0..60 {
            refused += u32::from(world.step().is_err());
        }
        assert!(refused > 0, "seed {seed}");
        disk.limit(None);
        (0..40).for_each(|_| world.step().unwrap());
        world.check_survivor(Arc::new(disk.after_kill())).unwrap();
        world.check_survivor(Arc::new(disk.after_power_loss(seed))).unwrap();
    }
}

#[test]
fn after_a_failed_sync_the_log_takes_nothing_more() {
    let disk = Arc::new(FaultyDisk::default());
    let mut world = World::open(disk.clone(), 1).unwrap();
    (0..40).for_each(|_| world.step().unwrap());
    world.fold.log().append_event(&Event::Tick { now_ms: 1 }).unwrap();
    disk.fail_syncs(true);
    assert!(matches!(world.fold.log().sync(), Err(LogError::Io(_))));
    disk.fail_syncs(false);
    assert!(matches!(world.fold.log().sync(), Err(LogError::Failed)));
    assert!(matches!(
        world.fold.log().append_event(&Event::Tick { now_ms: 2 }),
        Err(LogError::Failed)
    ));
    world.check_survivor(Arc::new(disk.after_power_loss(9))).unwrap();
}
