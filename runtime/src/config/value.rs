//! What a configuration value may be: how each type is read, shown and bounded.

use crate::egress::Networks;
use std::net::SocketAddr;
use std::ops::{RangeFull, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

/// A type of value.
pub(super) trait Setting: Sized {
    /// What a text must be, for whoever wrote another.
    const EXPECTED: &'static str;

    fn parse(text: &str) -> Option<Self>;

    /// As it stands in a file; [`Setting::parse`] reads it back.
    fn show(&self) -> String;
}

/// What values of a type are allowed.
pub(super) trait Allowed<T> {
    fn check(&self, value: &T) -> Result<(), Expected>;
}

/// What is allowed, for whoever gave another.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Between(String, String),
    Words(&'static str),
}

impl Expected {
    /// In words, for the key of this name.
    pub(super) fn of(self, key: &str) -> String {
        match self {
            Self::Between(min, max) => {
                format!("{} to {}", with_unit(key, min), with_unit(key, max))
            }
            Self::Words(words) => words.to_owned(),
        }
    }
}

/// A value of the key of this name as people write it: what counts bytes, and is many whole ones, in a larger unit.
pub(super) fn with_unit(key: &str, value: String) -> String {
    let Some(bytes) = value.parse::<u64>().ok().filter(|_| key.contains("bytes")) else {
        return value;
    };
    let whole = |shift: &u32| bytes > 0 && bytes.trailing_zeros() >= *shift;
    match UNITS.iter().find(|(_, shift)| whole(shift)) {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => value,
    }
}

impl<T: Setting> Allowed<T> for RangeFull {
    fn check(&self, _value: &T) -> Result<(), Expected> {
        Ok(())
    }
}

impl<T: Setting + PartialOrd> Allowed<T> for RangeInclusive<T> {
    fn check(&self, value: &T) -> Result<(), Expected> {
        if self.contains(value) {
            return Ok(());
        }
        Err(Expected::Between(self.start().show(), self.end().show()))
    }
}

/// A host name short enough for two more labels in front of it.
pub(super) struct HostName;

impl Allowed<String> for HostName {
    fn check(&self, name: &String) -> Result<(), Expected> {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if name.len() <= 125 && name.split('.').all(is_label) {
            return Ok(());
        }
        Err(Expected::Words("a host name of at most 125 characters"))
    }
}

const BYTES: &str = "a whole number, or bytes like 64KiB, 16MiB or 1GiB";
const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];

impl Setting for u64 {
    const EXPECTED: &'static str = BYTES;

    fn parse(text: &str) -> Option<Self> {
        for (unit, shift) in UNITS {
            if let Some(count) = text.strip_suffix(unit) {
                return count
                    .trim_end()
                    .parse::<u64>()
                    .ok()?
                    .checked_mul(1 << shift);
            }
        }
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for usize {
    const EXPECTED: &'static str = BYTES;

    fn parse(text: &str) -> Option<Self> {
        u64::parse(text)?.try_into().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for u32 {
    const EXPECTED: &'static str = BYTES;

    fn parse(text: &str) -> Option<Self> {
        u64::parse(text)?.try_into().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for Duration {
    const EXPECTED: &'static str = "a time with its unit, like 500ms, 10s or 2m";

    fn parse(text: &str) -> Option<Self> {
        let span: jiff::SignedDuration = text.parse().ok()?;
        span.try_into().ok()
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }
}

impl Setting for String {
    const EXPECTED: &'static str = "a text";

    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl Setting for Networks {
    const EXPECTED: &'static str = "networks like 10.1.0.0/16, separated by commas";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| PathBuf::from(text))
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

/// An empty text is none.
impl Setting for Option<PathBuf> {
    const EXPECTED: &'static str = PathBuf::EXPECTED;

    fn parse(text: &str) -> Option<Self> {
        Some(PathBuf::parse(text))
    }

    fn show(&self) -> String {
        self.as_ref().map_or(String::new(), PathBuf::show)
    }
}

impl Setting for SocketAddr {
    const EXPECTED: &'static str = "an address and a port, like 127.0.0.1:8080";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_with_and_without_a_unit() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1000", Some(1_000)),
            ("64KiB", Some(64 << 10)),
            ("16 MiB", Some(16 << 20)),
            ("2GiB", Some(2 << 30)),
            ("17179869183GiB", Some(17_179_869_183 << 30)),
            ("17179869184GiB", None),
            ("1.5MiB", None),
            ("64kb", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(u64::parse(text), bytes, "{text}");
        }
    }

    #[test]
    fn times_need_their_unit() {
        for (text, time) in [
            ("500ms", Some(Duration::from_millis(500))),
            ("10s", Some(Duration::from_secs(10))),
            ("2m", Some(Duration::from_secs(120))),
            ("1h 30m", Some(Duration::from_secs(5_400))),
            ("10", None),
            ("-1s", None),
            ("soon", None),
        ] {
            assert_eq!(Duration::parse(text), time, "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for bytes in [0_u64, 1, 1_000, 1 << 10, 3 << 20, 1 << 30, u64::MAX] {
            let shown = with_unit("x_bytes_max", bytes.show());
            assert_eq!(u64::parse(&shown), Some(bytes), "{shown}");
        }
        assert_eq!(with_unit("x_bytes_max", "3145728".to_owned()), "3MiB");
        assert_eq!(with_unit("x_max", "3145728".to_owned()), "3145728");
        for time in [0, 1, 999, 1_000, 90_000, 86_400_000].map(Duration::from_millis) {
            assert_eq!(Duration::parse(&time.show()), Some(time));
        }
    }
}
