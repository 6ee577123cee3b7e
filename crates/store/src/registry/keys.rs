//! Keys: names, scopes and digests. The secret itself is shown once and kept nowhere.

use core::str::FromStr;

use pawl_domain::{Sha256, event::ChangeKind};
use sqlx::{Row, sqlite::SqliteRow};

use super::{By, NewChange, Registry, RegistryError, append_change, number, parse};

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Ask for decisions and report those made elsewhere.
    Decide,
    /// Send feedback.
    Feedback,
    /// Read models and decisions, but not whom those are about.
    Read,
    /// Read what decisions say of a person: contexts, targeting keys, sessions, metadata. Each reading is recorded.
    Context,
    /// Everything, keys included.
    Admin,
}

impl Scope {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Decide => "decide",
            Self::Feedback => "feedback",
            Self::Read => "read",
            Self::Context => "context",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Scope {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Decide, Self::Feedback, Self::Read, Self::Context, Self::Admin]
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| {
                format!("`{text}` is not a scope: write decide, feedback, read, context or admin")
            })
    }
}

/// A key as it is asked for.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// The principal in events and changes.
    pub name: String,
    /// Digest of the secret.
    pub sha256: Sha256,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// Models it may do it to: a name in which `*` stands for anything.
    pub model: String,
    /// When it stops working.
    pub expires_ms: Option<u64>,
}

/// A key as it is kept.
#[derive(Clone, Debug)]
pub struct Key {
    /// As asked for.
    pub new: NewKey,
    /// When it was made.
    pub created_ms: u64,
    /// When it was revoked.
    pub revoked_ms: Option<u64>,
}

impl Key {
    /// Whether it works at `now_ms`.
    #[must_use]
    pub fn valid(&self, now_ms: u64) -> bool {
        self.revoked_ms.is_none() && self.new.expires_ms.is_none_or(|at| now_ms < at)
    }

    /// Whether it may do `scope` to some model.
    #[must_use]
    pub fn has(&self, scope: Scope) -> bool {
        self.new.scopes.iter().any(|s| *s == scope || *s == Scope::Admin)
    }

    /// Whether it may do `scope` to `model`; to what belongs to no model where that is `None`.
    #[must_use]
    pub fn allows(&self, scope: Scope, model: Option<&str>) -> bool {
        self.has(scope) && model.map_or(self.new.model == "*", |m| matches(&self.new.model, m))
    }
}

/// Whether `name` fits `pattern`, in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    // Each part at its first place leaves the most for those after it.
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl Registry {
    /// Stores a new key.
    ///
    /// # Errors
    /// If the name is taken.
    pub async fn create_key(&self, key: &NewKey, by: &By) -> Result<(), RegistryError> {
        let mut tx = self.begin().await?;
        let taken = sqlx::query("SELECT name FROM keys WHERE name = ?").bind(&key.name);
        if taken.fetch_optional(&mut *tx).await?.is_some() {
            return Err(RegistryError::Exists { what: "a key named", name: key.name.clone() });
        }
        let scopes: Vec<&str> = key.scopes.iter().map(|s| s.as_str()).collect();
        let scopes = scopes.join(",");
        sqlx::query(
            "INSERT INTO keys (name, sha256, scopes, model, created_ms, expires_ms) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(&key.name)
        .bind(key.sha256.to_string())
        .bind(&scopes)
        .bind(&key.model)
        .bind(by.at_ms.cast_signed())
        .bind(key.expires_ms.map(u64::cast_signed))
        .execute(&mut *tx)
        .await?;
        let after = format!("scopes {scopes}, models {}", key.model);
        let (action, subject, kind) = ("key.create", key.name.as_str(), ChangeKind::Noted);
        let change = NewChange { action, subject, before: None, after: Some(after), kind };
        append_change(&mut tx, change, by).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Revokes a key.
    ///
    /// # Errors
    /// If there is none of this name that works.
    pub async fn revoke_key(&self, name: &str, by: &By) -> Result<(), RegistryError> {
        let mut tx = self.begin().await?;
        let done =
            sqlx::query("UPDATE keys SET revoked_ms = ? WHERE name = ? AND revoked_ms IS NULL")
                .bind(by.at_ms.cast_signed())
                .bind(name)
                .execute(&mut *tx)
                .await?;
        if done.rows_affected() == 0 {
            return Err(RegistryError::NotFound { what: "working key", name: name.to_owned() });
        }
        let (action, subject, kind) = ("key.revoke", name, ChangeKind::Noted);
        let change = NewChange { action, subject, before: None, after: None, kind };
        append_change(&mut tx, change, by).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Every key, revoked ones included, by name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn keys(&self) -> Result<Vec<Key>, RegistryError> {
        let rows = sqlx::query("SELECT * FROM keys ORDER BY name").fetch_all(&self.pool).await?;
        rows.iter().map(key_row).collect()
    }
}

fn key_row(row: &SqliteRow) -> Result<Key, RegistryError> {
    let scopes: String = row.try_get("scopes")?;
    let optional = |column: &str| -> Result<Option<u64>, sqlx::Error> {
        Ok(row.try_get::<Option<i64>, _>(column)?.map(i64::cast_unsigned))
    };
    Ok(Key {
        new: NewKey {
            name: row.try_get("name")?,
            sha256: parse("a digest", row.try_get("sha256")?)?,
            scopes: scopes
                .split(',')
                .map(|s| parse("a scope", s.to_owned()))
                .collect::<Result<_, _>>()?,
            model: row.try_get("model")?,
            expires_ms: optional("expires_ms")?,
        },
        created_ms: number(row, "created_ms")?,
        revoked_ms: optional("revoked_ms")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("*", "router", true),
            ("router", "router", true),
            ("router", "router2", false),
            ("team-a.*", "team-a.router", true),
            ("team-a.*", "team-b.router", false),
            ("*.router", "team-a.router", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXc", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
