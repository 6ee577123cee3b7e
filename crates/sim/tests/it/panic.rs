//! A learner that panics is quarantined; the others go on, and a restart does the same.

use std::sync::Arc;

use pawl_engine::Status;
use pawl_sim::{FaultyDisk, World};

#[test]
fn a_panic_quarantines_one_learner() {
    let run = |fail: bool| {
        let disk = Arc::new(FaultyDisk::default());
        let mut world = World::open(disk, 5).unwrap();
        if fail {
            world.fold.engine_mut().fail_at("text".parse().unwrap(), 8);
        }
        // No checkpoint and no report: the same events in both runs.
        (0..400).for_each(|_| world.step().unwrap());
        world.fold.catch_up().unwrap();
        world
    };
    let (good, failed) = (run(false), run(true));
    let status = |w: &World<FaultyDisk>, name: &str| {
        let model = &w.fold.engine().state().models[name];
        let learner = model.production().unwrap();
        (learner.status().clone(), learner.sha256(), learner.examples())
    };
    let (state, _, examples) = status(&failed, "text");
    assert_eq!(state, Status::Quarantined { at_example: 7, why: "panic: failpoint".to_owned() });
    assert_eq!(examples, 0, "it went back to its last good state");
    assert_eq!(status(&good, "text").0, Status::Learning);
    for other in ["forgetting", "counting"] {
        assert_eq!(status(&good, other), status(&failed, other));
    }
    // The same log, with the same fault, folds to the same state after a restart.
    let digest = failed.fold.engine().state_sha256();
    let disk = Arc::new(failed.disk.after_kill());
    for position in pawl_store::checkpoints::positions(disk.as_ref()).unwrap() {
        pawl_store::Disk::remove(disk.as_ref(), &pawl_store::checkpoints::path(position)).unwrap();
    }
    let mut fold = {
        let disk: Arc<dyn pawl_store::Disk> = disk;
        pawl_driver::Fold::replay(&disk).unwrap().0
    };
    fold.engine_mut().fail_at("text".parse().unwrap(), 8);
    fold.catch_up().unwrap();
    assert_eq!(fold.engine().state_sha256(), digest);
}
