//! Passes a request on to another server, and its answer back, both as they come. Which servers is the business of whoever
//! deploys it: `shoal deploy samples/components/proxy.wasm --egress example.com`.
//!
//! `curl -i 'http://127.0.0.1:8080/f/acme/proxy/?url=https://example.com/'`

use std::io::Write;

use shoal_sdk::{Body, BodyWriter, Error, Fetch, FetchError, Request, Response};

shoal_sdk::http!(handle);

fn handle(request: Request) -> Result<Response, Error> {
    let url = request
        .query_value("url")
        .ok_or_else(|| Error::bad_field("url", "url: expected ?url=https://…"))?;
    let method = request.method();
    let mut fetch = Fetch::new(&*method, url);
    for name in ["accept", "content-type"] {
        if let Some(value) = request.header(name) {
            fetch = fetch.header(name, value);
        }
    }
    let answer = match &*method {
        "GET" | "HEAD" => fetch.send().map_err(Error::from),
        _ => fetch.send_streamed(|writer| copy(request.body(), writer)),
    };
    let answer = answer.map_err(|error| match error {
        // Here it is the client that chooses.
        Error::Fetch(FetchError::Denied { .. } | FetchError::Invalid { .. }) => {
            Error::bad_field("url", format!("url: {error}"))
        }
        error => error,
    })?;
    let content_type = answer
        .header("content-type")
        .unwrap_or_else(|| "application/octet-stream".to_owned());
    let body = answer.body();
    Ok(Response::stream(|writer| copy(body, writer))
        .status(answer.status())
        .header("content-type", content_type))
}

fn copy(mut from: Body, to: &mut BodyWriter) -> Result<(), Error> {
    while let Some(chunk) = from.chunk()? {
        to.write_all(&chunk)?;
    }
    Ok(())
}
