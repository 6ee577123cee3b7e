//! Bytes by their SHA-256: specs and learned artifacts.

use std::io;

use pawl_domain::Sha256;

use crate::disk::{Disk, read_whole, write_whole};

fn path(digest: Sha256) -> String {
    let hex = digest.to_string();
    format!("artifacts/{}/{}", &hex[..2], &hex[2..])
}

/// Stores `bytes` durably and returns their digest.
///
/// # Errors
/// As the operating system says.
pub fn put(disk: &dyn Disk, bytes: &[u8]) -> io::Result<Sha256> {
    let digest = Sha256::of(bytes);
    if get(disk, digest)?.is_none() {
        write_whole(disk, &path(digest), bytes)?;
    }
    Ok(digest)
}

/// The bytes with this digest; `None` if they are not there or not what they were.
///
/// # Errors
/// As the operating system says.
pub fn get(disk: &dyn Disk, digest: Sha256) -> io::Result<Option<Vec<u8>>> {
    let hex = digest.to_string();
    if !disk.list(&format!("artifacts/{}", &hex[..2]))?.iter().any(|name| *name == hex[2..]) {
        return Ok(None);
    }
    let bytes = read_whole(disk, &path(digest))?;
    Ok((Sha256::of(&bytes) == digest).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryDisk, RealDisk};

    #[test]
    fn bytes_come_back_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let disks: [Box<dyn Disk>; 2] =
            [Box::new(RealDisk::open(dir.path()).unwrap()), Box::<MemoryDisk>::default()];
        for disk in disks {
            let digest = put(disk.as_ref(), b"spec").unwrap();
            assert_eq!(get(disk.as_ref(), digest).unwrap().as_deref(), Some(&b"spec"[..]));
            disk.open(&path(digest)).unwrap().write_at(b"X", 0).unwrap();
            assert_eq!(get(disk.as_ref(), digest).unwrap(), None);
            assert_eq!(put(disk.as_ref(), b"spec").unwrap(), digest);
            assert_eq!(get(disk.as_ref(), digest).unwrap().as_deref(), Some(&b"spec"[..]));
        }
    }
}
