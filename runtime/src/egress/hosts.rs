//! Which hosts a function may reach, as its owner wrote them down. Pure.

use http::uri::Scheme;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Longest name of a host (RFC 1035, section 2.3.4).
const NAME_LEN_MAX: usize = 253;

/// A host, or all below a domain: `api.example.com`, `api.example.com:8443`, `*.example.com`, `10.0.0.7:8080`, `[fd00::7]`.
/// Without a port it is the scheme's own: 443 for `https`, 80 for `http`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostRule {
    /// In lower case; an IPv6 address in its brackets.
    host: String,
    /// Whether it is the hosts below that are meant.
    below: bool,
    port: Option<u16>,
}

/// A text that is no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} must be a host like api.example.com, api.example.com:8443, *.example.com or 10.0.0.7, without a scheme or a path"
)]
pub struct HostRuleError {
    text: String,
}

impl HostRule {
    /// Whether a request for `host` (without its port) is one that this rule allows.
    pub(super) fn allows(&self, scheme: &Scheme, host: &str, port: u16) -> bool {
        let usual = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        if port != self.port.unwrap_or(usual) {
            return false;
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        if !self.below {
            let same = || v6(host).is_some_and(|v6| format!("[{v6}]") == self.host);
            return host.eq_ignore_ascii_case(&self.host) || same();
        }
        // A name, a dot, and the domain.
        let Some(name_len) = host.len().checked_sub(self.host.len() + 1) else {
            return false;
        };
        let Some((name, domain)) = host.split_at_checked(name_len) else {
            return false;
        };
        !name.is_empty()
            && domain
                .strip_prefix('.')
                .is_some_and(|domain| domain.eq_ignore_ascii_case(&self.host))
    }
}

impl FromStr for HostRule {
    type Err = HostRuleError;

    fn from_str(text: &str) -> Result<Self, HostRuleError> {
        parse(text).ok_or_else(|| HostRuleError {
            text: text.to_owned(),
        })
    }
}

fn parse(text: &str) -> Option<HostRule> {
    let (below, rest) = match text.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    // The colons of an IPv6 address are in its brackets.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(parse_port(port)?)),
        _ => (rest, None),
    };
    let host = match v6(host) {
        Some(v6) => format!("[{v6}]"),
        None => host.to_ascii_lowercase(),
    };
    let fits = is_name(&host) || (is_address(&host) && !below);
    fits.then_some(HostRule { host, below, port })
}

/// Digits alone: no sign.
fn parse_port(text: &str) -> Option<u16> {
    let port = text.bytes().all(|byte| byte.is_ascii_digit());
    port.then(|| text.parse().ok())
        .flatten()
        .filter(|port| *port > 0)
}

fn is_address(host: &str) -> bool {
    v6(host).is_some() || host.parse::<Ipv4Addr>().is_ok()
}

/// An address in its brackets.
fn v6(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// A name whose last label is not a number: that would be an address, in one of its odd forms.
fn is_name(host: &str) -> bool {
    let is_label = |label: &str| {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(fine)
    };
    let is_number = |label: &str| match label.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    };
    host.len() <= NAME_LEN_MAX
        && host.split('.').all(is_label)
        && !host.rsplit('.').next().is_some_and(is_number)
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = if self.below { "*." } else { "" };
        write!(f, "{below}{}", self.host)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for HostRule {
    type Error = HostRuleError;

    fn try_from(text: String) -> Result<Self, HostRuleError> {
        text.parse()
    }
}

impl From<HostRule> for String {
    fn from(rule: HostRule) -> Self {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_a_host_and_nothing_more() {
        for text in [
            "api.example.com",
            "api.example.com:8443",
            "*.example.com",
            "*.example.com:80",
            "localhost",
            "under_score.example",
            "10.0.0.7",
            "10.0.0.7:1",
            "[fd00::7]",
            "[fd00::7]:65535",
            "a.1b",
        ] {
            let rule: HostRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
        }
        let rule: HostRule = "API.Example.COM".parse().unwrap();
        assert_eq!(rule.to_string(), "api.example.com");
        let long = format!("{}.com", "a".repeat(64));
        let longer = format!("{}com", "abcdefg.".repeat(40));
        for text in [
            "",
            "*",
            "*.",
            "*.*.com",
            "a.*.com",
            "https://example.com",
            "example.com/",
            "example.com/path",
            "user@example.com",
            "example..com",
            ".example.com",
            "example.com.",
            "example.com:",
            "example.com:0",
            "example.com:+80",
            "example.com:65536",
            "exa mple.com",
            "bücher.example",
            "*.10.0.0.7",
            "*.[fd00::7]",
            "fd00::7",
            "[fd00::7",
            "[fd00::7]x",
            "[10.0.0.7]",
            "2130706433",
            "0x7f000001",
            "127.1",
            "10.0.0.0x7",
            &long,
            &longer,
        ] {
            let refused = text.parse::<HostRule>().unwrap_err();
            assert!(refused.to_string().contains("api.example.com"), "{text}");
        }
    }

    #[test]
    fn a_rule_allows_its_host_on_its_port() {
        let (http, https) = (&Scheme::HTTP, &Scheme::HTTPS);
        for (rule, scheme, host, port, allowed) in [
            ("example.com", https, "example.com", 443, true),
            ("example.com", https, "EXAMPLE.com.", 443, true),
            ("example.com", http, "example.com", 80, true),
            ("example.com", http, "example.com", 443, false),
            ("example.com", https, "example.com", 8443, false),
            ("example.com", https, "www.example.com", 443, false),
            ("example.com", https, "example.com.evil.org", 443, false),
            ("example.com", https, "notexample.com", 443, false),
            ("example.com:8443", https, "example.com", 8443, true),
            ("example.com:8443", http, "example.com", 8443, true),
            ("example.com:8443", https, "example.com", 443, false),
            ("*.example.com", https, "a.example.com", 443, true),
            ("*.example.com", https, "A.b.example.com", 443, true),
            ("*.example.com", https, "example.com", 443, false),
            ("*.example.com", https, ".example.com", 443, false),
            ("*.example.com", https, "aexample.com", 443, false),
            ("*.example.com", https, "é.com", 443, false),
            ("10.0.0.7:80", http, "10.0.0.7", 80, true),
            ("[fd00::7]", https, "[fd00::7]", 443, true),
            ("[fd00:0::7]", https, "[FD00::0:7]", 443, true),
            ("[fd00::7]", https, "[fd00::8]", 443, false),
        ] {
            let parsed: HostRule = rule.parse().unwrap();
            let found = parsed.allows(scheme, host, port);
            assert_eq!(found, allowed, "{rule}: {host}:{port}");
        }
    }
}
