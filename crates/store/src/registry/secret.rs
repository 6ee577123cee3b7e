//! The secret under which words of contexts are hashed, and files that are their owner's alone.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use sqlx::{Row as _, SqlitePool};

use super::RegistryError;
use crate::disk::private_file;

/// The secret under which words of contexts are hashed.
#[derive(Clone, Copy)]
pub struct HashSecret([u8; 32]);

impl core::fmt::Debug for HashSecret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("HashSecret")
    }
}

impl HashSecret {
    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(super) async fn read(pool: &SqlitePool) -> Result<Self, RegistryError> {
        let rows = sqlx::query("SELECT secret FROM hash_secret").fetch_all(pool).await?;
        let secret: Option<Vec<u8>> = rows.first().map(|r| r.try_get("secret")).transpose()?;
        let secret = secret.and_then(|bytes| bytes.try_into().ok());
        let none = || RegistryError::Corrupt { what: "a secret", value: "nothing".to_owned() };
        secret.map(Self).ok_or_else(none)
    }
}

/// Hides the files of a database from others than its owner and group: secrets are in them. What SQLite makes beside it later is as the
/// database is. Only the owner can: where somebody else starts, they stay as they are.
///
/// # Errors
/// If the database cannot be opened.
pub(super) fn hide_files(path: &Path) -> io::Result<()> {
    private_file(path)?;
    for file in ["sqlite", "sqlite-wal", "sqlite-shm"].map(|e| path.with_extension(e)) {
        let Ok(metadata) = fs::metadata(&file) else { continue };
        let mode = metadata.permissions().mode();
        if mode & 0o007 != 0 {
            let _not_the_owner = fs::set_permissions(&file, Permissions::from_mode(mode & 0o770));
        }
    }
    Ok(())
}
