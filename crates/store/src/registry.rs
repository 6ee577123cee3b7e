//! The registry: models, versions, keys. Each change appends one row to `changes`, in the same transaction.

mod keys;

use std::{collections::BTreeSet, path::Path, sync::Arc};

use pawl_domain::{
    CheckedSpec, LearnerId, ModelName, Sha256,
    bump::{self, Difference},
    event::{Change, ChangeKind, LearnerChange},
    spec::METRICS_MAX,
};
use semver::Version;
use sqlx::{
    Row, Sqlite, SqlitePool, Transaction,
    sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
    },
};

pub use keys::{Key, NewKey, Scope};

/// Why the registry refused.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The database failed.
    #[error("the registry failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the registry's schema cannot be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
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

/// One version of a model.
#[derive(Clone, Debug)]
pub struct VersionRow {
    /// Of which model.
    pub model: ModelName,
    /// The version.
    pub version: Version,
    /// `production` or `archived`.
    pub stage: String,
    /// The learner enrolled on it.
    pub learner: LearnerId,
    /// The spec, as canonical JSON.
    pub spec: String,
    /// Its digest.
    pub spec_sha256: Sha256,
    /// When it was made.
    pub created_ms: u64,
    /// By which key.
    pub created_by: Option<String>,
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
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true);
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
        sqlx::migrate!("./migrations").run(&pool).await?;
        Ok(Self { pool })
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn ping(&self) -> Result<(), RegistryError> {
        sqlx::query("SELECT id FROM incarnation").fetch_one(&self.pool).await?;
        Ok(())
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, RegistryError> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Creates a model with `spec` as version 1.0.0, in production.
    ///
    /// # Errors
    /// If the name is taken.
    pub async fn create_model(
        &self,
        spec: &CheckedSpec,
        by: &By,
    ) -> Result<VersionRow, RegistryError> {
        let mut tx = self.begin().await?;
        let name = spec.name();
        let taken = sqlx::query("SELECT name FROM models WHERE name = ?").bind(name.as_str());
        if taken.fetch_optional(&mut *tx).await?.is_some() {
            return Err(RegistryError::Exists { what: "a model named", name: name.to_string() });
        }
        let version = Version::new(1, 0, 0);
        sqlx::query("INSERT INTO models (name, kind, production, learner, created_ms) VALUES (?, ?, ?, 1, ?)")
            .bind(name.as_str())
            .bind(spec.kind().as_str())
            .bind(version.to_string())
            .bind(by.at_ms.cast_signed())
            .execute(&mut *tx)
            .await?;
        let row = insert_version(&mut tx, spec, version, LearnerId(1), None, by).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Adds the version that `spec` makes of its model, and puts it into production in place of the last.
    /// `expected` is the version that the caller believes to be in production.
    ///
    /// # Errors
    /// If the model is unknown, has moved on, or has this spec already.
    pub async fn create_version(
        &self,
        spec: &CheckedSpec,
        expected: Option<&Version>,
        by: &By,
    ) -> Result<(VersionRow, Vec<Difference>), RegistryError> {
        let mut tx = self.begin().await?;
        let name = spec.name();
        let row = sqlx::query("SELECT production, learner FROM models WHERE name = ?")
            .bind(name.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        let Some(row) = row else {
            return Err(RegistryError::NotFound { what: "model", name: name.to_string() });
        };
        let production: Version = parse("a version", row.try_get("production")?)?;
        if let Some(expected) = expected.filter(|e| **e != production) {
            let (expected, actual) = (expected.to_string(), production.to_string());
            return Err(RegistryError::Conflict { model: name.clone(), expected, actual });
        }
        let learner = row.try_get::<u32, _>("learner")?;
        let old: String = sqlx::query("SELECT spec FROM versions WHERE model = ? AND version = ?")
            .bind(name.as_str())
            .bind(production.to_string())
            .fetch_one(&mut *tx)
            .await?
            .try_get("spec")?;
        let old_spec = CheckedSpec::from_json(&old)
            .map_err(|why| RegistryError::Corrupt { what: "a valid spec", value: why })?;
        check_metric_names(&mut tx, spec).await?;
        let differences = bump::differences(&old_spec, spec);
        let Some(version) = bump::next(&production, &differences) else {
            return Err(RegistryError::Unchanged(name.clone()));
        };
        sqlx::query(
            "UPDATE versions SET stage = 'archived' WHERE model = ? AND stage = 'production'",
        )
        .bind(name.as_str())
        .execute(&mut *tx)
        .await?;
        sqlx::query("UPDATE models SET production = ?, learner = ? WHERE name = ?")
            .bind(version.to_string())
            .bind(learner + 1)
            .bind(name.as_str())
            .execute(&mut *tx)
            .await?;
        let from = Some((LearnerId(learner), old));
        let row = insert_version(&mut tx, spec, version, LearnerId(learner + 1), from, by).await?;
        tx.commit().await?;
        Ok((row, differences))
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
        let mut tx = self.begin().await?;
        let known = sqlx::query("SELECT name FROM models WHERE name = ?").bind(model.as_str());
        if known.fetch_optional(&mut *tx).await?.is_none() {
            return Err(RegistryError::NotFound { what: "model", name: model.to_string() });
        }
        let after = serde_json::to_string(change).ok();
        let kind = ChangeKind::Learner { model: model.clone(), change: change.clone() };
        let subject = model.as_str();
        let row = NewChange { action: change.as_str(), subject, before: None, after, kind };
        append_change(&mut tx, row, by).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Every version of a model, oldest first.
    ///
    /// # Errors
    /// If the model is unknown.
    pub async fn versions(&self, model: &ModelName) -> Result<Vec<VersionRow>, RegistryError> {
        let rows = sqlx::query("SELECT * FROM versions WHERE model = ? ORDER BY learner")
            .bind(model.as_str())
            .fetch_all(&self.pool)
            .await?;
        if rows.is_empty() {
            return Err(RegistryError::NotFound { what: "model", name: model.to_string() });
        }
        rows.iter().map(version_row).collect()
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
        let row = |row: &SqliteRow| {
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
        };
        rows.iter().map(row).collect()
    }
}

fn version_row(row: &SqliteRow) -> Result<VersionRow, RegistryError> {
    Ok(VersionRow {
        model: parse("a model name", row.try_get("model")?)?,
        version: parse("a version", row.try_get("version")?)?,
        stage: row.try_get("stage")?,
        learner: LearnerId(row.try_get("learner")?),
        spec: row.try_get("spec")?,
        spec_sha256: parse("a digest", row.try_get("spec_sha256")?)?,
        created_ms: number(row, "created_ms")?,
        created_by: row.try_get("created_by")?,
    })
}

/// A decision has one bit for each metric that any version of its model ever had.
async fn check_metric_names(
    tx: &mut Transaction<'static, Sqlite>,
    spec: &CheckedSpec,
) -> Result<(), RegistryError> {
    let rows = sqlx::query("SELECT spec FROM versions WHERE model = ?")
        .bind(spec.name().as_str())
        .fetch_all(&mut **tx)
        .await?;
    let mut names: BTreeSet<String> = spec.metrics().iter().map(|m| m.name.clone()).collect();
    for row in rows {
        let text: String = row.try_get("spec")?;
        let old = CheckedSpec::from_json(&text)
            .map_err(|why| RegistryError::Corrupt { what: "a valid spec", value: why })?;
        names.extend(old.metrics().iter().map(|m| m.name.clone()));
    }
    if names.len() > METRICS_MAX {
        return Err(RegistryError::TooManyMetrics(names.len()));
    }
    Ok(())
}

async fn insert_version(
    tx: &mut Transaction<'static, Sqlite>,
    spec: &CheckedSpec,
    version: Version,
    learner: LearnerId,
    from: Option<(LearnerId, String)>,
    by: &By,
) -> Result<VersionRow, RegistryError> {
    let json = spec.to_json();
    let digest = spec.sha256();
    sqlx::query(
        "INSERT INTO versions (model, version, stage, learner, spec, spec_sha256, created_ms, created_by) \
         VALUES (?, ?, 'production', ?, ?, ?, ?, ?)",
    )
    .bind(spec.name().as_str())
    .bind(version.to_string())
    .bind(learner.0)
    .bind(&json)
    .bind(digest.to_string())
    .bind(by.at_ms.cast_signed())
    .bind(by.principal.as_deref())
    .execute(&mut **tx)
    .await?;
    let (inherits, before) = from.unzip();
    let kind = ChangeKind::Enrolled {
        model: spec.name().clone(),
        version: version.clone(),
        learner,
        spec: json.clone(),
        spec_sha256: digest,
        inherits,
    };
    let action = if before.is_some() { "version.create" } else { "model.create" };
    let subject = format!("{}@{version}", spec.name());
    let row = NewChange { action, subject: &subject, before, after: Some(json.clone()), kind };
    append_change(tx, row, by).await?;
    Ok(VersionRow {
        model: spec.name().clone(),
        version,
        stage: "production".to_owned(),
        learner,
        spec: json,
        spec_sha256: digest,
        created_ms: by.at_ms,
        created_by: by.principal.as_deref().map(str::to_owned),
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
