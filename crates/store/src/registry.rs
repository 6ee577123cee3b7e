//! The registry: models, versions, keys. Each change appends one row to `changes`, in the same transaction.

mod keys;
mod look;
mod secret;
mod versions;

use std::{path::Path, sync::Arc};

use pawl_domain::{
    LeverChange, ModelName, Sha256,
    event::{Change, ChangeKind, LearnerChange},
    spec::METRICS_MAX,
};
use sqlx::{
    Row, Sqlite, SqlitePool, Transaction,
    sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
    },
};

use crate::disk::{private_dir, private_file};
pub use keys::{Key, NewKey, Scope};
pub use secret::HashSecret;
pub use versions::VersionRow;

/// Why the registry refused.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The database failed.
    #[error("the registry failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the registry's schema cannot be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// It cannot be opened.
    #[error("`{path}` cannot be opened for writing: {why}")]
    Open {
        /// Which.
        path: String,
        /// The reason.
        why: std::io::Error,
    },
    /// A copy to look into cannot be made.
    #[error("`{from}` cannot be copied to `{to}`: {why}; TMPDIR says where copies are made")]
    Copy {
        /// Which.
        from: String,
        /// Where to.
        to: String,
        /// The reason.
        why: std::io::Error,
    },
    /// A name is taken.
    #[error("{what} `{name}` exists already")]
    Exists {
        /// Of what.
        what: &'static str,
        /// Which.
        name: String,
    },
    /// A name is unknown.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// Of what.
        what: &'static str,
        /// Which.
        name: String,
    },
    /// The name of a model that was deleted.
    #[error("`{0}` was deleted, and its decisions may still be in the log; choose another name")]
    Deleted(ModelName),
    /// Only what answers no more may go.
    #[error("`{0}` is not archived; archive it first")]
    NotArchived(ModelName),
    /// The new spec equals the one in production.
    #[error("the spec of `{0}` is the one in production already; nothing to do")]
    Unchanged(ModelName),
    /// Too many metric names over all versions.
    #[error(
        "`metrics`: all versions of the model together have {0} metric names, at most {METRICS_MAX}; keep the old names, or create another model"
    )]
    TooManyMetrics(usize),
    /// Somebody else changed it meanwhile.
    #[error("`{model}` is at version {actual}, not {expected}; read it again and repeat")]
    Conflict {
        /// Which model.
        model: ModelName,
        /// What the caller had seen.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// A row is not what this binary writes.
    #[error("the registry holds `{value}` where {what} should be")]
    Corrupt {
        /// What should be there.
        what: &'static str,
        /// What is.
        value: String,
    },
}

/// One row of the audit trail.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ChangeRow {
    /// Dense from 1.
    pub seq: u64,
    /// When.
    pub at_ms: u64,
    /// Who.
    pub principal: Option<String>,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// How it was.
    pub before: Option<String>,
    /// How it is.
    pub after: Option<String>,
    /// Why, as the caller said.
    pub why: Option<String>,
    /// Digest of this row and, through the one before, of all.
    pub sha256: String,
}

/// The action of a row that changed nothing: contexts were read. Such actions end in `.read`, and no others do.
const READING: &str = "context.read";
/// The same: the key was read under which a model's words are hashed.
const KEY_READING: &str = "hash_key.read";

/// Who changes something, when and why.
#[derive(Clone, Debug, Default)]
pub struct By {
    /// Wall time.
    pub at_ms: u64,
    /// The key's name.
    pub principal: Option<Arc<str>>,
    /// Why.
    pub why: Option<String>,
}

/// The registry in SQLite.
#[derive(Clone, Debug)]
pub struct Registry {
    pool: SqlitePool,
    hash_secret: HashSecret,
}

struct NewChange<'a> {
    action: &'a str,
    subject: &'a str,
    before: Option<String>,
    after: Option<String>,
    kind: ChangeKind,
}

fn parse<T: core::str::FromStr>(what: &'static str, value: String) -> Result<T, RegistryError> {
    value.parse().map_err(|_| RegistryError::Corrupt { what, value })
}

fn number(row: &SqliteRow, column: &str) -> Result<u64, sqlx::Error> {
    Ok(row.try_get::<i64, _>(column)?.cast_unsigned())
}

impl Registry {
    /// Opens the database at `path`, creates it if needed, and brings its schema up to date.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn open(path: &Path) -> Result<Self, RegistryError> {
        secret::hide_files(path)
            .map_err(|why| RegistryError::Open { path: path.display().to_string(), why })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true);
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
        sqlx::migrate!("./migrations").run(&pool).await?;
        let hash_secret = HashSecret::read(&pool).await?;
        Ok(Self { pool, hash_secret })
    }

    /// The secret under which words of contexts are hashed.
    #[must_use]
    pub const fn hash_secret(&self) -> &HashSecret {
        &self.hash_secret
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn ping(&self) -> Result<(), RegistryError> {
        sqlx::query("SELECT id FROM incarnation").fetch_one(&self.pool).await?;
        Ok(())
    }

    /// Writes a copy of the whole database, of one moment, to `path`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn copy_to(&self, path: &Path) -> Result<(), RegistryError> {
        let failed = |e: std::io::Error| RegistryError::Database(sqlx::Error::Io(e));
        if let Some(parent) = path.parent() {
            private_dir(parent).map_err(failed)?;
        }
        let beside = path.with_extension("part");
        match std::fs::remove_file(&beside) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        private_file(&beside).map_err(failed)?; // SQLite takes an empty file
        sqlx::query("VACUUM INTO ?")
            .bind(beside.to_string_lossy().into_owned())
            .execute(&self.pool)
            .await?;
        std::fs::rename(&beside, path).map_err(failed)
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, RegistryError> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Tells a model's learner something.
    ///
    /// # Errors
    /// If the model is unknown.
    pub async fn change_learner(
        &self,
        model: &ModelName,
        change: &LearnerChange,
        by: &By,
    ) -> Result<(), RegistryError> {
        let after = serde_json::to_string(change).ok();
        let kind = ChangeKind::Learner { model: model.clone(), change: change.clone() };
        self.change_model(model, change.as_str(), after, kind, by).await
    }

    /// Appends a change of a model that has no row of its own.
    async fn change_model(
        &self,
        model: &ModelName,
        action: &str,
        after: Option<String>,
        kind: ChangeKind,
        by: &By,
    ) -> Result<(), RegistryError> {
        let mut tx = self.begin().await?;
        let known = sqlx::query("SELECT name FROM models WHERE name = ? AND deleted_ms IS NULL");
        if known.bind(model.as_str()).fetch_optional(&mut *tx).await?.is_none() {
            return Err(RegistryError::NotFound { what: "model", name: model.to_string() });
        }
        let row = NewChange { action, subject: model.as_str(), before: None, after, kind };
        append_change(&mut tx, row, by).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Pulls a lever of a model.
    ///
    /// # Errors
    /// If the model is unknown.
    pub async fn pull_lever(
        &self,
        model: &ModelName,
        change: &LeverChange,
        by: &By,
    ) -> Result<(), RegistryError> {
        let kind = ChangeKind::Lever { model: model.clone(), change: change.clone() };
        let after = serde_json::to_string(change).ok();
        self.change_model(model, change.as_str(), after, kind, by).await
    }

    /// Notes that the contexts of `decisions` decisions about a person were taken out. The person is told by the digest
    /// of the targeting key only.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn note_erasure(
        &self,
        targeting_key: Sha256,
        decisions: u64,
        by: &By,
    ) -> Result<(), RegistryError> {
        let mut tx = self.begin().await?;
        let subject = format!("sha256:{targeting_key}");
        let after = Some(serde_json::json!({"decisions": decisions}).to_string());
        let (action, before, kind) = ("erase", None, ChangeKind::Noted);
        let row = NewChange { action, subject: &subject, before, after, kind };
        append_change(&mut tx, row, by).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Notes that somebody read what decisions of a model say of a person: how many, and by which request.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn note_reading(
        &self,
        model: &ModelName,
        request: &str,
        decisions: usize,
        by: &By,
    ) -> Result<(), RegistryError> {
        let after = serde_json::json!({"request": request, "decisions": decisions});
        self.note(READING, model, Some(after.to_string()), by).await
    }

    /// Notes that somebody read the key under which words of a model's contexts are hashed.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn note_key_reading(&self, model: &ModelName, by: &By) -> Result<(), RegistryError> {
        self.note(KEY_READING, model, None, by).await
    }

    async fn note(
        &self,
        action: &str,
        model: &ModelName,
        after: Option<String>,
        by: &By,
    ) -> Result<(), RegistryError> {
        let mut tx = self.begin().await?;
        let (subject, before, kind) = (model.as_str(), None, ChangeKind::Noted);
        append_change(&mut tx, NewChange { action, subject, before, after, kind }, by).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The changes after `seq` of the present incarnation, at most `limit`, as the log takes them.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn changes_after(&self, seq: u64, limit: u32) -> Result<Vec<Change>, RegistryError> {
        let rows = sqlx::query("SELECT * FROM changes WHERE seq > ? ORDER BY seq LIMIT ?")
            .bind(seq.cast_signed())
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        let change = |row: &SqliteRow| {
            let kind: String = row.try_get("kind")?;
            let kind = serde_json::from_str(&kind)
                .map_err(|_| RegistryError::Corrupt { what: "a change", value: kind })?;
            let principal: Option<String> = row.try_get("principal")?;
            Ok(Change {
                incarnation: number(row, "incarnation")?,
                seq: number(row, "seq")?,
                at_ms: number(row, "at_ms")?,
                principal: principal.map(Into::into),
                kind,
            })
        };
        rows.iter().map(change).collect()
    }

    /// The present incarnation and the seq of its latest change.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn head(&self) -> Result<(u64, u64), RegistryError> {
        let row = sqlx::query(
            "SELECT (SELECT id FROM incarnation) AS incarnation, COALESCE(MAX(seq), 0) AS seq FROM changes",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok((number(&row, "incarnation")?, number(&row, "seq")?))
    }

    /// Whether there was a model of this name, and it is gone.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_deleted(&self, model: &ModelName) -> Result<bool, RegistryError> {
        let gone = sqlx::query("SELECT name FROM models WHERE name = ? AND deleted_ms IS NOT NULL");
        Ok(gone.bind(model.as_str()).fetch_optional(&self.pool).await?.is_some())
    }

    /// The latest change of a model or of its versions.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn last_change(&self, model: &ModelName) -> Result<Option<ChangeRow>, RegistryError> {
        let row = sqlx::query(
            "SELECT * FROM changes WHERE (subject = ?1 OR substr(subject, 1, length(?1) + 1) = ?1 || '@') \
             AND action NOT LIKE '%.read' ORDER BY seq DESC LIMIT 1",
        )
        .bind(model.as_str())
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(change_row).transpose()
    }

    /// The latest `limit` changes of a model and of its versions since a time, the latest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn changes_of(
        &self,
        model: &ModelName,
        from_ms: u64,
        limit: u32,
    ) -> Result<Vec<ChangeRow>, RegistryError> {
        let rows = sqlx::query(
            "SELECT * FROM changes WHERE (subject = ?1 OR substr(subject, 1, length(?1) + 1) = ?1 || '@') \
             AND at_ms >= ?2 AND action NOT LIKE '%.read' ORDER BY seq DESC LIMIT ?3",
        )
        .bind(model.as_str())
        .bind(from_ms.cast_signed())
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(change_row).collect()
    }

    /// The audit trail after `seq`, at most `limit` rows.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn audit(&self, seq: u64, limit: u32) -> Result<Vec<ChangeRow>, RegistryError> {
        let rows = sqlx::query("SELECT * FROM changes WHERE seq > ? ORDER BY seq LIMIT ?")
            .bind(seq.cast_signed())
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(change_row).collect()
    }
}

fn change_row(row: &SqliteRow) -> Result<ChangeRow, RegistryError> {
    Ok(ChangeRow {
        seq: number(row, "seq")?,
        at_ms: number(row, "at_ms")?,
        principal: row.try_get("principal")?,
        action: row.try_get("action")?,
        subject: row.try_get("subject")?,
        before: row.try_get("before")?,
        after: row.try_get("after")?,
        why: row.try_get("why")?,
        sha256: row.try_get("sha256")?,
    })
}

/// Appends one row to `changes`: seq is dense because the transaction holds the write lock.
async fn append_change(
    tx: &mut Transaction<'static, Sqlite>,
    row: NewChange<'_>,
    by: &By,
) -> Result<(), RegistryError> {
    let last = sqlx::query("SELECT seq, sha256 FROM changes ORDER BY seq DESC LIMIT 1")
        .fetch_optional(&mut **tx)
        .await?;
    let (seq, previous) = match &last {
        Some(row) => (number(row, "seq")?, row.try_get("sha256")?),
        None => (0, Sha256([0; 32]).to_string()),
    };
    let incarnation = sqlx::query("SELECT id FROM incarnation").fetch_one(&mut **tx).await?;
    let incarnation = number(&incarnation, "id")?;
    let kind = serde_json::to_string(&row.kind)
        .map_err(|e| RegistryError::Corrupt { what: "a change", value: e.to_string() })?;
    let seq = seq + 1;
    let content = serde_json::json!([
        previous,
        incarnation,
        seq,
        by.at_ms,
        by.principal,
        row.action,
        row.subject,
        row.before,
        row.after,
        by.why,
        kind
    ]);
    let digest = Sha256::of(content.to_string().as_bytes());
    sqlx::query(
        "INSERT INTO changes (seq, incarnation, at_ms, principal, action, subject, before, after, why, kind, \
         previous_sha256, sha256) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(seq.cast_signed())
    .bind(incarnation.cast_signed())
    .bind(by.at_ms.cast_signed())
    .bind(by.principal.as_deref())
    .bind(row.action)
    .bind(row.subject)
    .bind(row.before)
    .bind(row.after)
    .bind(by.why.as_deref())
    .bind(kind)
    .bind(previous)
    .bind(digest.to_string())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
