//! Names and ids: parsed once at the edge, valid ever after.

use core::{fmt, str::FromStr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::Digest;

/// A name or id that breaks its rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a {what}: {rule}")]
pub struct InvalidId {
    what: &'static str,
    value: String,
    rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidId;
            fn from_str(value: &str) -> Result<Self, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if valid(value) {
                    Ok(Self(value.into()))
                } else {
                    let value = value.chars().take(140).collect();
                    Err(InvalidId { what: $what, value, rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidId;
            fn try_from(value: String) -> Result<Self, InvalidId> {
                value.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a model.
    ModelName,
    "model name",
    "1 to 64 of a-z, 0-9, `_`, `-` and `.`, the first a letter or digit",
    |v| (1..=64).contains(&v.len())
        && v.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && v.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.'))
);

name!(
    /// The name of an action.
    ActionName,
    "action name",
    "1 to 128 bytes without control characters",
    |v| (1..=128).contains(&v.len()) && !v.chars().any(char::is_control)
);

/// A place in the log. Opaque text to clients.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// The unit of order; a model lives in exactly one.
    pub partition: u32,
    /// Bytes from the beginning of the partition.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.partition, self.offset)
    }
}

impl FromStr for Position {
    type Err = InvalidId;
    fn from_str(value: &str) -> Result<Self, InvalidId> {
        let parse = || {
            let (partition, offset) = value.split_once('.')?;
            Some(Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
        };
        parse().ok_or_else(|| InvalidId {
            what: "position",
            value: value.chars().take(60).collect(),
            rule: "take it as a reply gave it, such as `0.4711`",
        })
    }
}

/// The id of a decision: where it stands in the log and 64 random bits that prove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DecisionId {
    /// Raised at every open and restore of the log.
    pub epoch: u32,
    /// The place of its record.
    pub position: Position,
    /// Compared with the record by the join; a mismatch is an orphan.
    pub nonce: u64,
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { partition, offset } = self.position;
        write!(f, "{:x}-{partition:x}-{offset:x}-{:016x}", self.epoch, self.nonce)
    }
}

impl FromStr for DecisionId {
    type Err = InvalidId;
    fn from_str(value: &str) -> Result<Self, InvalidId> {
        let parse = || {
            let mut parts = value.split('-');
            let mut next = || parts.next().and_then(|p| u64::from_str_radix(p, 16).ok());
            let (epoch, partition, offset, nonce) = (next()?, next()?, next()?, next()?);
            if parts.next().is_some() {
                return None;
            }
            let position = Position { partition: u32::try_from(partition).ok()?, offset };
            Some(Self { epoch: u32::try_from(epoch).ok()?, position, nonce })
        };
        parse().ok_or_else(|| InvalidId {
            what: "decision id",
            value: value.chars().take(80).collect(),
            rule: "take it as the decide reply gave it",
        })
    }
}

/// A learner of a model: dense from 1 in order of enrolment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LearnerId(pub u32);

impl fmt::Display for LearnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "l{}", self.0)
    }
}

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Sha256 {
    type Err = InvalidId;
    fn from_str(value: &str) -> Result<Self, InvalidId> {
        let digit = |i: usize| value.get(i..i + 2).and_then(|h| u8::from_str_radix(h, 16).ok());
        let mut bytes = [0; 32];
        let ok = value.len() == 64
            && bytes.iter_mut().enumerate().all(|(i, b)| digit(2 * i).map(|d| *b = d).is_some());
        if ok {
            return Ok(Self(bytes));
        }
        let value = value.chars().take(70).collect();
        Err(InvalidId { what: "SHA-256 digest", value, rule: "64 hexadecimal digits" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_text() {
        let id = DecisionId {
            epoch: 7,
            position: Position { partition: 0, offset: 123_456_789_012 },
            nonce: 5,
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.position.to_string().parse(), Ok(id.position));
        let digest = Sha256::of(b"abc");
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            digest.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn bad_names_are_refused() {
        for bad in ["", "Router", "a b", "-a", "a/b", "a@b", &"a".repeat(65)] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad}");
        }
        assert!("azure/gpt-4 (eu)".parse::<ActionName>().is_ok());
        assert!("a\nb".parse::<ActionName>().is_err());
        for bad in ["", "1-2-3", "1-0-3-4-5", "z-0-0-0", "1ffffffff-0-0-0"] {
            assert!(bad.parse::<DecisionId>().is_err(), "{bad}");
        }
    }
}
