//! A committed log and checkpoint: every later version folds them to the committed digest, on every CPU.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use pawl_driver::Fold;
use pawl_engine::FOLD_VERSION;
use pawl_sim::World;
use pawl_store::{Disk, MemoryDisk, checkpoints};

/// Golden files of one format, by the version of the fold that wrote them. Never edited: a new one adds a folder, and
/// to the older ones the digest that it folds their logs to.
fn folder(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{version}"))
}

/// The digest of this version of the fold.
fn digest_of(version: u32) -> PathBuf {
    let name = if version == FOLD_VERSION {
        "state.sha256".to_owned()
    } else {
        format!("state.{FOLD_VERSION}.sha256")
    };
    folder(version).join(name)
}

const FILES: [&str; 2] = ["log", "checkpoints"];

fn copy(disk: &MemoryDisk, name: &str, bytes: &[u8]) {
    disk.open(name).unwrap().write_at(bytes, 0).unwrap();
}

/// The golden files as a disk.
fn disk_of(version: u32, with_checkpoints: bool) -> Arc<dyn Disk> {
    let disk = MemoryDisk::default();
    for dir in &FILES[..if with_checkpoints { 2 } else { 1 }] {
        for entry in fs::read_dir(folder(version).join(dir)).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{dir}/{}", entry.file_name().to_string_lossy());
            copy(&disk, &name, &fs::read(entry.path()).unwrap());
        }
    }
    Arc::new(disk)
}

/// The golden files as a disk, and the digest they fold to.
fn golden(version: u32, with_checkpoints: bool) -> (Arc<dyn Disk>, String) {
    let digest = fs::read_to_string(digest_of(version)).unwrap();
    (disk_of(version, with_checkpoints), digest.trim().to_owned())
}

fn write_golden() {
    let disk = Arc::new(MemoryDisk::default());
    let mut world = World::open(disk.clone(), 2026).unwrap();
    (0..600).for_each(|_| world.step().unwrap());
    world.fold.catch_up().unwrap();
    for dir in FILES {
        fs::create_dir_all(folder(FOLD_VERSION).join(dir)).unwrap();
        let names = disk.list(dir).unwrap();
        // One checkpoint is enough.
        for name in names.iter().filter(|n| dir == "log" || Some(*n) == names.get(names.len() / 2))
        {
            let path = format!("{dir}/{name}");
            let bytes = pawl_store::disk::read_whole(disk.as_ref(), &path).unwrap();
            fs::write(folder(FOLD_VERSION).join(&path), bytes).unwrap();
        }
    }
    let digest = format!("{}\n", world.fold.engine().state_sha256());
    fs::write(digest_of(FOLD_VERSION), digest).unwrap();
    for older in 1..FOLD_VERSION {
        let disk = disk_of(older, false);
        let (mut fold, _) = Fold::replay(&disk).unwrap();
        fold.catch_up().unwrap();
        fs::write(digest_of(older), format!("{}\n", fold.engine().state_sha256())).unwrap();
    }
}

#[test]
fn the_golden_log_folds_to_its_digest_with_cpu_features_masked_and_not() {
    if std::env::var_os("PAWL_WRITE_GOLDEN").is_some() {
        write_golden();
    }
    for (version, masked) in (1..=FOLD_VERSION).flat_map(|v| [(v, false), (v, true)]) {
        pawl_stats::cpu::mask(masked);
        let (disk, digest) = golden(version, false);
        let (mut fold, from) = Fold::replay(&disk).unwrap();
        assert_eq!(from, 0);
        assert!(fold.catch_up().unwrap() > 300);
        let found = fold.engine().state_sha256().to_string();
        assert_eq!(found, digest, "format {version}, masked: {masked}");
    }
    pawl_stats::cpu::mask(false);
}

#[test]
fn the_golden_checkpoint_is_a_point_on_the_way() {
    let (disk, digest) = golden(FOLD_VERSION, true);
    let position = checkpoints::positions(disk.as_ref()).unwrap()[0];
    let mut fold = {
        let (replayed, _) = Fold::replay(&disk).unwrap();
        Fold::at(&disk, replayed.log(), position).unwrap()
    };
    assert_eq!(fold.position(), position);
    fold.catch_up().unwrap();
    assert_eq!(fold.engine().state_sha256().to_string(), digest);
}
