//! From a context to a vector of slots. The same code serves, learns and explains.

use core::f64::consts::TAU;
use std::borrow::Cow;

use pawl_domain::{
    examples::RowReader,
    spec::{CheckedSpec, Encoding, Term},
    value::Stored,
};
use pawl_stats::dense;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::{
    context::{Context, Value, fitted},
    hash_key::HashKey,
    layout::Layout,
};

/// A context in the slots of one layout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Encoded {
    /// Values of the dense prefix, `[layout.dense]`.
    pub dense: Vec<f64>,
    /// Slot and value of the other slots under the full covariance that are set, ascending within a term.
    pub sparse: Vec<(u32, f64)>,
    /// Slot and value of the slots with variances only.
    pub diagonal: Vec<(u32, f64)>,
}

impl Encoded {
    /// Encodes `context` as it is for an action, into memory that is used again.
    pub fn fill(
        &mut self,
        spec: &CheckedSpec,
        layout: &Layout,
        context: &Context<'_>,
        action: u16,
    ) {
        self.dense.clear();
        self.dense.resize(layout.dense, 0.0);
        self.sparse.clear();
        self.diagonal.clear();
        for block in &layout.blocks {
            let mut put = |within: usize, value: f64| {
                let slot = block.start + within;
                if slot < layout.dense {
                    self.dense[slot] = value;
                } else if slot < layout.full {
                    self.sparse.push((slot as u32, value));
                } else {
                    self.diagonal.push((slot as u32, value));
                }
            };
            match &block.term {
                None => put(0, 1.0),
                Some(Term::Alone(i, encoding)) => {
                    each(encoding, context.value(spec, *i, action), &mut put);
                }
                Some(Term::Cross(a, b)) => {
                    let (x, y) = (&spec.features()[*a].encoding, &spec.features()[*b].encoding);
                    let u = context.value(spec, *a, action);
                    let v = context.value(spec, *b, action);
                    each(x, u, &mut |i, s| each(y, v, &mut |j, t| put(i * y.slots() + j, s * t)));
                }
            }
        }
    }

    /// Encodes `context` as it is for an action.
    #[must_use]
    pub fn new(spec: &CheckedSpec, layout: &Layout, context: &Context<'_>, action: u16) -> Self {
        let mut encoded = Self::default();
        encoded.fill(spec, layout, context, action);
        encoded
    }

    /// Every slot that is set, with its value.
    pub fn iter(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        let dense = self.dense.iter().copied().enumerate();
        let rest = self.sparse.iter().chain(&self.diagonal).map(|&(slot, v)| (slot as usize, v));
        dense.chain(rest)
    }

    /// w·x.
    #[must_use]
    pub fn dot(&self, w: &[f64]) -> f64 {
        let sparse: f64 = self.sparse.iter().map(|&(slot, v)| w[slot as usize] * v).sum();
        let diagonal: f64 = self.diagonal.iter().map(|&(slot, v)| w[slot as usize] * v).sum();
        dense::dot(&w[..self.dense.len()], &self.dense) + sparse + diagonal
    }
}

/// How stored rows become slots without a context between: where every term is of one feature, and the columns of the
/// rows stand in the order of the slots.
#[derive(Clone, Debug, PartialEq)]
pub struct Direct {
    /// By column: the feature and the first of its slots; `None` where the spec has no such feature.
    columns: Vec<Option<(usize, usize)>>,
}

impl Direct {
    /// `places` says for each column which feature of the spec it is. `None` where a context is needed.
    #[must_use]
    pub fn of(spec: &CheckedSpec, layout: &Layout, places: &[Option<usize>]) -> Option<Self> {
        let [intercept, blocks @ ..] = &layout.blocks[..] else { return None };
        let plain = intercept.term.is_none() && layout.dense == 0 && layout.full == 0;
        let mut columns = vec![None; places.len()];
        let mut next = 0;
        for block in blocks {
            let Some(Term::Alone(feature, encoding)) = &block.term else { return None };
            let column = next + places[next..].iter().position(|p| *p == Some(*feature))?;
            if *encoding != spec.features()[*feature].encoding {
                return None;
            }
            columns[column] = Some((*feature, block.start));
            next = column + 1;
        }
        plain.then_some(Self { columns })
    }
}

impl Encoded {
    /// Encodes the row whose head was read from `rows`. False if its values cannot be read.
    pub fn fill_direct(
        &mut self,
        spec: &CheckedSpec,
        direct: &Direct,
        rows: &mut RowReader<'_>,
    ) -> bool {
        self.dense.clear();
        self.sparse.clear();
        self.diagonal.clear();
        self.diagonal.push((0, 1.0));
        for column in &direct.columns {
            let Some(value) = rows.stored() else { return false };
            let Some((feature, start)) = *column else { continue };
            let feature = &spec.features()[feature];
            let value = match (&feature.encoding, value) {
                (Encoding::Raw, Stored::Number(x)) => {
                    self.diagonal.push((start as u32, x));
                    continue;
                }
                (Encoding::Hashed(bits), Stored::Text(text)) => {
                    self.diagonal.push(((start + bucket(text, *bits)) as u32, 1.0));
                    continue;
                }
                (_, Stored::Number(x)) => Value::Number(x),
                (_, Stored::Text(text)) => match core::str::from_utf8(text) {
                    Ok(text) => Value::Text(Cow::Borrowed(text)),
                    Err(_) => return false,
                },
                (_, Stored::Other(value)) => value,
            };
            let put = &mut |within: usize, v: f64| self.diagonal.push(((start + within) as u32, v));
            each(&feature.encoding, &fitted(feature, value), put);
        }
        true
    }
}

/// The slots of a word or text whose words are hashed under a key; none of another value.
pub(crate) fn keyed_slots(within: &Encoding, key: &HashKey, value: &Value<'_>) -> Vec<(u32, f64)> {
    let mut slots = Vec::new();
    let put = &mut |slot: usize, v: f64| slots.push((slot as u32, v));
    match (within, value) {
        // Small numbers too: here nothing may be read off a slot.
        (Encoding::Hashed(bits), Value::Text(text)) => {
            put((key.hash(text.as_bytes()) >> (64 - bits)) as usize, 1.0);
        }
        (Encoding::Text { bits, ngrams }, Value::Text(text)) => {
            words(text, *bits, *ngrams, |word| key.hash(word), put);
        }
        _ => {}
    }
    slots
}

/// The slots of a value within its feature.
#[must_use]
pub fn slots_of(encoding: &Encoding, value: &Value<'_>) -> Vec<(u32, f64)> {
    let mut slots = Vec::new();
    each(encoding, value, &mut |slot, v| slots.push((slot as u32, v)));
    slots
}

/// Calls `put` with every slot of `value` that is set. A missing or unknown value sets none, but for a
/// vocabulary, where it counts as another word. A word that should have been hashed under a key sets none either.
fn each(encoding: &Encoding, value: &Value<'_>, put: &mut dyn FnMut(usize, f64)) {
    match (encoding, value) {
        (_, Value::Slots(_, slots)) => slots.iter().for_each(|&(slot, v)| put(slot as usize, v)),
        (Encoding::Vocabulary(words), Value::Text(text)) => {
            put(words.iter().position(|w| w == text).unwrap_or(words.len()), 1.0);
        }
        (Encoding::Vocabulary(words), _) => put(words.len(), 1.0),
        (Encoding::Raw, Value::Number(x)) => put(0, *x),
        (Encoding::Log, Value::Number(x)) => put(0, libm::copysign(libm::log1p(x.abs()), *x)),
        (Encoding::Bounded([low, high]), Value::Number(x)) => {
            put(0, (x.clamp(*low, *high) - low) / (high - low));
        }
        (Encoding::Bucketed(edges), Value::Number(x)) => {
            put(edges.partition_point(|e| e <= x), 1.0)
        }
        (Encoding::Cyclic(period), Value::Number(x)) => {
            let angle = TAU * (libm::fmod(*x, *period) / period);
            put(0, libm::sin(angle));
            put(1, libm::cos(angle));
        }
        (Encoding::Boolean, Value::Boolean(b)) => put(0, if *b { 1.0 } else { -1.0 }),
        (Encoding::Hashed(bits), Value::Text(text)) => {
            put(bucket(text.as_bytes(), *bits), 1.0);
        }
        (Encoding::Text { bits, ngrams }, Value::Text(text)) => {
            words(text, *bits, *ngrams, xxh3_64, put);
        }
        (Encoding::Vector(_), Value::Vector(values)) => {
            values.iter().enumerate().for_each(|(i, v)| put(i, *v));
        }
        _ => {}
    }
}

/// The bucket of a word. A number without sign and leading zeros that is small enough is its own: ids that count from
/// 0 never collide.
#[inline]
fn bucket(bytes: &[u8], bits: u8) -> usize {
    if bytes.len() < 8 && !bytes.is_empty() && (bytes.len() == 1 || bytes[0] != b'0') {
        let digit = |n: usize, b: &u8| b.is_ascii_digit().then(|| 10 * n + usize::from(b - b'0'));
        if let Some(n) = bytes.iter().try_fold(0, digit)
            && n < 1 << bits
        {
            return n;
        }
    }
    (xxh3_64(bytes) >> (64 - bits)) as usize
}

/// Lower-cased runs of letters and digits, alone and in runs of up to `ngrams`, hashed; each distinct slot
/// once, with the weight 1/√(number of distinct slots): a text of any length has unit length.
fn words(
    text: &str,
    bits: u8,
    ngrams: u8,
    hash: impl Fn(&[u8]) -> u64,
    put: &mut dyn FnMut(usize, f64),
) {
    let hashes: Vec<u64> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
        .map(|w| {
            if w.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
                hash(w.as_bytes())
            } else {
                hash(w.to_lowercase().as_bytes())
            }
        })
        .collect();
    let mut slots = Vec::with_capacity(hashes.len() * usize::from(ngrams));
    for start in 0..hashes.len() {
        let mut run = 0;
        for hash in hashes.iter().skip(start).take(usize::from(ngrams)) {
            run = xxh3_64_with_seed(&hash.to_le_bytes(), run);
            slots.push((run >> (64 - bits)) as usize);
        }
    }
    slots.sort_unstable();
    slots.dedup();
    let weight = 1.0 / libm::sqrt(slots.len() as f64);
    slots.into_iter().for_each(|slot| put(slot, weight));
}
