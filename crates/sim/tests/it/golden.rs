//! A committed log and checkpoint: every later version folds them to the committed digest, on every CPU.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use pawl_driver::Fold;
use pawl_sim::World;
use pawl_store::{Disk, MemoryDisk, checkpoints};

/// Golden files of format 1. Never edited: a new format adds a folder.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/1")
}

const FILES: [&str; 2] = ["log", "checkpoints"];

fn copy(disk: &MemoryDisk, name: &str, bytes: &[u8]) {
    disk.open(name).unwrap().write_at(bytes, 0).unwrap();
}

/// The golden files as a disk, and the digest they fold to.
fn golden(with_checkpoints: bool) -> (Arc<dyn Disk>, String) {
    let disk = MemoryDisk::default();
    for dir in &FILES[..if with_checkpoints { 2 } else { 1 }] {
        for entry in fs::read_dir(folder().join(dir)).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{dir}/{}", entry.file_name().to_string_lossy());
            copy(&disk, &name, &fs::read(entry.path()).unwrap());
        }
    }
    let digest = fs::read_to_string(folder().join("state.sha256")).unwrap();
    (Arc::new(disk), digest.trim().to_owned())
}

fn write_golden() {
    let disk = Arc::new(MemoryDisk::default());
    let mut world = World::open(disk.clone(), 2026).unwrap();
    (0..600).for_each(|_| world.step().unwrap());
    world.fold.catch_up().unwrap();
    for dir in FILES {
        fs::create_dir_all(folder().join(dir)).unwrap();
        let names = disk.list(dir).unwrap();
        // One checkpoint is enough.
        for name in names.iter().filter(|n| dir == "log" || Some(*n) == names.get(names.len() / 2))
        {
            let path = format!("{dir}/{name}");
            let bytes = pawl_store::disk::read_whole(disk.as_ref(), &path).unwrap();
            fs::write(folder().join(&path), bytes).unwrap();
        }
    }
    fs::write(folder().join("state.sha256"), format!("{}\n", world.fold.engine().state_sha256()))
        .unwrap();
}

#[test]
fn the_golden_log_folds_to_its_digest_with_cpu_features_masked_and_not() {
    if std::env::var_os("PAWL_WRITE_GOLDEN").is_some() {
        write_golden();
    }
    for masked in [false, true] {
        pawl_stats::cpu::mask(masked);
        let (disk, digest) = golden(false);
        let (mut fold, from) = Fold::replay(&disk).unwrap();
        assert_eq!(from, 0);
        assert!(fold.catch_up().unwrap() > 300);
        assert_eq!(fold.engine().state_sha256().to_string(), digest, "masked: {masked}");
    }
    pawl_stats::cpu::mask(false);
}

#[test]
fn the_golden_checkpoint_is_a_point_on_the_way() {
    let (disk, digest) = golden(true);
    let position = checkpoints::positions(disk.as_ref()).unwrap()[0];
    let mut fold = {
        let (replayed, _) = Fold::replay(&disk).unwrap();
        Fold::at(disk.as_ref(), replayed.log(), position).unwrap()
    };
    assert_eq!(fold.position(), position);
    fold.catch_up().unwrap();
    assert_eq!(fold.engine().state_sha256().to_string(), digest);
}
