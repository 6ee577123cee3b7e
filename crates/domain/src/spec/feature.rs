//! Features: how a field of the context becomes slots of a vector.

use serde::{Deserialize, Serialize};

/// What a field of the context holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureType {
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// One of several words.
    Category,
    /// Words of a language.
    Text,
    /// Numbers of fixed length.
    Vector,
}

impl FeatureType {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Category => "category",
            Self::Text => "text",
            Self::Vector => "vector",
        }
    }
}

/// The scale of a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// As it is.
    #[default]
    Raw,
    /// sign(x)·ln(1 + |x|).
    Log,
    /// Clamped to `bounds` and mapped to [0, 1].
    Bounded,
    /// One slot for each interval between `edges`.
    Bucketed,
    /// sin and cos of 2πx / `period`.
    Cyclic,
}

/// What the log keeps of a feature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogMode {
    /// The value as it came.
    #[default]
    Raw,
    /// Its slots: enough to learn from. Those of words go by a hash under a secret key.
    Encoded,
    /// Nothing: it serves `max` and is not learned from.
    Drop,
}

/// Whose a feature is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureOf {
    /// A field of the context: the same for every action.
    #[default]
    Context,
    /// A property of each action, given by the request or by the spec.
    Action,
}

impl FeatureOf {
    const fn is_context(&self) -> bool {
        matches!(self, Self::Context)
    }
}

/// A feature as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureSpec {
    /// What the field holds.
    #[serde(rename = "type")]
    pub kind: FeatureType,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "FeatureOf::is_context")]
    pub of: FeatureOf,
    /// Number: its scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
    /// Bounded number: least and largest value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<[f64; 2]>,
    /// Bucketed number: ascending edges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edges: Option<Vec<f64>>,
    /// Cyclic number: its period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<f64>,
    /// Category: the words; one more slot takes all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<Vec<String>>,
    /// Hashed category and text: 2^bits slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<u8>,
    /// Text: longest run of words hashed together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ngrams: Option<u8>,
    /// Vector: its length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
    /// What the log keeps.
    #[serde(default)]
    pub log: LogMode,
}

/// A checked encoding.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoding {
    /// One slot: the value.
    Raw,
    /// One slot: sign(x)·ln(1 + |x|).
    Log,
    /// One slot in [0, 1].
    Bounded([f64; 2]),
    /// One of `edges.len() + 1` slots: the number of edges at or below the value.
    Bucketed(Vec<f64>),
    /// Two slots: sin and cos of 2πx / period.
    Cyclic(f64),
    /// One slot: 1 or −1.
    Boolean,
    /// One of `vocabulary.len() + 1` slots; the last is for words not listed, and for none.
    Vocabulary(Vec<String>),
    /// One of 2^bits slots.
    Hashed(u8),
    /// Words and runs of up to `ngrams` words, hashed to 2^bits slots, scaled to unit length.
    Text {
        /// log₂ of the number of slots.
        bits: u8,
        /// Longest run of words.
        ngrams: u8,
    },
    /// `dim` slots.
    Vector(usize),
    /// The slots of [`Hashed`](Self::Hashed) or [`Text`](Self::Text), where words are hashed under a secret key. Whoever has no key sees slots only.
    Keyed(Box<Self>),
}

impl Encoding {
    /// The number of slots.
    #[must_use]
    pub fn slots(&self) -> usize {
        match self {
            Self::Raw | Self::Log | Self::Bounded(_) | Self::Boolean => 1,
            Self::Cyclic(_) => 2,
            Self::Bucketed(edges) => edges.len() + 1,
            Self::Vocabulary(words) => words.len() + 1,
            Self::Hashed(bits) | Self::Text { bits, .. } => 1 << bits,
            Self::Vector(dim) => *dim,
            Self::Keyed(within) => within.slots(),
        }
    }

    /// What the field holds.
    #[must_use]
    pub fn kind(&self) -> FeatureType {
        match self {
            Self::Raw | Self::Log | Self::Bounded(_) | Self::Bucketed(_) | Self::Cyclic(_) => {
                FeatureType::Number
            }
            Self::Boolean => FeatureType::Boolean,
            Self::Vocabulary(_) | Self::Hashed(_) => FeatureType::Category,
            Self::Text { .. } => FeatureType::Text,
            Self::Vector(_) => FeatureType::Vector,
            Self::Keyed(within) => within.kind(),
        }
    }

    /// Whether its slots are those of words of a text.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.kind() == FeatureType::Text
    }

    /// The same without a key.
    #[must_use]
    pub fn unkeyed(&self) -> &Self {
        match self {
            Self::Keyed(within) => within,
            plain => plain,
        }
    }

    /// The encoding of a feature of which the log keeps slots.
    pub(super) fn keyed(self) -> Self {
        match self {
            Self::Hashed(_) | Self::Text { .. } => Self::Keyed(Box::new(self)),
            plain => plain,
        }
    }
}
