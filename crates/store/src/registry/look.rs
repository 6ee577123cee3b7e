//! Looking into the registry of a directory without opening it: that would make files beside it and bring it up to date.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process,
    time::{SystemTime, UNIX_EPOCH},
};

use sqlx::{
    Row as _, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

use super::{HashSecret, Registry, RegistryError};
use crate::disk::private_dir;

/// The migration that made the secret.
const HASH_SECRET: i64 = 4;

/// A copy of a database: opening the database itself would make files beside it.
struct Copied {
    dir: PathBuf,
    pool: SqlitePool,
}

impl Drop for Copied {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.dir);
    }
}

impl Copied {
    async fn open(path: &Path) -> Result<Self, RegistryError> {
        let unique = SystemTime::now().duration_since(UNIX_EPOCH);
        let unique = unique.map_or(0, |d| d.as_nanos());
        let dir = env::temp_dir().join(format!("pawl-{}-{unique}", process::id()));
        let failed = |why: io::Error| RegistryError::Copy {
            from: path.display().to_string(),
            to: dir.display().to_string(),
            why,
        };
        private_dir(&dir).map_err(failed)?;
        let (copy, wal) = (dir.join("registry.sqlite"), path.with_extension("sqlite-wal"));
        let copied = fs::copy(path, &copy).and_then(|_| match wal.exists() {
            true => fs::copy(wal, dir.join("registry.sqlite-wal")),
            false => Ok(0),
        });
        if let Err(why) = copied {
            let error = failed(why);
            let _gone = fs::remove_dir_all(&dir);
            return Err(error);
        }
        let options = SqliteConnectOptions::new().filename(&copy);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(options);
        Ok(Self { dir, pool })
    }

    /// The migrations that were run on it.
    async fn migrations(&self) -> Result<Vec<i64>, RegistryError> {
        let rows =
            sqlx::query("SELECT version FROM _sqlx_migrations").fetch_all(&self.pool).await?;
        Ok(rows.iter().map(|row| row.try_get("version")).collect::<Result<_, _>>()?)
    }

    async fn close(self) {
        self.pool.close().await;
    }
}

impl Registry {
    /// The secret under which words are hashed of the database at `path`, without opening it for good. `None` if it is older than the secret.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn hash_secret_of(path: &Path) -> Result<Option<HashSecret>, RegistryError> {
        let copy = Copied::open(path).await?;
        let secret = match copy.migrations().await {
            Ok(done) if !done.contains(&HASH_SECRET) => Ok(None),
            Ok(_) => HashSecret::read(&copy.pool).await.map(Some),
            Err(e) => Err(e),
        };
        copy.close().await;
        secret
    }

    /// What opening the database at `path` would change of its schema, without opening it for that.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn pending(path: &Path) -> Result<Vec<String>, RegistryError> {
        let migrations = sqlx::migrate!("./migrations");
        let named = |m: &sqlx::migrate::Migration| format!("{:04}_{}", m.version, m.description);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let copy = Copied::open(path).await?;
        let done = copy.migrations().await;
        copy.close().await;
        let done = done?;
        Ok(migrations.iter().filter(|m| !done.contains(&m.version)).map(named).collect())
    }
}
