//! CSV, read in blocks. Lines without quotes are split where they lie; from the first quote on, the general reader
//! takes over.

use std::{borrow::Cow, io::Read};

use anyhow::{Context as _, Result, bail};
use pawl_domain::{
    CheckedSpec, Value,
    examples::Head,
    spec::{Encoding, FeatureType, LogMode},
    value::{put_missing, put_number, put_text},
};
use pawl_model::{HashKey, context::Context};

use super::source::{Pipe, named};

/// Bytes of a block.
const BLOCK: usize = 1 << 18;
/// Longest line.
const LINE_MAX: usize = 64 << 20;

/// What a column is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Skipped,
    Label,
    Weight,
    Number(usize),
    Word(usize),
    Feature(usize),
}

/// What the columns are.
pub struct Columns {
    roles: Vec<Role>,
    features: usize,
    /// Whether every feature is stored as it is, and the columns have the order of the spec's features.
    plain: bool,
}

impl Columns {
    /// Finds the label, the weight and every feature by name.
    pub fn find(
        spec: &CheckedSpec,
        header: &[&str],
        target: &str,
        weight: Option<&str>,
    ) -> Result<Self> {
        let find = |name: &str, what: &str| {
            let known = header.iter().copied();
            header.iter().position(|h| *h == name).with_context(|| {
                let near = pawl_domain::suggest::nearest(name, known);
                let hint = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
                format!("there is no column `{name}` for the {what}{hint}")
            })
        };
        let mut roles = vec![Role::Skipped; header.len()];
        for (i, feature) in spec.features().iter().enumerate() {
            roles[find(&feature.name, "feature of that name")?] = match feature.encoding.kind() {
                FeatureType::Number => Role::Number(i),
                FeatureType::Category | FeatureType::Text => Role::Word(i),
                _ => Role::Feature(i),
            };
        }
        let columns = [
            (Some(target), "label (`--target`)", Role::Label),
            (weight, "weight (`--weight`)", Role::Weight),
        ];
        for (name, what, role) in columns {
            let Some(name) = name else { continue };
            let at = find(name, what)?;
            if roles[at] != Role::Skipped {
                bail!("column `{name}` is the {what} and something else too");
            }
            roles[at] = role;
        }
        let feature = |r: &Role| match r {
            Role::Number(i) | Role::Word(i) | Role::Feature(i) => Some(*i),
            _ => None,
        };
        let plain = spec.features().iter().all(|f| f.log == LogMode::Raw)
            && roles.iter().filter_map(feature).is_sorted();
        Ok(Self { roles, features: spec.features().len(), plain })
    }
}

/// Makes examples of rows.
pub struct Maker<'a, 'p> {
    pub spec: &'a CheckedSpec,
    pub key: &'a HashKey,
    pub pipe: &'a mut Pipe<'p>,
}

/// One row as it is read.
struct Row<'a> {
    label: &'a str,
    weight: f64,
    values: Vec<Value<'a>>,
    /// Their stored form, instead, where columns are plain.
    stored: Vec<u8>,
}

impl Maker<'_, '_> {
    /// Takes the cell of a column.
    #[inline]
    fn cell<'a>(&self, role: Role, cell: &'a str, plain: bool, row: &mut Row<'a>) -> Result<()> {
        match role {
            Role::Word(_) if plain && !cell.is_empty() => put_text(cell, &mut row.stored),
            Role::Word(_) if plain => put_missing(&mut row.stored),
            Role::Skipped => {}
            Role::Label => row.label = cell,
            Role::Weight => {
                let weight = number(cell).filter(|w| *w >= 0.0);
                row.weight =
                    weight.with_context(|| format!("`{cell}` is not a weight of 0 or more"))?;
            }
            Role::Number(i) | Role::Word(i) | Role::Feature(i) => {
                let feature = &self.spec.features()[i];
                let value = typed(&feature.encoding, cell).with_context(|| {
                    let kind = feature.encoding.kind().as_str();
                    format!("column `{}` holds `{cell}`, not a {kind}", feature.name)
                })?;
                if plain {
                    value.put(&mut row.stored);
                } else {
                    row.values[i] = value;
                }
            }
        }
        Ok(())
    }

    /// Takes a line without quotes. The number of its cells must be that of the columns.
    fn line<'a>(&self, columns: &Columns, line: &'a str, row: &mut Row<'a>) -> Result<()> {
        let bytes = line.as_bytes();
        let mut from = 0;
        for (i, role) in columns.roles.iter().enumerate() {
            if from > bytes.len() {
                bail!("there are {i} cells, in the first line {}", columns.roles.len());
            }
            // Most cells are short numbers: read and ended in one go.
            if let Role::Number(feature) = role
                && let Some((value, read)) = decimal(&bytes[from..])
                && matches!(bytes.get(from + read), None | Some(b','))
            {
                if columns.plain {
                    put_number(value, &mut row.stored);
                } else {
                    row.values[*feature] = Value::Number(value);
                }
                from += read + 1;
                continue;
            }
            let rest = &bytes[from..];
            let end = from + rest.iter().position(|b| *b == b',').unwrap_or(rest.len());
            self.cell(*role, &line[from..end], columns.plain, row)?;
            from = end + 1;
        }
        if from <= bytes.len() {
            let cells = bytes.iter().filter(|b| **b == b',').count() + 1;
            bail!("there are {cells} cells, in the first line {}", columns.roles.len());
        }
        Ok(())
    }

    /// Makes the row an example. False if nobody takes it any more.
    fn push(&mut self, columns: &Columns, row: &mut Row<'_>) -> Result<bool> {
        if row.label.is_empty() {
            row.stored.clear();
            self.pipe.unlabelled();
            return Ok(true);
        }
        let label = named(self.spec, row.label)?;
        let head = Head { label, weight: row.weight, at_ms: None, id: None };
        if columns.plain {
            self.pipe.rows()?.push_stored(&head, &row.stored);
            row.stored.clear();
        } else {
            let context = Context::of(core::mem::take(&mut row.values));
            let context = context.hashed(self.spec, self.key);
            let stored: Vec<_> = context.stored(self.spec).collect();
            self.pipe.rows()?.push(&head, stored.iter().map(|v| &**v));
            drop(stored);
            row.values = vec![Value::Missing; columns.features];
        }
        self.pipe.pass()
    }
}

impl Columns {
    fn row<'a>(&self) -> Row<'a> {
        Row {
            label: "",
            weight: 1.0,
            values: vec![Value::Missing; self.features],
            stored: Vec::new(),
        }
    }
}

/// A cell as its feature declares it; an empty one is missing.
fn typed<'a>(encoding: &Encoding, cell: &'a str) -> Option<Value<'a>> {
    if cell.is_empty() {
        return Some(Value::Missing);
    }
    Some(match encoding.kind() {
        FeatureType::Number => Value::Number(number(cell.trim())?),
        FeatureType::Category | FeatureType::Text => Value::Text(Cow::Borrowed(cell)),
        FeatureType::Boolean => match cell.trim() {
            "true" | "True" | "TRUE" | "1" => Value::Boolean(true),
            "false" | "False" | "FALSE" | "0" => Value::Boolean(false),
            _ => return None,
        },
        FeatureType::Vector => {
            let vector: Vec<f64> = serde_json::from_str(cell).ok()?;
            if vector.len() == encoding.slots() { Value::Vector(vector) } else { Value::Unknown }
        }
    })
}

/// 10⁰ to 10²², each exact.
const TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// The number that bytes begin with, and its length: up to 15 digits with up to 22 after the point, one exact division
/// (Clinger 1990). `None` where it is none of these.
#[inline]
fn decimal(bytes: &[u8]) -> Option<(f64, usize)> {
    let negative = bytes.first() == Some(&b'-');
    let start = usize::from(negative);
    if let Some(eight) = bytes.get(start..start + 8)
        && let Some((whole, after, read)) = short(eight)
    {
        let value = f64::from(whole) / TENS[after];
        return Some((if negative { -value } else { value }, start + read));
    }
    let (mut whole, mut digits, mut after, mut at) = (0_u64, 0_usize, 0_usize, start);
    let mut point = false;
    while let Some(&byte) = bytes.get(at) {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            whole = whole.wrapping_mul(10).wrapping_add(u64::from(digit));
            digits += 1;
            after += usize::from(point);
        } else if byte == b'.' && !point {
            point = true;
        } else {
            break;
        }
        at += 1;
    }
    if digits == 0 || digits > 15 {
        return None;
    }
    let value = whole as f64 / TENS[after];
    Some((if negative { -value } else { value }, at))
}

/// The number that eight bytes begin with, where it ends within: its digits, how many stand after the point, and its
/// length. All eight bytes are looked at together, one in each byte of a word.
#[inline]
fn short(eight: &[u8]) -> Option<(u32, usize, usize)> {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let digits = u64::from_le_bytes(eight.try_into().ok()?) ^ (EACH * 0x30);
    // The high bit of every byte that is not 0 to 9.
    let others = (((digits & (EACH * 0x7f)) + EACH * 0x76) | digits) & (EACH * 0x80);
    if others == 0 {
        return None;
    }
    let first = others.trailing_zeros() as usize / 8;
    let (digits, count, after, read) = if eight[first] == b'.' {
        let next = others & (others - 1);
        if next == 0 {
            return None;
        }
        let end = next.trailing_zeros() as usize / 8;
        let low = (1_u64 << (8 * first)) - 1;
        ((digits & low) | ((digits >> 8) & !low), end - 1, end - 1 - first, end)
    } else {
        (digits, first, 0, first)
    };
    if count == 0 {
        return None;
    }
    // Zeros in front, then pairs, then fours, then all: three multiplications.
    let digits = digits << (8 * (8 - count));
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let high = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    Some(((low.wrapping_add(high) >> 32) as u32, after, read))
}

/// A plausible number.
fn number(text: &str) -> Option<f64> {
    match decimal(text.as_bytes()) {
        Some((value, read)) if read == text.len() => Some(value),
        _ => general(text),
    }
}

#[cold]
fn general(text: &str) -> Option<f64> {
    text.parse().ok().filter(|x: &f64| x.abs() <= 1e15)
}

/// Reads a table and makes an example of every row. The first line names the columns.
pub fn read(
    mut reader: impl Read,
    columns: impl Fn(&[&str]) -> Result<Columns>,
    maker: &mut Maker<'_, '_>,
) -> Result<()> {
    let mut block = Vec::with_capacity(2 * BLOCK);
    let mut found: Option<Columns> = None;
    let mut number = 0;
    loop {
        let kept = block.len();
        let n = (&mut reader).take(BLOCK as u64).read_to_end(&mut block)?;
        if memchr::memchr(b'"', &block[kept..]).is_some() {
            return quoted(block.as_slice().chain(reader), found, number, &columns, maker);
        }
        let whole = match memchr::memrchr(b'\n', &block) {
            _ if n == 0 => block.len(),
            Some(last) => last + 1,
            None if block.len() > LINE_MAX => bail!("line {} has no end", number + 1),
            None => continue,
        };
        let text = core::str::from_utf8(&block[..whole]).context("the file is not UTF-8")?;
        // A mark of the byte order, as spreadsheets write it.
        let text = if number == 0 { text.trim_start_matches('\u{feff}') } else { text };
        let mut row = found.as_ref().map(Columns::row);
        for line in lines(text) {
            number += 1;
            if line.is_empty() {
                continue;
            }
            let Some(columns) = &found else {
                let found = found.insert(columns(&line.split(',').collect::<Vec<_>>())?);
                row = Some(found.row());
                continue;
            };
            let Some(row) = &mut row else { continue };
            let place = || format!("in line {number}");
            maker.line(columns, line, row).with_context(place)?;
            if !maker.push(columns, row).with_context(place)? {
                return Ok(());
            }
        }
        if n == 0 {
            break;
        }
        block.drain(..whole);
    }
    if found.is_none() {
        bail!("the file is empty; the first line names the columns");
    }
    Ok(())
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(line.strip_suffix('\r').unwrap_or(line))
    })
}

/// A reader that fails where one row takes more than it may.
struct Bounded<R> {
    inner: R,
    left: usize,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            return Err(std::io::Error::other(format!(
                "a row has more than {LINE_MAX} bytes: is a quote not closed?"
            )));
        }
        let most = buffer.len().min(self.left);
        let n = self.inner.read(&mut buffer[..most])?;
        self.left -= n;
        Ok(n)
    }
}

fn quoted(
    reader: impl Read,
    mut found: Option<Columns>,
    before: usize,
    columns: &impl Fn(&[&str]) -> Result<Columns>,
    maker: &mut Maker<'_, '_>,
) -> Result<()> {
    let bounded = Bounded { inner: reader, left: LINE_MAX };
    let mut csv = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bounded);
    let mut record = csv::StringRecord::new();
    let mut number = before;
    loop {
        let place = || format!("in row {}", number + 1);
        if !csv.read_record(&mut record).with_context(place)? {
            break;
        }
        csv.get_mut().left = LINE_MAX;
        number += 1;
        let Some(columns) = &found else {
            found = Some(columns(&record.iter().collect::<Vec<_>>())?);
            continue;
        };
        let place = || format!("in row {number}");
        if record.len() != columns.roles.len() {
            let (here, first) = (record.len(), columns.roles.len());
            bail!("in row {number}: there are {here} cells, in the first line {first}");
        }
        let mut row = columns.row();
        for (role, cell) in columns.roles.iter().zip(&record) {
            maker.cell(*role, cell, columns.plain, &mut row).with_context(place)?;
        }
        if !maker.push(columns, &mut row).with_context(place)? {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_standard_library() {
        let mut stream = pawl_stats::rng::Stream::new(3);
        for _ in 0..100_000 {
            let digits = 1 + stream.below(17) as usize;
            let mut text: String =
                (0..digits).map(|_| char::from(b'0' + stream.below(10) as u8)).collect();
            if stream.below(3) > 0 {
                text.insert(stream.below(digits as u64 + 1) as usize, '.');
            }
            if stream.below(2) > 0 {
                text.insert(0, '-');
            }
            let expected = text.parse::<f64>().ok().filter(|x| x.abs() <= 1e15);
            assert_eq!(number(&text).map(f64::to_bits), expected.map(f64::to_bits), "{text}");
            let line = format!("{text},12345678");
            if let Some((value, read)) = decimal(line.as_bytes()) {
                assert_eq!((Some(value), read), (expected, text.len()), "{text}");
            }
        }
        for (text, expected) in
            [("1e3", Some(1000.0)), ("", None), ("-", None), (".", None), ("1.2.3", None)]
        {
            assert_eq!(number(text), expected, "{text}");
        }
    }

    const SPEC: &str = r#"
schema = 1
name = "t"
kind = "classifier"
[label]
classes = ["1", "3", "q"]
[features]
b = { type = "category" }
[learner]
algorithm = "sgd"
"#;

    /// Label and the one feature of every row.
    fn rows(text: &str) -> Result<Vec<(String, Value<'static>)>> {
        let spec = pawl_domain::ModelSpec::from_toml(SPEC).unwrap().check().unwrap();
        let found = super::super::source::tests::through(&spec, |pipe| {
            let columns = |header: &[&str]| Columns::find(&spec, header, "a", None);
            read(
                text.as_bytes(),
                columns,
                &mut Maker { spec: &spec, key: &HashKey::default(), pipe },
            )
        })?;
        Ok(found)
    }

    fn text(text: &str) -> Value<'static> {
        Value::Text(Cow::Owned(text.to_owned()))
    }

    #[test]
    fn quotes_crlf_and_a_missing_last_newline_are_read() {
        let owned = |rows: &[(&str, Value<'static>)]| -> Vec<(String, Value<'static>)> {
            rows.iter().map(|(l, v)| ((*l).to_owned(), v.clone())).collect()
        };
        let plain = rows("a,b\r\n1,2\r\n3,").unwrap();
        assert_eq!(plain, owned(&[("1", text("2")), ("3", Value::Missing)]));
        let quoted = rows("b,a\n\"x, \"\"y\"\"\nz\",1\n4,3\n").unwrap();
        assert_eq!(quoted, owned(&[("1", text("x, \"y\"\nz")), ("3", text("4"))]));
        let long: String = (0..100_000).map(|i| format!("1,{i}\n")).collect();
        assert_eq!(rows(&format!("a,b\n{long}")).unwrap().len(), 100_000);
        assert_eq!(rows(&format!("a,b\n{long}\"q\",r\n{long}")).unwrap().len(), 200_001);
        assert!(rows("").is_err());
        for (bad, expected) in [
            ("a,b\n1,2\n1\n", "in line 3: there are 1 cells, in the first line 2"),
            ("a,b\n1,2,3\n", "in line 2: there are 3 cells, in the first line 2"),
            ("a,b\n7,2\n", "in line 2: `7` is not a class of `t`; add it to `label.classes`"),
            ("x,b\n7,2\n", "there is no column `a` for the label (`--target`); did you mean `b`?"),
        ] {
            assert_eq!(format!("{:#}", rows(bad).unwrap_err()), expected);
        }
    }

    /// One quote that is not closed makes a cell of the rest of the file: it must not become as much memory.
    #[test]
    fn a_row_without_an_end_is_refused() {
        let endless = std::io::repeat(b'x').take(10 * LINE_MAX as u64);
        let mut reader = Bounded { inner: (&b"a,\""[..]).chain(endless), left: LINE_MAX };
        let mut read = Vec::new();
        let error = reader.read_to_end(&mut read).unwrap_err().to_string();
        assert!(error.contains("more than 67108864 bytes") && read.len() <= LINE_MAX, "{error}");
    }
}
