//! The request a function answers.
//!
//! Nothing is fetched from the host before it is asked for: a function that ignores the headers does not pay for them.

use serde::de::DeserializeOwned;

use crate::bindings::wasi::http::types::{IncomingRequest, Method};
use crate::body::read_whole;
use crate::{Body, Error};

/// One HTTP request.
pub struct Request {
    raw: IncomingRequest,
}

impl Request {
    /// For [`http!`](crate::http), and functions that export the handler themselves.
    #[doc(hidden)]
    pub fn new(raw: IncomingRequest) -> Self {
        Self { raw }
    }

    /// The method, as in `GET`.
    pub fn method(&self) -> String {
        method_name(self.raw.method())
    }

    /// Path and query as this function sees them, where it is mounted left out: `/notes/7?full`.
    pub fn path_with_query(&self) -> String {
        self.raw.path_with_query().unwrap_or_default()
    }

    /// The path alone, percent-encoded as it came: `/notes/7`.
    pub fn path(&self) -> String {
        let target = self.path_with_query();
        target
            .split_once('?')
            .map(|(path, _)| path.to_owned())
            .unwrap_or(target)
    }

    /// What follows the `?`, percent-encoded as it came.
    pub fn query(&self) -> Option<String> {
        let target = self.path_with_query();
        target.split_once('?').map(|(_, query)| query.to_owned())
    }

    /// The decoded value of the query's first `name=value`; empty for a `name` without `=`.
    pub fn query_value(&self, name: &str) -> Option<String> {
        query_value(&self.query()?, name)
    }

    /// The first header of that name, in any case; `None` also where its value is not UTF-8.
    pub fn header(&self, name: &str) -> Option<String> {
        let value = self.raw.headers().get(name).into_iter().next()?;
        String::from_utf8(value).ok()
    }

    /// Every header line, names in lower case.
    pub fn headers(&self) -> Vec<(String, Vec<u8>)> {
        self.raw.headers().entries()
    }

    /// The body as a stream. It can be had once: a second call answers an empty body.
    pub fn body(&self) -> Body {
        Body::new(self.raw.consume().ok())
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`Error::BodyTooLarge`] as soon as more than `limit_bytes` came, [`Error::BodyIncomplete`] where it broke off.
    pub fn body_bytes(&self, limit_bytes: usize) -> Result<Vec<u8>, Error> {
        let mut body = self.body();
        read_whole(limit_bytes, || body.chunk())
    }

    /// The whole body, read as JSON.
    ///
    /// # Errors
    /// As [`Request::body_bytes`]; [`Error::BadInput`] saying what is wrong where the JSON does not fit `T`.
    pub fn json<T: DeserializeOwned>(&self, limit_bytes: usize) -> Result<T, Error> {
        let bytes = self.body_bytes(limit_bytes)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::bad_input(format!("body is not the JSON expected: {error}")))
    }
}

fn method_name(method: Method) -> String {
    let name = match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(name) => return name,
    };
    name.to_owned()
}

fn query_value(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(value))
    })
}

/// Undoes the encoding of HTML forms: `+` is a space, `%2F` a byte; what is not UTF-8 is replaced, a lone `%` stays.
fn decode(encoded: &str) -> String {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => match hex_byte(rest) {
                Some(decoded) => {
                    bytes.push(decoded);
                    rest = &rest[2..];
                }
                None => bytes.push(b'%'),
            },
            plain => bytes.push(plain),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_value_is_found_and_decoded() {
        let cases = [
            ("a=1&b=2", "b", Some("2")),
            ("a=1&a=2", "a", Some("1")),
            ("a%20b=c+d%2Fe", "a b", Some("c d/e")),
            ("flag&a=1", "flag", Some("")),
            ("a=100%&b=%zz", "a", Some("100%")),
            ("a=100%&b=%zz", "b", Some("%zz")),
            ("a=%e2%82%ac", "a", Some("€")),
            ("", "a", None),
            ("ab=1", "a", None),
        ];
        for (query, name, expected) in cases {
            assert_eq!(
                query_value(query, name).as_deref(),
                expected,
                "{name} in {query}"
            );
        }
    }

    #[test]
    fn unusual_methods_keep_their_name() {
        assert_eq!(method_name(Method::Patch), "PATCH");
        assert_eq!(method_name(Method::Other("PURGE".to_owned())), "PURGE");
    }
}
