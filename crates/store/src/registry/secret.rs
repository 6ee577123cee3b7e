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

/// Makes the files of a database their owner's alone: secrets are in them. What SQLite makes beside it later is as the database is.
pub(super) fn private_files(path: &Path) -> io::Result<()> {
    private_file(path)?;
    for beside in ["sqlite-wal", "sqlite-shm"] {
        match fs::set_permissions(path.with_extension(beside), Permissions::from_mode(0o600)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    fs::set_permissions(path, Permissions::from_mode(0o600))
}
