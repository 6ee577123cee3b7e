//! Who asks, and whether they may.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use hyper::{HeaderMap, header};
use pawl_domain::Sha256;
use pawl_store::registry::{Key, Registry, RegistryError, Scope};

use crate::error::{ApiError, ApiResult, Code};

/// The prefix of every secret: a leaked one can be searched for.
const PREFIX: &str = "pawl_";

/// The keys in force, read without a lock.
#[derive(Debug, Default)]
pub struct Keys {
    table: ArcSwap<HashMap<Sha256, Arc<Key>>>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub enum Caller {
    /// There are no keys: anybody may do anything.
    Open,
    /// The holder of a key.
    Key(Arc<Key>),
}

impl Caller {
    /// The name for events and changes.
    #[must_use]
    pub fn principal(&self) -> Option<Arc<str>> {
        match self {
            Self::Open => None,
            Self::Key(key) => Some(key.new.name.as_str().into()),
        }
    }

    /// Whether the caller may do `scope` to `model`.
    ///
    /// # Errors
    /// If not.
    pub fn may(&self, scope: Scope, model: Option<&str>) -> ApiResult<()> {
        match self {
            Self::Key(key) if !key.allows(scope, model) => {
                let about = model.map_or_else(String::new, |m| format!(" for the model `{m}`"));
                let detail = format!(
                    "the key `{}` lacks the scope `{}`{about}",
                    key.new.name,
                    scope.as_str()
                );
                Err(ApiError::new(Code::Forbidden, detail))
            }
            _ => Ok(()),
        }
    }
}

impl Caller {
    /// Whether it may do this for some model: asked before a body says for which.
    ///
    /// # Errors
    /// If it lacks the scope.
    pub fn may_for_some(&self, scope: Scope) -> ApiResult<()> {
        match self {
            Self::Key(key) if !key.has(scope) => {
                let detail =
                    format!("the key `{}` lacks the scope `{}`", key.new.name, scope.as_str());
                Err(ApiError::new(Code::Forbidden, detail))
            }
            _ => Ok(()),
        }
    }
}

impl Keys {
    /// Reads every key anew.
    ///
    /// # Errors
    /// If the registry fails.
    pub async fn reload(&self, registry: &Registry) -> Result<(), RegistryError> {
        let keys = registry.keys().await?;
        let table = keys.into_iter().map(|k| (k.new.sha256, Arc::new(k))).collect();
        self.table.store(Arc::new(table));
        Ok(())
    }

    /// Whether there is a key that works: then every request needs one.
    #[must_use]
    pub fn any(&self, now_ms: u64) -> bool {
        self.table.load().values().any(|k| k.valid(now_ms))
    }

    /// Whether without the key `name` nobody could make another.
    #[must_use]
    pub fn is_last_admin(&self, name: &str, now_ms: u64) -> bool {
        let table = self.table.load();
        let rules = |k: &Key| k.valid(now_ms) && k.allows(Scope::Admin, None);
        let named = table.values().any(|k| k.new.name == name && rules(k));
        named && !table.values().any(|k| k.new.name != name && rules(k))
    }

    /// Whether any key was ever made.
    #[must_use]
    pub fn none_ever(&self) -> bool {
        self.table.load().is_empty()
    }

    /// Who sends `headers`. Without any key ever made, anybody: the server then listens on loopback, or was told to.
    ///
    /// # Errors
    /// If a key is needed and none that works was sent.
    pub fn caller(&self, headers: &HeaderMap, now_ms: u64) -> ApiResult<Caller> {
        let table = self.table.load();
        if table.is_empty() {
            return Ok(Caller::Open);
        }
        let missing =
            || ApiError::new(Code::Unauthenticated, "no key was sent in `Authorization: Bearer`");
        let value = headers.get(header::AUTHORIZATION).ok_or_else(missing)?;
        let (scheme, secret) =
            value.to_str().ok().and_then(|v| v.split_once(' ')).ok_or_else(missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(missing());
        }
        // The digest is the lookup: comparing it tells nothing about the secret.
        match table.get(&Sha256::of(secret.trim().as_bytes())) {
            Some(key) if key.valid(now_ms) => Ok(Caller::Key(key.clone())),
            _ => {
                Err(ApiError::new(Code::Unauthenticated, "the key is unknown, revoked or expired"))
            }
        }
    }
}

/// A new secret: 256 random bits in hexadecimal behind a prefix.
///
/// # Errors
/// If the operating system has no randomness.
pub fn new_secret() -> Result<String, getrandom::Error> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits)?;
    Ok(format!("{PREFIX}{}", Sha256(bits)))
}
