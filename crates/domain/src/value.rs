//! The value of one feature, as a context holds it and as the log stores it in an example.

use std::borrow::Cow;

/// The value of one feature.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value<'a> {
    /// Absent or null.
    #[default]
    Missing,
    /// Of another type than declared, or a vector of another length.
    Unknown,
    /// A number.
    Number(f64),
    /// True or false.
    Boolean(bool),
    /// A word or text.
    Text(Cow<'a, str>),
    /// A vector.
    Vector(Vec<f64>),
    /// Slots as the log keeps them: a hash of the encoding that made them, then index within the feature and value.
    Slots(u64, Vec<(u32, f64)>),
}

impl Value<'_> {
    /// As JSON; what is missing or unknown is null.
    #[must_use]
    pub fn to_json(&self) -> String {
        let json = match self {
            Self::Number(x) => serde_json::to_string(x),
            Self::Boolean(b) => serde_json::to_string(b),
            Self::Text(text) => serde_json::to_string(text),
            Self::Vector(all) => serde_json::to_string(all),
            Self::Missing | Self::Unknown | Self::Slots(..) => Ok("null".to_owned()),
        };
        json.unwrap_or_default()
    }
}

const MISSING: u8 = 0;
const UNKNOWN: u8 = 1;
const SINGLE: u8 = 2;
const DOUBLE: u8 = 3;
const FALSE: u8 = 4;
const TRUE: u8 = 5;
const TEXT: u8 = 6;
const VECTOR: u8 = 7;
const SLOTS: u8 = 8;

/// LEB128.
pub(crate) fn put_length(n: usize, out: &mut Vec<u8>) {
    let mut n = n as u64;
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Bytes that are read from the front. Every read is `None` where too few are left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    #[inline]
    pub(crate) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    #[inline]
    pub(crate) fn number(&mut self) -> Option<f64> {
        Some(f64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(crate) fn whole(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    #[inline]
    pub(crate) fn length(&mut self) -> Option<usize> {
        let mut n = 0_u64;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return usize::try_from(n).ok();
            }
        }
        None
    }

    #[inline]
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let n = self.length()?;
        core::str::from_utf8(self.take(n)?).ok()
    }
}

/// Appends the stored form of a number.
#[inline]
pub fn put_number(x: f64, out: &mut Vec<u8>) {
    let single = x as f32;
    if f64::from(single).to_bits() == x.to_bits() {
        let [a, b, c, d] = single.to_le_bytes();
        out.extend_from_slice(&[SINGLE, a, b, c, d]);
    } else {
        let [a, b, c, d, e, f, g, h] = x.to_le_bytes();
        out.extend_from_slice(&[DOUBLE, a, b, c, d, e, f, g, h]);
    }
}

/// Appends the stored form of a text.
#[inline]
pub fn put_text(text: &str, out: &mut Vec<u8>) {
    out.push(TEXT);
    put_length(text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

/// Appends the stored form of no value.
#[inline]
pub fn put_missing(out: &mut Vec<u8>) {
    out.push(MISSING);
}

/// A stored value, with the frequent kinds apart.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored<'a> {
    /// A number.
    Number(f64),
    /// The bytes of a text.
    Text(&'a [u8]),
    /// Any other.
    Other(Value<'a>),
}

impl<'a> Stored<'a> {
    /// Reads the stored form.
    #[inline]
    pub(crate) fn read(bytes: &mut Bytes<'a>) -> Option<Self> {
        Some(match *bytes.0.first()? {
            DOUBLE => {
                bytes.byte()?;
                Self::Number(bytes.number()?)
            }
            TEXT => {
                bytes.byte()?;
                let n = bytes.length()?;
                Self::Text(bytes.take(n)?)
            }
            _ => match Value::read(bytes)? {
                Value::Number(x) => Self::Number(x),
                other => Self::Other(other),
            },
        })
    }
}

impl<'a> Value<'a> {
    /// Appends the stored form.
    #[inline]
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Missing => out.push(MISSING),
            Self::Unknown => out.push(UNKNOWN),
            Self::Number(x) => put_number(*x, out),
            Self::Boolean(b) => out.push(if *b { TRUE } else { FALSE }),
            Self::Text(text) => put_text(text, out),
            Self::Vector(values) => {
                out.push(VECTOR);
                put_length(values.len(), out);
                values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
            }
            Self::Slots(made_by, slots) => {
                out.push(SLOTS);
                out.extend_from_slice(&made_by.to_le_bytes());
                put_length(slots.len(), out);
                for (slot, v) in slots {
                    put_length(*slot as usize, out);
                    out.extend_from_slice(&v.to_le_bytes());
                }
            }
        }
    }

    /// Reads the stored form.
    #[inline]
    pub(crate) fn read(bytes: &mut Bytes<'a>) -> Option<Self> {
        Some(match bytes.byte()? {
            MISSING => Self::Missing,
            UNKNOWN => Self::Unknown,
            SINGLE => Self::Number(f64::from(f32::from_le_bytes(bytes.take(4)?.try_into().ok()?))),
            DOUBLE => Self::Number(bytes.number()?),
            FALSE => Self::Boolean(false),
            TRUE => Self::Boolean(true),
            TEXT => Self::Text(Cow::Borrowed(bytes.text()?)),
            VECTOR => {
                let n = bytes.length()?;
                let numbers = bytes.take(n.checked_mul(8)?)?.as_chunks::<8>().0;
                Self::Vector(numbers.iter().map(|b| f64::from_le_bytes(*b)).collect())
            }
            SLOTS => {
                let made_by = bytes.whole()?;
                let n = bytes.length()?;
                let mut slots = Vec::with_capacity(n.min(bytes.0.len()));
                for _ in 0..n {
                    slots.push((u32::try_from(bytes.length()?).ok()?, bytes.number()?));
                }
                Self::Slots(made_by, slots)
            }
            _ => return None,
        })
    }
}
