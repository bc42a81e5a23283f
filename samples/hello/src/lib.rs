//! The smallest function: one text for every request.
//!
//! `curl http://127.0.0.1:8080/f/acme/hello/`

use shoal_sdk::{Error, Request, Response};

shoal_sdk::http!(handle);

fn handle(_request: Request) -> Result<Response, Error> {
    Ok(Response::text("Hello from Shoal\n"))
}
