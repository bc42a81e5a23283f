//! Streams the request's body back, each chunk as it comes: a body of any size passes through 64 KiB of memory.
//!
//! `curl -i -H 'content-type: text/plain' --data 'same again' http://127.0.0.1:8080/f/acme/echo/any/path`

use std::io::Write;

use shoal_sdk::{Error, Request, Response};

shoal_sdk::http!(handle);

fn handle(request: Request) -> Result<Response, Error> {
    let mut body = request.body();
    let response = Response::stream(move |writer| {
        while let Some(chunk) = body.chunk()? {
            writer.write_all(&chunk)?;
        }
        Ok(())
    });
    let content_type = request
        .header("content-type")
        .unwrap_or_else(|| "application/octet-stream".to_owned());
    Ok(response
        .header("content-type", content_type)
        .header("x-echo-method", request.method())
        .header("x-echo-path", request.path_with_query()))
}
