//! Reading the declared features out of a context, in one pass over its bytes.

use core::fmt;
use std::{borrow::Cow, collections::BTreeMap};

pub use pawl_domain::Value;
use pawl_domain::spec::{CheckedSpec, Encoding, Feature, FeatureOf, FeatureType, LogMode};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::{encode, hash_key::HashKey};

/// The members under which a logged context holds the slots of a feature with `log = "encoded"`, and a hash of the
/// encoding that made them: another version may mean something else by the same slot.
const SLOTS: &str = "pawl:slots";
const ENCODING: &str = "pawl:encoding";
/// The member under which it holds the features of actions, by name.
const ACTIONS: &str = "pawl:actions";
/// Larger numbers are taken for mistakes: their squares would drown everything else.
const LARGEST: f64 = 1e15;

fn encoding_hash(encoding: &Encoding) -> u64 {
    xxhash_rust::xxh3::xxh3_64(format!("{encoding:?}").as_bytes())
}

/// A context as far as it is declared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context<'a> {
    /// One a feature of the spec, in its order; those of actions are missing.
    pub values: Vec<Value<'a>>,
    /// By feature: the slots of those values whose words are hashed under a key.
    keyed: Vec<(usize, Value<'a>)>,
    /// Actions whose own features came with the request, and those features.
    of_actions: Vec<(u16, Self)>,
    raw: Vec<Option<&'a str>>,
    whole: &'a str,
    verbatim: bool,
    /// Whether it was read from the log, which has what counted for each action.
    logged: bool,
}

/// A context that is not a JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAnObject(pub String);

impl fmt::Display for NotAnObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "must be a JSON object: {}", self.0)
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
    spec: &'s CheckedSpec,
    of: FeatureOf,
    logged: bool,
    context: Context<'a>,
}

impl<'a> Visitor<'a> for Fields<'_, 'a> {
    type Value = Context<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'a>>(mut self, mut map: M) -> Result<Context<'a>, M::Error> {
        let features = self.spec.features();
        // Callers mostly send their fields in one order: the guess makes the search a comparison.
        let mut guess = 0;
        while let Some(Key(key)) = map.next_key()? {
            let value: &'a RawValue = map.next_value()?;
            let found = if features.get(guess).is_some_and(|f| f.name == key) {
                Ok(guess)
            } else {
                features.binary_search_by(|f| f.name.as_str().cmp(&key))
            };
            let found = found.ok().filter(|i| features[*i].of == self.of);
            let Some(i) = found else {
                self.context.verbatim = false;
                if self.logged && key == ACTIONS {
                    self.context
                        .read_actions(self.spec, value)
                        .map_err(serde::de::Error::custom)?;
                }
                continue;
            };
            guess = i + 1;
            let feature = &features[i];
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
    /// Reads what a caller sent. Total on any JSON object: what does not fit is [`Value::Unknown`]. Here, and nowhere later,
    /// words are hashed under `key`.
    ///
    /// # Errors
    /// If `text` is not a JSON object.
    pub fn read(spec: &CheckedSpec, key: &HashKey, text: &'a str) -> Result<Self, NotAnObject> {
        Ok(Self::parse(spec, text, FeatureOf::Context, false)?.hashed(spec, key))
    }

    /// The same with the words hashed that are hashed under a key.
    #[must_use]
    pub fn hashed(mut self, spec: &CheckedSpec, key: &HashKey) -> Self {
        for (i, (feature, value)) in spec.features().iter().zip(&self.values).enumerate() {
            if let (Encoding::Keyed(within), Value::Text(_)) = (&feature.encoding, value) {
                let slots = encode::keyed_slots(within, key, value);
                self.keyed.push((i, Value::Slots(encoding_hash(&feature.encoding), slots)));
            }
        }
        self
    }

    /// A value of the context as it is encoded and stored.
    fn of_context(&self, feature: usize) -> &Value<'a> {
        let keyed = self.keyed.iter().find(|(i, _)| *i == feature);
        keyed.map_or(&self.values[feature], |(_, slots)| slots)
    }

    /// Adds what a caller sent of one action: a JSON object of its features.
    ///
    /// # Errors
    /// If `text` is not a JSON object.
    pub fn add_action(
        &mut self,
        spec: &CheckedSpec,
        action: u16,
        text: &'a str,
    ) -> Result<(), NotAnObject> {
        let features = Self::parse(spec, text, FeatureOf::Action, false)?;
        self.of_actions.push((action, features));
        self.verbatim = false;
        Ok(())
    }

    fn read_actions(&mut self, spec: &CheckedSpec, raw: &'a RawValue) -> serde_json::Result<()> {
        let actions: BTreeMap<Cow<'a, str>, &'a RawValue> = serde_json::from_str(raw.get())?;
        for (name, features) in actions {
            // Another version may lack it.
            let Some(action) = spec.action(&name) else { continue };
            let features = Self::parse(spec, features.get(), FeatureOf::Action, true);
            let features = features.map_err(serde::de::Error::custom)?;
            self.of_actions.push((action as u16, features));
        }
        Ok(())
    }

    /// The value of a feature for an action: of the context, or of the action as the request gave it, or else as the
    /// spec does.
    #[must_use]
    pub fn value<'s>(
        &'s self,
        spec: &'s CheckedSpec,
        feature: usize,
        action: u16,
    ) -> &'s Value<'a> {
        if spec.features()[feature].of == FeatureOf::Context {
            return self.of_context(feature);
        }
        let given = self.of_actions.iter().find(|(a, _)| *a == action);
        if let Some((_, given)) = given
            && (self.logged || given.values[feature] != Value::Missing)
        {
            return &given.values[feature];
        }
        let own = &spec.actions()[usize::from(action)].features;
        own.iter().find(|(i, _)| *i == feature).map_or(&Value::Missing, |(_, v)| v)
    }

    /// Reads what [`Context::logged`] wrote.
    ///
    /// # Errors
    /// If `text` is not a JSON object.
    pub fn read_logged(spec: &CheckedSpec, text: &'a str) -> Result<Self, NotAnObject> {
        Self::parse(spec, text, FeatureOf::Context, true)
    }

    fn parse(
        spec: &CheckedSpec,
        text: &'a str,
        of: FeatureOf,
        logged: bool,
    ) -> Result<Self, NotAnObject> {
        let features = spec.features();
        let context = Context {
            values: vec![Value::Missing; features.len()],
            keyed: Vec::new(),
            of_actions: Vec::new(),
            raw: vec![None; features.len()],
            whole: text,
            verbatim: true,
            logged,
        };
        let mut reader = serde_json::Deserializer::from_str(text);
        let fields = Fields { spec, of, logged, context };
        let context = reader
            .deserialize_map(fields)
            .and_then(|c| reader.end().map(|()| c))
            .map_err(|e| NotAnObject(e.to_string()))?;
        Ok(context)
    }

    /// The JSON object that the log keeps: the declared features, each as its `log` says, and of the eligible `actions`
    /// what counted, whether the request gave it or the spec.
    #[must_use]
    pub fn logged(&self, spec: &CheckedSpec, actions: &[u16]) -> Cow<'a, str> {
        if self.verbatim && !spec.has_action_features() {
            return Cow::Borrowed(self.whole);
        }
        let mut out = String::with_capacity(self.whole.len());
        self.write_logged(spec, actions, &mut out);
        Cow::Owned(out)
    }

    fn write_logged(&self, spec: &CheckedSpec, actions: &[u16], out: &mut String) {
        out.push('{');
        let begin = out.len();
        for (i, (feature, raw)) in spec.features().iter().zip(&self.raw).enumerate() {
            let (Some(raw), true) = (raw, feature.log != LogMode::Drop) else { continue };
            if out.len() > begin {
                out.push(',');
            }
            out.push_str(&quote(&feature.name));
            out.push(':');
            match (feature.log, self.of_context(i)) {
                (LogMode::Encoded, Value::Missing | Value::Unknown) => out.push_str("null"),
                (LogMode::Encoded, value) => write_slots(&feature.encoding, value, out),
                _ => out.push_str(raw),
            }
        }
        if spec.has_action_features() {
            let comma = if out.len() > begin { "," } else { "" };
            out.push_str(&format!("{comma}{}:{{", quote(ACTIONS)));
            for (n, action) in actions.iter().enumerate() {
                let name = &spec.actions()[usize::from(*action)].name;
                out.push_str(&format!("{}{}:", if n > 0 { "," } else { "" }, quote(name.as_str())));
                self.write_action(spec, *action, out);
            }
            out.push('}');
        }
        out.push('}');
    }

    /// What counted of an action.
    fn write_action(&self, spec: &CheckedSpec, action: u16, out: &mut String) {
        out.push('{');
        let begin = out.len();
        for (i, feature) in spec.features().iter().enumerate() {
            let kept = feature.of == FeatureOf::Action && feature.log != LogMode::Drop;
            let value = self.value(spec, i, action);
            if !kept || *value == Value::Missing {
                continue;
            }
            let comma = if out.len() > begin { "," } else { "" };
            out.push_str(&format!("{comma}{}:", quote(&feature.name)));
            match (feature.log, value) {
                (LogMode::Encoded, value) => write_slots(&feature.encoding, value, out),
                // Of another type than declared: it is not read again either.
                (_, Value::Unknown) => out.push_str("{}"),
                (_, value) => out.push_str(&value.to_json()),
            }
        }
        out.push('}');
    }

    /// The values that the log keeps of an example, one for each feature of [`stored_features`].
    pub fn stored(&self, spec: &CheckedSpec) -> impl Iterator<Item = Cow<'_, Value<'a>>> {
        let kept = spec.features().iter().enumerate().filter(|(_, f)| f.log != LogMode::Drop);
        kept.map(|(i, feature)| match (feature.log, self.of_context(i)) {
            (LogMode::Encoded, Value::Missing | Value::Unknown) => Cow::Owned(Value::Missing),
            (LogMode::Encoded, value) => {
                let slots = encode::slots_of(&feature.encoding, value);
                Cow::Owned(Value::Slots(encoding_hash(&feature.encoding), slots))
            }
            (_, value) => Cow::Borrowed(value),
        })
    }

    /// A context of values in the order of the spec's features.
    #[must_use]
    pub const fn of(values: Vec<Value<'a>>) -> Self {
        Self {
            values,
            keyed: Vec::new(),
            of_actions: Vec::new(),
            raw: Vec::new(),
            whole: "",
            verbatim: false,
            logged: false,
        }
    }

    /// How many declared features of the context are absent, and how many do not fit their declaration, those of actions
    /// included.
    #[must_use]
    pub fn gaps(&self, spec: &CheckedSpec) -> (usize, usize) {
        let of_context = spec.features().iter().zip(&self.values);
        let of_context = of_context.filter(|(f, _)| f.of == FeatureOf::Context);
        let missing = of_context.filter(|(_, v)| **v == Value::Missing).count();
        let all = self.of_actions.iter().flat_map(|(_, f)| &f.values).chain(&self.values);
        (missing, all.filter(|v| **v == Value::Unknown).count())
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

/// The slots of a value, and what made them.
fn write_slots(encoding: &Encoding, value: &Value<'_>, out: &mut String) {
    let slots = serde_json::to_string(&encode::slots_of(encoding, value)).unwrap_or_default();
    let made_by = encoding_hash(encoding);
    out.push_str(&format!("{{\"{SLOTS}\":{slots},\"{ENCODING}\":{made_by}}}"));
}

fn quote(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}
