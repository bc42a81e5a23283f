//! The response a function gives, and how it leaves.

use std::io::Write;

use serde::Serialize;

use crate::bindings::wasi::http::types::{
    ErrorCode, Fields, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use crate::{BodyWriter, Error};

/// One HTTP response: built in one expression, sent when the handler returns it.
///
/// ```
/// # use shoal_sdk::Response;
/// let created = Response::new(201).header("location", "/notes/7").body("made\n");
/// ```
pub struct Response {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    payload: Payload,
}

enum Payload {
    Whole(Vec<u8>),
    Stream(Produce),
}

type Produce = Box<dyn FnOnce(&mut BodyWriter) -> Result<(), Error>>;

impl Response {
    /// An empty response with that status.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            payload: Payload::Whole(Vec::new()),
        }
    }

    /// 200 with a text in UTF-8.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(200)
            .header("content-type", "text/plain; charset=utf-8")
            .body(text.into())
    }

    /// 200 with `value` as JSON.
    ///
    /// # Errors
    /// [`Error::Internal`] where `value` has no JSON form: a map whose keys are not strings, say.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        let json = serde_json::to_vec(value)
            .map_err(|error| Error::Internal(format!("answer has no JSON form: {error}")))?;
        Ok(Self::new(200)
            .header("content-type", "application/json")
            .body(json))
    }

    /// 200 with a body that `produce` writes while it leaves: the head goes first, then each chunk as it is written.
    ///
    /// When `produce` fails, the client sees the body break off; the error goes to the function's log.
    ///
    /// ```
    /// # use shoal_sdk::Response;
    /// use std::io::Write;
    ///
    /// let countdown = Response::stream(|body| {
    ///     for second in (1..=3).rev() {
    ///         writeln!(body, "{second}")?;
    ///     }
    ///     Ok(())
    /// });
    /// ```
    pub fn stream(produce: impl FnOnce(&mut BodyWriter) -> Result<(), Error> + 'static) -> Self {
        Self {
            payload: Payload::Stream(Box::new(produce)),
            ..Self::new(200)
        }
    }

    /// Sets the status.
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Sets a header, in place of any of that name.
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers
            .retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.append_header(name, value)
    }

    /// Adds a header line beside others of that name, as `set-cookie` needs it.
    pub fn append_header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the whole body; its length is announced to the client.
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.payload = Payload::Whole(bytes.into());
        self
    }

    /// Sends head, then body. What fails here is logged: the client is past hearing of it.
    #[doc(hidden)]
    pub fn send(self, outparam: ResponseOutparam) {
        let head = match self.head() {
            Ok(head) => head,
            Err(reason) => {
                eprintln!("response refused: {reason}");
                return ResponseOutparam::set(
                    outparam,
                    Err(ErrorCode::InternalError(Some(reason))),
                );
            }
        };
        let body = head.body().expect("a new response has a body to give");
        ResponseOutparam::set(outparam, Ok(head));
        if let Err(error) = self.payload.send(body) {
            eprintln!("response broke off: {error}");
        }
    }

    fn head(&self) -> Result<OutgoingResponse, String> {
        let fields = Fields::from_list(&self.headers)
            .map_err(|error| format!("a header cannot be sent: {error}"))?;
        if let (Payload::Whole(bytes), true) = (&self.payload, may_have_length(self.status)) {
            // Without it the host would have to send chunks.
            let length = bytes.len().to_string().into_bytes();
            fields
                .set("content-length", &[length])
                .map_err(|error| format!("content-length cannot be sent: {error}"))?;
        }
        let head = OutgoingResponse::new(fields);
        head.set_status_code(self.status)
            .map_err(|()| format!("{} is no HTTP status", self.status))?;
        Ok(head)
    }
}

impl Payload {
    /// On an error the body is dropped unfinished: the client must not take a part for the whole.
    fn send(self, body: OutgoingBody) -> Result<(), Error> {
        // Dropped before the body is finished; no flush, since `finish` waits for what was written.
        let mut writer = BodyWriter::new(body.write().expect("a new body has a stream to give"));
        match self {
            Payload::Whole(bytes) => writer.write_all(&bytes)?,
            Payload::Stream(produce) => produce(&mut writer)?,
        }
        drop(writer);
        OutgoingBody::finish(body, None).map_err(|error| Error::Internal(error.to_string()))
    }
}

/// RFC 9110, section 8.6: neither 1xx nor 204 say a length, and that of a 304 would be another answer's.
fn may_have_length(status: u16) -> bool {
    !matches!(status, 100..=199 | 204 | 304)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_set_twice_keeps_the_second_value() {
        let response = Response::text("{}").header("Content-Type", "application/json");
        assert_eq!(
            response.headers,
            [("Content-Type".to_owned(), b"application/json".to_vec())]
        );
    }

    #[test]
    fn an_appended_header_stands_beside_the_first() {
        let response = Response::new(200)
            .append_header("set-cookie", "a=1")
            .append_header("set-cookie", "b=2");
        assert_eq!(response.headers.len(), 2);
    }

    #[test]
    fn a_map_with_keys_that_are_no_strings_has_no_json_form() {
        let map = std::collections::HashMap::from([((1, 2), 3)]);
        assert!(matches!(Response::json(&map), Err(Error::Internal(_))));
    }
}
