//! Models and their versions.

use std::collections::BTreeSet;

use pawl_domain::{
    CheckedSpec, LearnerId, ModelName, Sha256,
    bump::{self, Difference},
    event::ChangeKind,
    spec::METRICS_MAX,
};
use semver::Version;
use sqlx::{Row, Sqlite, Transaction, sqlite::SqliteRow};

use super::{By, NewChange, Registry, RegistryError, append_change, number, parse};

/// One version of a model.
#[derive(Clone, Debug)]
pub struct VersionRow {
    /// Of which model.
    pub model: ModelName,
    /// The version.
    pub version: Version,
    /// `production`, `archived`, or `staging`: cut from a learner, and not served.
    pub stage: String,
    /// The learner enrolled on it.
    pub learner: LearnerId,
    /// The spec, as canonical JSON.
    pub spec: String,
    /// Its digest.
    pub spec_sha256: Sha256,
    /// What its learner began with, or what was cut: the digest of the artifact.
    pub artifact_sha256: Option<Sha256>,
    /// Of a version that was cut: the log offset up to which it had learned.
    pub position: Option<u64>,
    /// When it was made.
    pub created_ms: u64,
    /// By which key.
    pub created_by: Option<String>,
}

impl Registry {
    /// Creates a model with `spec` as version 1.0.0, in production. Its learner begins from the artifact, if there is one.
    ///
    /// # Errors
    /// If the name is taken.
    pub async fn create_model(
        &self,
        spec: &CheckedSpec,
        artifact: Option<Sha256>,
        by: &By,
    ) -> Result<VersionRow, RegistryError> {
        let mut tx = self.begin().await?;
        let name = spec.name();
        let taken = sqlx::query("SELECT deleted_ms FROM models WHERE name = ?").bind(name.as_str());
        if let Some(row) = taken.fetch_optional(&mut *tx).await? {
            if row.try_get::<Option<i64>, _>("deleted_ms")?.is_some() {
                return Err(RegistryError::Deleted(name.clone()));
            }
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
        let new = NewVersion {
            learner: Some((LearnerId(1), None)),
            ..NewVersion::of(spec, version, artifact)
        };
        let row = insert_version(&mut tx, new, by).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Adds the version that `spec` makes of its model, and puts it into production in place of the last.
    /// `expected` is the version that the caller believes to be in production. Its learner takes over from the last one, or
    /// begins from the artifact, if there is one.
    ///
    /// # Errors
    /// If the model is unknown, has moved on, or has this spec already.
    pub async fn create_version(
        &self,
        spec: &CheckedSpec,
        artifact: Option<Sha256>,
        expected: Option<&Version>,
        by: &By,
    ) -> Result<(VersionRow, Vec<Difference>), RegistryError> {
        let mut tx = self.begin().await?;
        let name = spec.name();
        let (production, learner) = model_row(&mut tx, name).await?;
        if let Some(expected) = expected.filter(|e| **e != production) {
            let (expected, actual) = (expected.to_string(), production.to_string());
            return Err(RegistryError::Conflict { model: name.clone(), expected, actual });
        }
        let old = spec_row(&mut tx, name, &production).await?;
        let old_spec = CheckedSpec::from_json(&old)
            .map_err(|why| RegistryError::Corrupt { what: "a valid spec", value: why })?;
        check_metric_names(&mut tx, spec).await?;
        let mut differences = bump::differences(&old_spec, spec);
        if let (Some(artifact), true) = (artifact, differences.is_empty()) {
            differences.push(Difference::learned(artifact));
        }
        let Some(version) = bump::next(&production, &differences) else {
            return Err(RegistryError::Unchanged(name.clone()));
        };
        let version = free(&mut tx, name, version).await?;
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
        let learner = Some((LearnerId(learner + 1), from));
        let new = NewVersion { learner, ..NewVersion::of(spec, version, artifact) };
        let row = insert_version(&mut tx, new, by).await?;
        tx.commit().await?;
        Ok((row, differences))
    }

    /// Adds a version of what a model's learner knew at the log offset `position`: a PATCH, which is not served.
    ///
    /// # Errors
    /// If the model is unknown, or another version than `of` is in production by now.
    pub async fn cut_version(
        &self,
        spec: &CheckedSpec,
        of: &Version,
        artifact: Sha256,
        position: u64,
        by: &By,
    ) -> Result<VersionRow, RegistryError> {
        let mut tx = self.begin().await?;
        let name = spec.name();
        let (production, learner) = model_row(&mut tx, name).await?;
        if production != *of {
            let (expected, actual) = (of.to_string(), production.to_string());
            return Err(RegistryError::Conflict { model: name.clone(), expected, actual });
        }
        let next = Version::new(production.major, production.minor, production.patch + 1);
        let version = free(&mut tx, name, next).await?;
        let mut new = NewVersion::of(spec, version, Some(artifact));
        new.cut = Some((LearnerId(learner), position));
        let row = insert_version(&mut tx, new, by).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Lets a model answer no more, or again.
    ///
    /// # Errors
    /// If the model is unknown.
    pub async fn archive(
        &self,
        model: &ModelName,
        archived: bool,
        by: &By,
    ) -> Result<(), RegistryError> {
        let mut tx = self.begin().await?;
        model_row(&mut tx, model).await?;
        sqlx::query("UPDATE models SET archived_ms = ? WHERE name = ?")
            .bind(archived.then_some(by.at_ms.cast_signed()))
            .bind(model.as_str())
            .execute(&mut *tx)
            .await?;
        let kind = ChangeKind::Archived { model: model.clone(), archived };
        let action = if archived { "model.archive" } else { "model.unarchive" };
        let row = NewChange { action, subject: model.as_str(), before: None, after: None, kind };
        append_change(&mut tx, row, by).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Deletes an archived model. Its rows stay, for the decisions that are in the log.
    ///
    /// # Errors
    /// If the model is unknown or not archived.
    pub async fn delete(&self, model: &ModelName, by: &By) -> Result<(), RegistryError> {
        let mut tx = self.begin().await?;
        model_row(&mut tx, model).await?;
        let deleted = sqlx::query(
            "UPDATE models SET deleted_ms = ? WHERE name = ? AND archived_ms IS NOT NULL",
        )
        .bind(by.at_ms.cast_signed())
        .bind(model.as_str())
        .execute(&mut *tx)
        .await?;
        if deleted.rows_affected() == 0 {
            return Err(RegistryError::NotArchived(model.clone()));
        }
        let kind = ChangeKind::Deleted { model: model.clone() };
        let row = NewChange {
            action: "model.delete",
            subject: model.as_str(),
            before: None,
            after: None,
            kind,
        };
        append_change(&mut tx, row, by).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Every version of a model, oldest first.
    ///
    /// # Errors
    /// If the model is unknown.
    pub async fn versions(&self, model: &ModelName) -> Result<Vec<VersionRow>, RegistryError> {
        let rows = sqlx::query("SELECT * FROM versions WHERE model = ?")
            .bind(model.as_str())
            .fetch_all(&self.pool)
            .await?;
        if rows.is_empty() {
            return Err(RegistryError::NotFound { what: "model", name: model.to_string() });
        }
        let mut rows: Vec<VersionRow> = rows.iter().map(version_row).collect::<Result<_, _>>()?;
        rows.sort_by(|a, b| a.version.cmp(&b.version));
        Ok(rows)
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
        artifact_sha256: match row.try_get::<Option<String>, _>("artifact_sha256")? {
            Some(digest) => Some(parse("a digest", digest)?),
            None => None,
        },
        position: row.try_get::<Option<i64>, _>("position")?.map(i64::cast_unsigned),
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

/// The production version and the latest learner of a model.
async fn model_row(
    tx: &mut Transaction<'static, Sqlite>,
    name: &ModelName,
) -> Result<(Version, u32), RegistryError> {
    let row =
        sqlx::query("SELECT production, learner FROM models WHERE name = ? AND deleted_ms IS NULL")
            .bind(name.as_str())
            .fetch_optional(&mut **tx)
            .await?;
    let Some(row) = row else {
        return Err(RegistryError::NotFound { what: "model", name: name.to_string() });
    };
    Ok((parse("a version", row.try_get("production")?)?, row.try_get("learner")?))
}

async fn spec_row(
    tx: &mut Transaction<'static, Sqlite>,
    name: &ModelName,
    version: &Version,
) -> Result<String, RegistryError> {
    let row = sqlx::query("SELECT spec FROM versions WHERE model = ? AND version = ?")
        .bind(name.as_str())
        .bind(version.to_string())
        .fetch_one(&mut **tx)
        .await?;
    Ok(row.try_get("spec")?)
}

/// The first number from `wanted` on, in the part that rose, which no version of the model has.
async fn free(
    tx: &mut Transaction<'static, Sqlite>,
    name: &ModelName,
    wanted: Version,
) -> Result<Version, RegistryError> {
    let rows = sqlx::query("SELECT version FROM versions WHERE model = ?")
        .bind(name.as_str())
        .fetch_all(&mut **tx)
        .await?;
    let mut taken = BTreeSet::new();
    for row in rows {
        taken.insert(parse::<Version>("a version", row.try_get("version")?)?);
    }
    let mut version = wanted;
    while taken.contains(&version) {
        version.patch += 1;
    }
    Ok(version)
}

struct NewVersion<'a> {
    spec: &'a CheckedSpec,
    version: Version,
    artifact: Option<Sha256>,
    /// Its own learner, and the one that it takes over from with the spec of that: it goes into production.
    learner: Option<(LearnerId, Option<(LearnerId, String)>)>,
    /// The learner that it was cut from, and the log offset.
    cut: Option<(LearnerId, u64)>,
}

impl<'a> NewVersion<'a> {
    const fn of(spec: &'a CheckedSpec, version: Version, artifact: Option<Sha256>) -> Self {
        Self { spec, version, artifact, learner: None, cut: None }
    }
}

async fn insert_version(
    tx: &mut Transaction<'static, Sqlite>,
    new: NewVersion<'_>,
    by: &By,
) -> Result<VersionRow, RegistryError> {
    let NewVersion { spec, version, artifact, learner, cut } = new;
    let (model, digest) = (spec.name().clone(), spec.sha256());
    let subject = format!("{model}@{version}");
    let (own, from) = learner.unzip();
    let (inherits, before) = from.flatten().unzip();
    let (action, after) = match (&cut, &before) {
        (Some(_), _) => ("version.cut", artifact.map(|a| a.to_string())),
        (None, Some(_)) => ("version.create", Some(spec.to_json())),
        (None, None) => ("model.create", Some(spec.to_json())),
    };
    let kind = match (own, artifact) {
        (None, _) => ChangeKind::Noted,
        (Some(learner), Some(artifact)) => ChangeKind::Restored {
            model: model.clone(),
            version: version.clone(),
            learner,
            artifact,
        },
        (Some(learner), None) => ChangeKind::Enrolled {
            model: model.clone(),
            version: version.clone(),
            learner,
            spec: spec.to_json(),
            spec_sha256: digest,
            inherits,
        },
    };
    let row = VersionRow {
        model,
        version,
        stage: if cut.is_some() { "staging" } else { "production" }.to_owned(),
        learner: own.or(cut.map(|(learner, _)| learner)).unwrap_or(LearnerId(0)),
        spec: spec.to_json(),
        spec_sha256: digest,
        artifact_sha256: artifact,
        position: cut.map(|(_, position)| position),
        created_ms: by.at_ms,
        created_by: by.principal.as_deref().map(str::to_owned),
    };
    sqlx::query(
        "INSERT INTO versions (model, version, stage, learner, spec, spec_sha256, artifact_sha256, position, \
         created_ms, created_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(row.model.as_str())
    .bind(row.version.to_string())
    .bind(&row.stage)
    .bind(row.learner.0)
    .bind(&row.spec)
    .bind(digest.to_string())
    .bind(artifact.map(|a| a.to_string()))
    .bind(row.position.map(u64::cast_signed))
    .bind(by.at_ms.cast_signed())
    .bind(by.principal.as_deref())
    .execute(&mut **tx)
    .await?;
    append_change(tx, NewChange { action, subject: &subject, before, after, kind }, by).await?;
    Ok(row)
}
