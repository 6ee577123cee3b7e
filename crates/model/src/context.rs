//! Reading the declared features out of a context, in one pass over its bytes.

use core::fmt;
use std::borrow::Cow;

pub use pawl_domain::Value;
use pawl_domain::spec::{CheckedSpec, Encoding, Feature, FeatureType, LogMode};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::encode;

/// The members under which a logged context holds the slots of a feature with `log = "encoded"`, and a hash of the
/// encoding that made them: another version may mean something else by the same slot.
const SLOTS: &str = "pawl:slots";
const ENCODING: &str = "pawl:encoding";
/// Larger numbers are taken for mistakes: their squares would drown everything else.
const LARGEST: f64 = 1e15;

fn encoding_hash(encoding: &Encoding) -> u64 {
    xxhash_rust::xxh3::xxh3_64(format!("{encoding:?}").as_bytes())
}

/// A context as far as it is declared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context<'a> {
    /// One a feature of the spec, in its order.
    pub values: Vec<Value<'a>>,
    raw: Vec<Option<&'a str>>,
    whole: &'a str,
    verbatim: bool,
}

/// A context that is not a JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAnObject(pub String);

impl fmt::Display for NotAnObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`context` must be a JSON object: {}", self.0)
    }
}

impl std::error::Error for NotAnObject {}

struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(v)))
            }
            fn visit_str<E>(self, v: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(v.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

struct Fields<'s, 'a> {
    features: &'s [Feature],
    logged: bool,
    context: Context<'a>,
}

impl<'a> Visitor<'a> for Fields<'_, 'a> {
    type Value = Context<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'a>>(mut self, mut map: M) -> Result<Context<'a>, M::Error> {
        // Callers mostly send their fields in one order: the guess makes the search a comparison.
        let mut guess = 0;
        while let Some(Key(key)) = map.next_key()? {
            let value: &'a RawValue = map.next_value()?;
            let found = if self.features.get(guess).is_some_and(|f| f.name == key) {
                Ok(guess)
            } else {
                self.features.binary_search_by(|f| f.name.as_str().cmp(&key))
            };
            let Ok(i) = found else {
                self.context.verbatim = false;
                continue;
            };
            guess = i + 1;
            let feature = &self.features[i];
            let text = value.get();
            if self.context.raw[i].is_some() || feature.log != LogMode::Raw {
                self.context.verbatim = false;
            }
            self.context.raw[i] = Some(text);
            // Slots are ours only where the log writes them: elsewhere an object is just not a value.
            let slots = self.logged && feature.log == LogMode::Encoded;
            self.context.values[i] = interpret(&feature.encoding, text, slots);
        }
        Ok(self.context)
    }
}

fn interpret<'a>(encoding: &Encoding, text: &'a str, may_hold_slots: bool) -> Value<'a> {
    let kind = encoding.kind();
    let value = match text.as_bytes().first() {
        Some(b'n') => return Value::Missing,
        Some(b't') => Value::Boolean(true),
        Some(b'f') => Value::Boolean(false),
        Some(b'"') => {
            let inner = &text[1..text.len() - 1];
            if inner.contains('\\') {
                match serde_json::from_str(text) {
                    Ok(owned) => Value::Text(Cow::Owned(owned)),
                    Err(_) => Value::Unknown, // a lone surrogate: no text
                }
            } else {
                Value::Text(Cow::Borrowed(inner))
            }
        }
        Some(b'[') => serde_json::from_str(text).map_or(Value::Unknown, Value::Vector),
        Some(b'{') if may_hold_slots => slots(encoding, text),
        Some(b'-' | b'0'..=b'9') => match text.parse::<f64>() {
            Ok(number) if number.abs() <= LARGEST => Value::Number(number),
            _ => Value::Unknown,
        },
        _ => Value::Unknown,
    };
    match (&value, kind) {
        (Value::Number(_), FeatureType::Number)
        | (Value::Boolean(_), FeatureType::Boolean)
        | (Value::Text(_), FeatureType::Category | FeatureType::Text)
        | (Value::Slots(..), _) => value,
        // A category may be written as a number or a truth value: the word is its JSON text.
        (Value::Number(_) | Value::Boolean(_), FeatureType::Category) => {
            Value::Text(Cow::Borrowed(text))
        }
        (Value::Vector(v), FeatureType::Vector)
            if v.len() == encoding.slots() && v.iter().all(|x| x.abs() <= LARGEST) =>
        {
            value
        }
        _ => Value::Unknown,
    }
}

fn slots<'a>(encoding: &Encoding, text: &str) -> Value<'a> {
    #[derive(serde::Deserialize)]
    struct Logged {
        #[serde(rename = "pawl:slots")]
        slots: Vec<(u32, f64)>,
        #[serde(rename = "pawl:encoding")]
        encoding: u64,
    }
    match serde_json::from_str::<Logged>(text) {
        Ok(logged) if logged.encoding == encoding_hash(encoding) => {
            Value::Slots(logged.encoding, logged.slots)
        }
        _ => Value::Unknown,
    }
}

impl<'a> Context<'a> {
    /// Reads what a caller sent. Total on any JSON object: what does not fit is [`Value::Unknown`].
    ///
    /// # Errors
    /// If `text` is not a JSON object.
    pub fn read(spec: &CheckedSpec, text: &'a str) -> Result<Self, NotAnObject> {
        Self::parse(spec, text, false)
    }

    /// Reads what [`Context::logged`] wrote.
    ///
    /// # Errors
    /// If `text` is not a JSON object.
    pub fn read_logged(spec: &CheckedSpec, text: &'a str) -> Result<Self, NotAnObject> {
        Self::parse(spec, text, true)
    }

    fn parse(spec: &CheckedSpec, text: &'a str, logged: bool) -> Result<Self, NotAnObject> {
        let features = spec.features();
        let context = Context {
            values: vec![Value::Missing; features.len()],
            raw: vec![None; features.len()],
            whole: text,
            verbatim: true,
        };
        let mut reader = serde_json::Deserializer::from_str(text);
        let fields = Fields { features, logged, context };
        let context = reader
            .deserialize_map(fields)
            .and_then(|c| reader.end().map(|()| c))
            .map_err(|e| NotAnObject(e.to_string()))?;
        Ok(context)
    }

    /// The JSON object that the log keeps: the declared features, each as its `log` says.
    #[must_use]
    pub fn logged(&self, spec: &CheckedSpec) -> Cow<'a, str> {
        if self.verbatim {
            return Cow::Borrowed(self.whole);
        }
        let mut out = String::with_capacity(self.whole.len());
        out.push('{');
        for ((feature, raw), value) in spec.features().iter().zip(&self.raw).zip(&self.values) {
            let (Some(raw), true) = (raw, feature.log != LogMode::Drop) else { continue };
            if out.len() > 1 {
                out.push(',');
            }
            out.push_str(&quote(&feature.name));
            out.push(':');
            match (feature.log, value) {
                (LogMode::Encoded, Value::Missing | Value::Unknown) => out.push_str("null"),
                (LogMode::Encoded, value) => {
                    let slots = encode::slots_of(&feature.encoding, value);
                    let slots = serde_json::to_string(&slots).unwrap_or_default();
                    let made_by = encoding_hash(&feature.encoding);
                    out.push_str(&format!("{{\"{SLOTS}\":{slots},\"{ENCODING}\":{made_by}}}"));
                }
                _ => out.push_str(raw),
            }
        }
        out.push('}');
        Cow::Owned(out)
    }

    /// The values that the log keeps of an example, one for each feature of [`stored_features`].
    pub fn stored(&self, spec: &CheckedSpec) -> impl Iterator<Item = Cow<'_, Value<'a>>> {
        let kept = spec.features().iter().zip(&self.values).filter(|(f, _)| f.log != LogMode::Drop);
        kept.map(|(feature, value)| match (feature.log, value) {
            (LogMode::Encoded, Value::Missing | Value::Unknown) => Cow::Owned(Value::Missing),
            (LogMode::Encoded, value) => {
                let slots = encode::slots_of(&feature.encoding, value);
                Cow::Owned(Value::Slots(encoding_hash(&feature.encoding), slots))
            }
            _ => Cow::Borrowed(value),
        })
    }

    /// A context of values in the order of the spec's features.
    #[must_use]
    pub const fn of(values: Vec<Value<'a>>) -> Self {
        Self { values, raw: Vec::new(), whole: "", verbatim: false }
    }

    /// How many declared features are absent, and how many do not fit their declaration.
    #[must_use]
    pub fn gaps(&self) -> (usize, usize) {
        let count = |v: &Value<'_>| self.values.iter().filter(|x| *x == v).count();
        (count(&Value::Missing), count(&Value::Unknown))
    }
}

/// The features of which the log keeps a value in an example.
pub fn stored_features(spec: &CheckedSpec) -> impl Iterator<Item = &str> {
    let kept = spec.features().iter().filter(|f| f.log != LogMode::Drop);
    kept.map(|f| f.name.as_str())
}

/// A stored value as this feature reads it: one that was stored under another declaration may not fit.
#[must_use]
pub fn fitted<'a>(feature: &Feature, value: Value<'a>) -> Value<'a> {
    let kind = feature.encoding.kind();
    match value {
        Value::Slots(made_by, _) if made_by != encoding_hash(&feature.encoding) => Value::Unknown,
        Value::Number(_) if kind != FeatureType::Number => Value::Unknown,
        Value::Boolean(_) if kind != FeatureType::Boolean => Value::Unknown,
        Value::Text(_) if !matches!(kind, FeatureType::Category | FeatureType::Text) => {
            Value::Unknown
        }
        Value::Vector(v) if kind != FeatureType::Vector || v.len() != feature.encoding.slots() => {
            Value::Unknown
        }
        value => value,
    }
}

fn quote(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}
