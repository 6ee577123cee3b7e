//! Durations as a person writes them: `10ms`, `30s`, `5m`, `24h`, `7d`.

use core::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A span of time in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration {
    ms: u64,
}

/// Text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration: write a whole number and ms, s, m, h or d, such as `24h`")]
pub struct InvalidDuration(String);

const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];

impl Duration {
    /// A duration of so many milliseconds.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Self { ms }
    }

    /// In milliseconds.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.ms
    }
}

impl FromStr for Duration {
    type Err = InvalidDuration;
    fn from_str(value: &str) -> Result<Self, InvalidDuration> {
        let invalid = || InvalidDuration(value.chars().take(40).collect());
        let digits = value.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = value.split_at(digits);
        let scale = UNITS.iter().find(|(u, _)| *u == unit).ok_or_else(invalid)?.1;
        let number: u64 = number.parse().map_err(|_| invalid())?;
        number.checked_mul(scale).map(|ms| Self { ms }).ok_or_else(invalid)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = UNITS[1..]
            .iter()
            .find(|(_, scale)| self.ms != 0 && self.ms.is_multiple_of(*scale))
            .unwrap_or(&UNITS[0]);
        write!(f, "{}{unit}", self.ms / scale)
    }
}

impl TryFrom<String> for Duration {
    type Error = InvalidDuration;
    fn try_from(value: String) -> Result<Self, InvalidDuration> {
        value.parse()
    }
}

impl From<Duration> for String {
    fn from(d: Duration) -> Self {
        d.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        for (text, ms, shown) in [
            ("10ms", 10, "10ms"),
            ("90s", 90_000, "90s"),
            ("120s", 120_000, "2m"),
            ("24h", 86_400_000, "1d"),
            ("0s", 0, "0ms"),
        ] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!((duration.ms(), duration.to_string().as_str()), (ms, shown));
        }
        for bad in ["", "5", "h", "-1s", "1.5h", "1w", "99999999999999999999d", "5 m"] {
            assert!(bad.parse::<Duration>().is_err(), "{bad}");
        }
    }
}
