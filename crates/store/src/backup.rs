//! Backups: a manifest, and every file under its digest, so that the next backup copies only what is new.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
};

use pawl_domain::{Position, Sha256};
use serde::{Deserialize, Serialize};

use crate::disk::{private_dir, private_dirs, private_file};

/// The version of this format.
const FORMAT: u32 = 1;
/// First word of the manifest's first line, before its digest.
const MAGIC: &str = "pawl-backup";
const MANIFEST: &str = "MANIFEST";
const OBJECTS: &str = "objects";

/// Why a backup cannot be made, trusted or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file cannot be read or written.
    #[error("`{path}`: {why}")]
    Io {
        /// Which.
        path: String,
        /// The reason.
        why: io::Error,
    },
    /// What is there is not what was backed up.
    #[error("`{path}` {what}")]
    Damaged {
        /// Which.
        path: String,
        /// How.
        what: String,
    },
    /// The target is in use.
    #[error("`{0}` is not empty: restore into an empty directory")]
    NotEmpty(String),
}

/// One file of a data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its path in the data directory.
    pub path: String,
    /// How much of it belongs to the backup: its beginning.
    pub bytes: u64,
    /// The digest of that.
    #[serde(with = "text")]
    pub sha256: Sha256,
}

/// What a backup consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this format.
    pub format: u32,
    /// Wall time.
    pub created_ms: u64,
    /// The position of its newest checkpoint; the log goes on from there.
    #[serde(with = "text")]
    pub position: Position,
    /// The digest of the state at that position.
    #[serde(with = "text")]
    pub state_sha256: Sha256,
    /// The files.
    pub files: Vec<Entry>,
}

/// Positions and digests as people read them.
mod text {
    use core::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, T: FromStr, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error>
    where
        T::Err: Display,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Manifest {
    /// A manifest of the present format.
    #[must_use]
    pub const fn new(
        created_ms: u64,
        position: Position,
        state_sha256: Sha256,
        files: Vec<Entry>,
    ) -> Self {
        Self { format: FORMAT, created_ms, position, state_sha256, files }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError + use<> {
    let path = path.display().to_string();
    move |why| BackupError::Io { path, why }
}

fn damaged(path: &Path, what: impl Into<String>) -> BackupError {
    BackupError::Damaged { path: path.display().to_string(), what: what.into() }
}

fn object(directory: &Path, digest: Sha256) -> PathBuf {
    let hex = digest.to_string();
    directory.join(OBJECTS).join(&hex[..2]).join(&hex[2..])
}

/// Whether a file with this content is in the backup already, and sound.
#[must_use]
pub fn has(directory: &Path, entry: &Entry) -> bool {
    read(directory, entry).is_ok()
}

/// Checks that a directory is a backup, or may become one.
///
/// # Errors
/// If it holds something else.
pub fn begin(directory: &Path) -> Result<(), BackupError> {
    let mut names = BTreeSet::new();
    match fs::read_dir(directory) {
        Ok(entries) => {
            for entry in entries {
                names.insert(entry.map_err(at(directory))?.file_name());
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(at(directory)(e)),
    }
    // One that was begun and not finished has objects only.
    let ours = ["MANIFEST", "MANIFEST.part", "objects"];
    let foreign = names.iter().find(|n| !ours.iter().any(|o| *n == o));
    match foreign {
        Some(name) => {
            let what = format!("holds `{}`, which is of no backup", name.to_string_lossy());
            Err(damaged(directory, what))
        }
        None => Ok(()),
    }
}

/// Puts the content of a file into the backup. False if it is not what its digest says.
///
/// # Errors
/// If it cannot be written.
pub fn put(directory: &Path, entry: &Entry, bytes: &[u8]) -> Result<bool, BackupError> {
    if bytes.len() as u64 != entry.bytes || Sha256::of(bytes) != entry.sha256 {
        return Ok(false);
    }
    private_dir(directory).map_err(at(directory))?;
    write_durably(&object(directory, entry.sha256), bytes)?;
    Ok(true)
}

/// Writes a file so that after a crash it is there in full or not at all.
fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    let parent = path.parent().unwrap_or_else(|| Path::new("."));
    private_dirs(parent).map_err(at(parent))?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    // What a crash left keeps its own mode.
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&beside)(e)),
        _ => {}
    }
    let mut file = private_file(&beside).map_err(at(&beside))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(&beside))?;
    fs::rename(&beside, path).map_err(at(path))?;
    File::open(parent).and_then(|d| d.sync_all()).map_err(at(parent))
}

/// Makes the backup the one that `manifest` says, and drops what only an older one needed. Every file must be in it.
///
/// # Errors
/// If it cannot be written.
pub fn finish(directory: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    let json = serde_json::to_string_pretty(manifest)
        .map_err(|e| damaged(directory, format!("cannot be described: {e}")))?;
    let digest = Sha256::of(json.as_bytes());
    let text = format!("{MAGIC} {digest}\n{json}\n");
    private_dir(directory).map_err(at(directory))?;
    write_durably(&directory.join(MANIFEST), text.as_bytes())?;
    let wanted: BTreeSet<PathBuf> =
        manifest.files.iter().map(|f| object(directory, f.sha256)).collect();
    for path in objects(directory)? {
        if !wanted.contains(&path) {
            fs::remove_file(&path).map_err(at(&path))?;
        }
    }
    Ok(())
}

fn objects(directory: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let root = directory.join(OBJECTS);
    let mut found = Vec::new();
    if !root.exists() {
        return Ok(found);
    }
    for shard in fs::read_dir(&root).map_err(at(&root))? {
        let shard = shard.map_err(at(&root))?.path();
        for file in fs::read_dir(&shard).map_err(at(&shard))? {
            let path = file.map_err(at(&shard))?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
            let name = name.unwrap_or_default();
            let hex = name.trim_end_matches(".part");
            if hex.len() == 62 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Reads the manifest.
///
/// # Errors
/// If there is none, or it is not what was written.
pub fn manifest(directory: &Path) -> Result<Manifest, BackupError> {
    let path = directory.join(MANIFEST);
    let bytes = fs::read(&path).map_err(at(&path))?;
    let text = core::str::from_utf8(&bytes).map_err(|_| damaged(&path, "is damaged"))?;
    let (head, json) = text.split_once('\n').ok_or_else(|| damaged(&path, "is damaged"))?;
    let json = json.strip_suffix('\n').ok_or_else(|| damaged(&path, "is damaged"))?;
    if head != format!("{MAGIC} {}", Sha256::of(json.as_bytes())) {
        return Err(damaged(&path, "is damaged: its digest is another"));
    }
    let manifest: Manifest =
        serde_json::from_str(json).map_err(|e| damaged(&path, format!("cannot be read: {e}")))?;
    if manifest.format != FORMAT {
        let what = format!("has the format {}, this version reads {FORMAT}", manifest.format);
        return Err(damaged(&path, what));
    }
    Ok(manifest)
}

/// Checks every byte of a backup.
///
/// # Errors
/// If anything is missing, or not what was backed up.
pub fn verify(directory: &Path) -> Result<Manifest, BackupError> {
    let manifest = manifest(directory)?;
    for entry in &manifest.files {
        read(directory, entry)?;
    }
    Ok(manifest)
}

/// The content of a file, checked.
fn read(directory: &Path, entry: &Entry) -> Result<Vec<u8>, BackupError> {
    let path = object(directory, entry.sha256);
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(at(&path))?;
    file.take(entry.bytes + 1).read_to_end(&mut bytes).map_err(at(&path))?;
    if bytes.len() as u64 != entry.bytes || Sha256::of(&bytes) != entry.sha256 {
        return Err(damaged(&path, format!("is damaged: it should be `{}`", entry.path)));
    }
    Ok(bytes)
}

/// Makes a data directory of a backup, every byte checked.
///
/// # Errors
/// If the backup is damaged, or `data` is not empty.
pub fn restore(directory: &Path, data: &Path) -> Result<Manifest, BackupError> {
    let manifest = manifest(directory)?;
    let there = match fs::read_dir(data) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => return Err(at(data)(e)),
    };
    if there {
        return Err(BackupError::NotEmpty(data.display().to_string()));
    }
    private_dir(data).map_err(at(data))?;
    for entry in &manifest.files {
        let inside = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !entry.path.split('/').all(inside) {
            return Err(damaged(&directory.join(MANIFEST), format!("names `{}`", entry.path)));
        }
        write_durably(&data.join(&entry.path), &read(directory, entry)?)?;
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, bytes: &[u8]) -> Entry {
        Entry { path: path.to_owned(), bytes: bytes.len() as u64, sha256: Sha256::of(bytes) }
    }

    #[test]
    fn a_backup_keeps_what_it_says_and_drops_what_it_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (backup, data) = (dir.path().join("backup"), dir.path().join("data"));
        let [old, new] = [entry("log/0", b"old"), entry("log/0", b"newer")];
        let kept = entry("artifacts/aa", b"kept");
        let position = Position { partition: 0, offset: 8 };
        let manifest = |files: Vec<Entry>| Manifest::new(1, position, Sha256::of(b"state"), files);
        assert!(put(&backup, &old, b"old").unwrap() && put(&backup, &kept, b"kept").unwrap());
        assert!(!put(&backup, &new, b"other").unwrap(), "not what its digest says");
        finish(&backup, &manifest(vec![old.clone(), kept.clone()])).unwrap();
        assert!(has(&backup, &kept) && !has(&backup, &new));
        put(&backup, &new, b"newer").unwrap();
        assert_eq!(
            verify(&backup).unwrap().files[0],
            old,
            "until it is finished the old one stands"
        );
        finish(&backup, &manifest(vec![new.clone(), kept.clone()])).unwrap();
        assert!(!has(&backup, &old));
        restore(&backup, &data).unwrap();
        assert_eq!(fs::read(data.join("log/0")).unwrap(), b"newer");
        assert!(matches!(restore(&backup, &data), Err(BackupError::NotEmpty(_))));
        finish(&backup, &manifest(vec![entry("../out", b"kept")])).unwrap();
        let out = dir.path().join("other");
        assert!(matches!(restore(&backup, &out), Err(BackupError::Damaged { .. })));
        fs::write(object(&backup, kept.sha256), b"rott").unwrap();
        assert!(!has(&backup, &kept), "what has rotted is copied again");
        begin(&backup).unwrap();
        assert!(matches!(begin(&data), Err(BackupError::Damaged { .. })), "it is no backup");
        fs::remove_file(object(&backup, kept.sha256)).unwrap();
        assert!(matches!(verify(&backup), Err(BackupError::Io { .. })));
    }
}
