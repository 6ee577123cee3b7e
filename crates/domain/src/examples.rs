//! Labelled examples as the log stores them: many in one record, typed, without the names of their features in
//! each.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    id::ModelName,
    value::{Bytes, Stored, Value, put_length},
};

/// A batch of labelled examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Examples {
    /// Whom they teach.
    pub model: ModelName,
    /// Wall time of arrival.
    pub received_ms: u64,
    /// The name of the key that authorised the request.
    pub principal: Option<Arc<str>>,
    /// A flat JSON object, of all of them.
    pub metadata: Option<String>,
    /// The features of each row, in the order of its values.
    pub features: Vec<String>,
    /// The rows.
    pub rows: Rows,
}

/// What an example teaches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Label<'a> {
    /// A number.
    Number(f64),
    /// A class by name.
    Class(&'a str),
}

/// One example, its values aside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head<'a> {
    /// What it teaches.
    pub label: Label<'a>,
    /// Its importance: 1 is usual.
    pub weight: f64,
    /// When it was observed, where the caller said so.
    pub at_ms: Option<u64>,
    /// The caller's own id: the same one again within a window teaches nothing.
    pub id: Option<&'a str>,
}

/// Rows in their stored form.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    count: u32,
    ids: bool,
    bytes: Vec<u8>,
}

const CLASS: u8 = 1;
const WEIGHT: u8 = 2;
const AT: u8 = 4;
const ID: u8 = 8;

impl Rows {
    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether any has an id.
    #[must_use]
    pub const fn have_ids(&self) -> bool {
        self.ids
    }

    /// Empties it, and keeps its memory.
    pub fn clear(&mut self) {
        self.count = 0;
        self.ids = false;
        self.bytes.clear();
    }

    /// Overwrites the rows, whose count and length stay: labels, ids and values are gone.
    pub fn blank(&mut self) {
        self.bytes.fill(0);
    }

    /// Appends a row. `values` has one for each feature of the batch.
    pub fn push<'v>(&mut self, head: &Head<'_>, values: impl Iterator<Item = &'v Value<'v>>) {
        self.push_head(head);
        values.for_each(|v| v.put(&mut self.bytes));
    }

    /// Appends a row whose values are in their stored form already.
    #[inline]
    pub fn push_stored(&mut self, head: &Head<'_>, values: &[u8]) {
        self.push_head(head);
        self.bytes.extend_from_slice(values);
    }

    fn push_head(&mut self, head: &Head<'_>) {
        let out = &mut self.bytes;
        let mut flags = 0;
        for (set, flag) in [
            (matches!(head.label, Label::Class(_)), CLASS),
            (head.weight.to_bits() != 1.0_f64.to_bits(), WEIGHT),
            (head.at_ms.is_some(), AT),
            (head.id.is_some(), ID),
        ] {
            flags |= if set { flag } else { 0 };
        }
        out.push(flags);
        match head.label {
            Label::Number(y) => out.extend_from_slice(&y.to_le_bytes()),
            Label::Class(name) => {
                put_length(name.len(), out);
                out.extend_from_slice(name.as_bytes());
            }
        }
        if flags & WEIGHT != 0 {
            out.extend_from_slice(&head.weight.to_le_bytes());
        }
        if let Some(at_ms) = head.at_ms {
            out.extend_from_slice(&at_ms.to_le_bytes());
        }
        if let Some(id) = head.id {
            put_length(id.len(), out);
            out.extend_from_slice(id.as_bytes());
        }
        self.ids |= head.id.is_some();
        self.count += 1;
    }

    /// Reads the rows in order.
    #[must_use]
    pub const fn reader(&self) -> RowReader<'_> {
        RowReader { left: self.count, bytes: Bytes(self.bytes.as_slice()) }
    }
}

/// Reads rows in order. What is not a row ends it.
#[derive(Clone, Debug)]
pub struct RowReader<'a> {
    left: u32,
    bytes: Bytes<'a>,
}

impl<'a> RowReader<'a> {
    /// The next row; [`RowReader::value`] then gives its values, one for each feature of the batch.
    #[inline]
    pub fn head(&mut self) -> Option<Head<'a>> {
        self.left = self.left.checked_sub(1)?;
        let bytes = &mut self.bytes;
        let flags = bytes.byte()?;
        let label = if flags & CLASS != 0 {
            Label::Class(bytes.text()?)
        } else {
            Label::Number(bytes.number()?)
        };
        let weight = if flags & WEIGHT != 0 { bytes.number()? } else { 1.0 };
        let at_ms = if flags & AT != 0 { Some(bytes.whole()?) } else { None };
        let id = if flags & ID != 0 { Some(bytes.text()?) } else { None };
        Some(Head { label, weight, at_ms, id })
    }

    /// The next value of the row.
    #[inline]
    pub fn value(&mut self) -> Option<Value<'a>> {
        Value::read(&mut self.bytes)
    }

    /// The next value of the row, with the frequent kinds apart.
    #[inline]
    pub fn stored(&mut self) -> Option<Stored<'a>> {
        Stored::read(&mut self.bytes)
    }

    /// The next row with its values; `values` says how many there are.
    pub fn next_row(&mut self, values: &mut [Value<'a>]) -> Option<Head<'a>> {
        let head = self.head()?;
        for value in values {
            *value = self.value()?;
        }
        Some(head)
    }
}

struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

struct Owned(Vec<u8>);

impl<'de> Deserialize<'de> for Owned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Owned;
            fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, v: &[u8]) -> Result<Owned, E> {
                Ok(Owned(v.to_vec()))
            }
            fn visit_byte_buf<E>(self, v: Vec<u8>) -> Result<Owned, E> {
                Ok(Owned(v))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

impl Serialize for Rows {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.count, self.ids, Raw(&self.bytes)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (count, ids, Owned(bytes)) = Deserialize::deserialize(deserializer)?;
        Ok(Self { count, ids, bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_value() -> impl Strategy<Value = Value<'static>> {
        prop_oneof![
            Just(Value::Missing),
            Just(Value::Unknown),
            any::<f64>().prop_filter("a number", |x| x.is_finite()).prop_map(Value::Number),
            any::<bool>().prop_map(Value::Boolean),
            ".{0,20}".prop_map(|t| Value::Text(t.into())),
            prop::collection::vec(-1e9..1e9_f64, 0..5).prop_map(Value::Vector),
            (any::<u64>(), prop::collection::vec((any::<u32>(), -1e9..1e9_f64), 0..5))
                .prop_map(|(h, s)| Value::Slots(h, s)),
        ]
    }

    /// One row, owned: number or class, weight, time, id, values.
    #[derive(Clone, Debug)]
    struct Row {
        number: Option<f64>,
        class: String,
        weight: f64,
        at_ms: Option<u64>,
        id: Option<String>,
        values: Vec<Value<'static>>,
    }

    impl Row {
        fn head(&self) -> Head<'_> {
            let label = self.number.map_or(Label::Class(&self.class), Label::Number);
            Head { label, weight: self.weight, at_ms: self.at_ms, id: self.id.as_deref() }
        }
    }

    prop_compose! {
        fn any_row()(
            number in prop::option::of(-1e9..1e9_f64), class in ".{1,8}",
            weight in prop_oneof![Just(1.0), 0.0..9.0_f64], at_ms in prop::option::of(any::<u64>()),
            id in prop::option::of(".{1,8}"), values in prop::collection::vec(any_value(), 3),
        ) -> Row {
            Row { number, class, weight, at_ms, id, values }
        }
    }

    proptest! {
        #[test]
        fn rows_read_back_as_they_were(rows in prop::collection::vec(any_row(), 0..8)) {
            let mut stored = Rows::default();
            rows.iter().for_each(|row| stored.push(&row.head(), row.values.iter()));
            let bytes = postcard::to_stdvec(&stored).unwrap();
            let read: Rows = postcard::from_bytes(&bytes).unwrap();
            prop_assert_eq!(&read, &stored);
            let mut reader = read.reader();
            let mut values = vec![Value::Missing; 3];
            for row in &rows {
                prop_assert_eq!(reader.next_row(&mut values), Some(row.head()));
                prop_assert_eq!(&values, &row.values);
            }
            prop_assert!(reader.next_row(&mut values).is_none());
        }

        #[test]
        fn reading_any_bytes_ends(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let rows = Rows { count: 50, ids: false, bytes };
            let mut reader = rows.reader();
            let mut values = vec![Value::Missing; 3];
            while reader.next_row(&mut values).is_some() {}
        }
    }
}
