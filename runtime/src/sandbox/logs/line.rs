//! One line, and how a guest's bytes become text that is safe to show: valid UTF-8, of bounded length, without anything that
//! a terminal would obey.

use crate::sandbox::messages::ComponentId;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use shoal_host::logging::Level;
use std::fmt::Write as _;
use std::sync::Arc;

/// Longest context of a line of `wasi:logging`.
const CONTEXT_BYTES_MAX: usize = 256;
/// Longest request id of a line.
const REQUEST_ID_BYTES_MAX: usize = 64;
/// Ends a text that was cut.
const CUT: char = '…';
/// The least a line takes, however short its text: itself, where it comes from, their counts of references, its place in the
/// queue and the heads of five pieces of heap.
const FIXED_BYTES: usize = size_of::<Line>() + size_of::<Origin>() + 32 + 16 + 5 * 16;
/// The most a line takes beside its text.
pub(crate) const BESIDE_TEXT_BYTES_MAX: usize =
    FIXED_BYTES + CONTEXT_BYTES_MAX + REQUEST_ID_BYTES_MAX + 2 * CUT.len_utf8();

/// One line of a function's log.
///
/// As JSON: `{"seq", "time_unix_ms", "request_id", "component", "source", "text"}`, with `source` `stdout`, `stderr` or
/// `log`; the last has `level` and `context` too. `component` is the first 12 hexadecimal digits of its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Counts the lines of the function, from 1. A reader that finds a number missing lost that line.
    pub seq: u64,
    /// When it ended, in milliseconds since 1970 began.
    pub unix_ms: u64,
    /// Which invocation wrote it.
    pub origin: Arc<Origin>,
    /// Where it was written to.
    pub source: Source,
    /// What was written: without control characters, and where it was too long with a `…` at its end.
    pub text: Box<str>,
}

/// What the lines of one invocation have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The `x-request-id` of the answer.
    pub request_id: Box<str>,
    /// Which component ran.
    pub component: ComponentId,
}

/// Where a guest can write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
    /// `wasi:logging`.
    Log {
        /// What kind of line.
        level: Level,
        /// What groups it with others; as the text, but at most 256 bytes.
        context: Box<str>,
    },
}

impl Origin {
    pub(super) fn new(request_id: &[u8], component: ComponentId) -> Self {
        Self {
            request_id: printable(request_id, REQUEST_ID_BYTES_MAX),
            component,
        }
    }
}

impl Source {
    pub(super) fn log(level: Level, context: &str) -> Self {
        let context = printable(context.as_bytes(), CONTEXT_BYTES_MAX);
        Source::Log { level, context }
    }
}

impl Line {
    /// What it takes of its function's limit: as if no other line shared its origin.
    pub(super) fn bytes(&self) -> usize {
        let context = match &self.source {
            Source::Stdout | Source::Stderr => 0,
            Source::Log { context, .. } => context.len(),
        };
        FIXED_BYTES + self.origin.request_id.len() + context + self.text.len()
    }
}

/// `raw` as one line of text: bytes that are not UTF-8 replaced, what [`is_hidden`] escaped. Of a text longer than
/// `bytes_max` so much is kept, and a `…` says so.
pub(super) fn printable(raw: &[u8], bytes_max: usize) -> Box<str> {
    // No byte makes less text than itself: one more than fits is enough to know that it does not.
    let raw = &raw[..raw.len().min(bytes_max.saturating_add(1))];
    // No early exit, so that it is done many bytes at a time: most lines are plain, and need no look at each character.
    let is_plain = raw.iter().fold(true, |plain, byte| {
        plain & matches!(byte, b' '..=b'~' | b'\t')
    });
    let mut text = match std::str::from_utf8(raw) {
        Ok(plain) if is_plain => plain.to_owned(),
        _ => escaped(raw),
    };
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push(CUT);
    }
    text.into_boxed_str()
}

fn escaped(raw: &[u8]) -> String {
    let mut text = String::with_capacity(raw.len());
    for part in raw.utf8_chunks() {
        push_escaped(&mut text, part.valid());
        if !part.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    text
}

fn push_escaped(text: &mut String, mut rest: &str) {
    while let Some(at) = rest.find(is_hidden) {
        let (shown, hidden) = rest.split_at(at);
        text.push_str(shown);
        let mut after = hidden.chars();
        text.extend(after.by_ref().take(1).flat_map(char::escape_default));
        rest = after.as_str();
    }
    text.push_str(rest);
}

/// What could do more than show: control characters, the separators that some programs take for a new line, and what turns
/// the direction of writing around. A tab may stay.
fn is_hidden(c: char) -> bool {
    (c.is_control() && c != '\t') || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("seq", &self.seq)?;
        map.serialize_entry("time_unix_ms", &self.unix_ms)?;
        map.serialize_entry("request_id", &self.origin.request_id)?;
        map.serialize_entry("component", &short(&self.origin.component))?;
        match &self.source {
            Source::Stdout => map.serialize_entry("source", "stdout")?,
            Source::Stderr => map.serialize_entry("source", "stderr")?,
            Source::Log { level, context } => {
                map.serialize_entry("source", "log")?;
                map.serialize_entry("level", level.name())?;
                map.serialize_entry("context", context)?;
            }
        }
        map.serialize_entry("text", &self.text)?;
        map.end()
    }
}

fn short(component: &ComponentId) -> String {
    component.0[..6]
        .iter()
        .fold(String::with_capacity(12), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        for (raw, text) in [
            ("plain, grün, 海, 🐟", "plain, grün, 海, 🐟"),
            ("a\tb", "a\tb"),
            ("\u{1b}[31mred\u{1b}[0m", "\\u{1b}[31mred\\u{1b}[0m"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("over\rwritten", "over\\rwritten"),
            ("two\nlines", "two\\nlines"),
            ("nul\0del\u{7f}", "nul\\u{0}del\\u{7f}"),
            ("\u{202e}txt.exe\u{2069}", "\\u{202e}txt.exe\\u{2069}"),
            ("a\u{2028}b\u{2029}c", "a\\u{2028}b\\u{2029}c"),
            ("", ""),
        ] {
            assert_eq!(&*printable(raw.as_bytes(), 100), text);
        }
        assert_eq!(&*printable(b"a\xffb\xe2\x82c\xf0\x9f", 100), "a�b�c�");
    }

    #[test]
    fn a_text_may_have_as_many_bytes_as_the_limit() {
        for (raw, text) in [
            (&b"12345678"[..], "12345678"),
            (b"123456789", "12345678…"),
            (&[b'x'; 1_000], "xxxxxxxx…"),
            // Two, three and four bytes that do not fit whole are left out whole.
            ("1234567é".as_bytes(), "1234567…"),
            ("123456é".as_bytes(), "123456é"),
            ("123456海".as_bytes(), "123456…"),
            ("12345🐟".as_bytes(), "12345…"),
            ("1234🐟".as_bytes(), "1234🐟"),
            // What counts is the text, not the bytes it came from.
            (b"1\x1b2", "1\\u{1b}2"),
            (b"12\x1b3", "12\\u{1b}…"),
            (&[0xff; 3], "��…"),
        ] {
            assert_eq!(&*printable(raw, 8), text);
        }
        assert_eq!(&*printable(b"", 0), "");
        assert_eq!(&*printable(b"a", 0), "…");
        assert_eq!(&*printable(b"a", usize::MAX), "a");
    }

    proptest! {
        #[test]
        fn any_bytes_become_one_line_within_the_limit(
            raw in proptest::collection::vec(any::<u8>(), 0..200),
            bytes_max in 0_usize..250,
        ) {
            let text = printable(&raw, bytes_max);
            prop_assert!(!text.contains(is_hidden));
            prop_assert!(text.len() <= bytes_max + CUT.len_utf8());
            // Cutting takes away from the end, and nothing else.
            let whole = printable(&raw, usize::MAX);
            if whole.len() <= bytes_max {
                prop_assert_eq!(text, whole);
            } else {
                let kept = text.strip_suffix(CUT).expect("a text that was cut says so");
                prop_assert!(whole.starts_with(kept));
                prop_assert!(kept.len() + 4 > bytes_max);
            }
        }
    }

    #[test]
    fn a_line_as_json_says_all_there_is_to_know() {
        let line = Line {
            seq: 7,
            unix_ms: 1_700_000_000_123,
            origin: Arc::new(Origin::new(b"req_1", ComponentId([0xab; 32]))),
            source: Source::Stderr,
            text: "words \"quoted\"".into(),
        };
        let json = |line: &Line| serde_json::to_string(line).unwrap();
        assert_eq!(
            json(&line),
            r#"{"seq":7,"time_unix_ms":1700000000123,"request_id":"req_1","component":"abababababab","source":"stderr","text":"words \"quoted\""}"#
        );
        let line = Line {
            source: Source::log(Level::Warn, "db"),
            ..line
        };
        assert_eq!(
            json(&line),
            r#"{"seq":7,"time_unix_ms":1700000000123,"request_id":"req_1","component":"abababababab","source":"log","level":"warn","context":"db","text":"words \"quoted\""}"#
        );
    }

    #[test]
    fn a_context_and_a_request_id_are_bounded_too() {
        let long = "x".repeat(1_000);
        let origin = Origin::new(long.as_bytes(), ComponentId([0; 32]));
        assert_eq!(*origin.request_id, *format!("{}…", "x".repeat(64)));
        let line = Line {
            seq: 1,
            unix_ms: 0,
            origin: Arc::new(origin),
            source: Source::log(Level::Info, &long),
            text: "".into(),
        };
        assert_eq!(line.bytes(), BESIDE_TEXT_BYTES_MAX);
    }
}
