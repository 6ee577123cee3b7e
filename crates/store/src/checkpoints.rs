//! The engine's state at one position, hashed. The newest valid one is used; older ones thin out with age.

use std::io;

use pawl_domain::Sha256;

use crate::disk::{Disk, read_whole, write_whole};

const DIR: &str = "checkpoints";
/// Format of the file: magic and version, digest of the state, the state.
const MAGIC: &[u8; 8] = b"PAWLCKP1";
/// Most files kept.
const KEEP: usize = 8;

/// The file that holds the checkpoint at `position`.
#[must_use]
pub fn path(position: u64) -> String {
    format!("{DIR}/{position:020}.ckpt")
}

/// Writes the checkpoint at `position` durably, then removes those that are not to be kept.
///
/// # Errors
/// As the operating system says.
pub fn write(disk: &dyn Disk, position: u64, state: &[u8]) -> io::Result<Sha256> {
    let digest = Sha256::of(state);
    let mut bytes = Vec::with_capacity(state.len() + 40);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&digest.0);
    bytes.extend_from_slice(state);
    write_whole(disk, &path(position), &bytes)?;
    let positions = positions(disk)?;
    for spare in spare(&positions) {
        disk.remove(&path(spare))?;
    }
    Ok(digest)
}

/// The positions of all checkpoints, ascending, whether valid or not.
///
/// # Errors
/// As the operating system says.
pub fn positions(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let names = disk.list(DIR)?;
    Ok(names.iter().filter_map(|n| n.strip_suffix(".ckpt")?.parse().ok()).collect())
}

/// The state at `position`; `None` if the file is not valid.
///
/// # Errors
/// As the operating system says.
pub fn read(disk: &dyn Disk, position: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = read_whole(disk, &path(position))?;
    let valid =
        bytes.len() >= 40 && bytes.starts_with(MAGIC) && Sha256::of(&bytes[40..]).0 == bytes[8..40];
    Ok(valid.then(|| bytes.split_off(40)))
}

/// The digest of the state at `position`; `None` if the file is not valid.
///
/// # Errors
/// As the operating system says.
pub fn digest(disk: &dyn Disk, position: u64) -> io::Result<Option<Sha256>> {
    Ok(read(disk, position)?.map(|state| Sha256::of(&state)))
}

/// Which of the ascending `positions` to give up: from the newest back, distances at least double.
fn spare(positions: &[u64]) -> Vec<u64> {
    let mut kept: Vec<u64> = positions.to_vec();
    let mut gone = Vec::new();
    while kept.len() > KEEP {
        // The one whose neighbours are nearest to each other, measured against their age; never the two newest.
        let newest = kept[kept.len() - 1];
        let density = |i: &usize| {
            let (before, after) = (kept[i - 1], kept[i + 1]);
            let age = (newest - before).max(1);
            u128::from(after - before) * 1_000_000 / u128::from(age)
        };
        let Some(i) = (1..kept.len() - 2).min_by_key(density) else { break };
        gone.push(kept.remove(i));
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDisk;

    #[test]
    fn a_damaged_checkpoint_is_not_used_and_old_ones_thin_out() {
        let disk = MemoryDisk::default();
        for position in 0..100_u64 {
            write(&disk, position * 1000, &position.to_le_bytes()).unwrap();
        }
        let kept = positions(&disk).unwrap();
        assert_eq!(kept.len(), KEEP);
        assert_eq!(kept[KEEP - 2..], [98_000, 99_000]);
        assert!(kept.iter().any(|p| *p < 60_000), "{kept:?}");
        assert_eq!(read(&disk, 99_000).unwrap(), Some(99_u64.to_le_bytes().to_vec()));
        for byte in 0..48 {
            let file = disk.open(&path(99_000)).unwrap();
            let mut old = [0];
            file.read_at(&mut old, byte).unwrap();
            file.write_at(&[old[0] ^ 4], byte).unwrap();
            assert_eq!(read(&disk, 99_000).unwrap(), None, "byte {byte}");
            file.write_at(&old, byte).unwrap();
        }
    }
}
