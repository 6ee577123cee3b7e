//! What a rewind leaves out: feedback and examples, by who sent them and by what they say of themselves.

use core::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One condition on feedback or examples: a field equals a value, or does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// `principal`, or `metadata.` and a name.
    pub field: String,
    /// Whether it must equal the value.
    pub equal: bool,
    /// The value, as JSON.
    pub value: String,
}

/// Conditions that must all hold; none holds for everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions(pub Vec<Condition>);

/// Text that is not a list of conditions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{part}` is not a condition: write `metadata.NAME = \"value\"` or `principal != \"name\"`, several joined by `and`"
)]
pub struct NoCondition {
    /// What could not be read.
    pub part: String,
}

impl FromStr for Condition {
    type Err = NoCondition;

    fn from_str(text: &str) -> Result<Self, NoCondition> {
        let wrong = || NoCondition { part: text.trim().to_owned() };
        let (left, right, equal) = match text.split_once("!=") {
            Some((left, right)) => (left, right, false),
            None => {
                let (left, right) = text.split_once('=').ok_or_else(wrong)?;
                (left, right, true)
            }
        };
        let field = left.trim();
        let named = field.strip_prefix("metadata.").is_some_and(|name| !name.is_empty());
        let value: Value = serde_json::from_str(right.trim()).map_err(|_| wrong())?;
        let flat = !value.is_object() && !value.is_array();
        if (field != "principal" && !named) || !flat {
            return Err(wrong());
        }
        Ok(Self { field: field.to_owned(), equal, value: value.to_string() })
    }
}

impl FromStr for Conditions {
    type Err = NoCondition;

    fn from_str(text: &str) -> Result<Self, NoCondition> {
        text.split(" and ").map(str::parse).collect::<Result<Vec<_>, _>>().map(Self)
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, c) in self.0.iter().enumerate() {
            let and = if i == 0 { "" } else { " and " };
            write!(f, "{and}{} {} {}", c.field, if c.equal { "=" } else { "!=" }, c.value)?;
        }
        Ok(())
    }
}

impl Conditions {
    /// Whether they hold for what this principal sent with this metadata, a JSON object. A field that is absent is
    /// null.
    #[must_use]
    pub fn hold(&self, principal: Option<&str>, metadata: Option<&str>) -> bool {
        let metadata: Value =
            metadata.and_then(|m| serde_json::from_str(m).ok()).unwrap_or(Value::Null);
        self.0.iter().all(|c| {
            let found = match c.field.strip_prefix("metadata.") {
                Some(name) => metadata.get(name).cloned().unwrap_or(Value::Null),
                None => principal.map_or(Value::Null, Value::from),
            };
            let wanted = serde_json::from_str::<Value>(&c.value).ok();
            (Some(found) == wanted) == c.equal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_read_and_hold() {
        let conditions: Conditions =
            "metadata.source = \"x\" and principal != \"batch\"".parse().unwrap();
        assert_eq!(conditions.to_string(), "metadata.source = \"x\" and principal != \"batch\"");
        assert!(conditions.hold(None, Some(r#"{"source": "x", "n": 1}"#)));
        assert!(!conditions.hold(Some("batch"), Some(r#"{"source": "x"}"#)));
        assert!(!conditions.hold(None, Some(r#"{"source": "y"}"#)));
        assert!(!conditions.hold(None, None));
        assert!("metadata.n=3".parse::<Conditions>().unwrap().hold(None, Some(r#"{"n":3}"#)));
        assert!("metadata.n = null".parse::<Conditions>().unwrap().hold(None, None));
        for bad in [
            "",
            "metadata = 1",
            "metadata. = 1",
            "source = \"x\"",
            "metadata.a = x",
            "metadata.a = [1]",
        ] {
            let error = bad.parse::<Conditions>().unwrap_err().to_string();
            assert!(error.contains("is not a condition"), "{bad}: {error}");
        }
    }
}
