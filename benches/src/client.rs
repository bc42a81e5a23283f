//! The load: HTTP/1.1 over real sockets, a connection for each request.

use crate::digits::Question;
use anyhow::Context as _;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks all questions at once, each on a connection of its own, of the paths in turn; how many answers were right.
pub(crate) async fn at_once(
    address: SocketAddr,
    paths: &[String],
    questions: Vec<Question>,
) -> anyhow::Result<usize> {
    let mut asked = JoinSet::new();
    for (question, path) in questions.into_iter().zip(paths.iter().cycle()) {
        let path = path.clone();
        asked.spawn(async move { ask(address, &path, &question).await });
    }
    let (mut right, mut first_wrong) = (0, None);
    while let Some(answer) = asked.join_next().await {
        match answer? {
            Ok(()) => right += 1,
            Err(wrong) => first_wrong = first_wrong.or(Some(wrong)),
        }
    }
    if let Some(wrong) = first_wrong {
        eprintln!("the first answer that was not right: {wrong:#}");
    }
    Ok(right)
}

/// Fails unless the answer is the right one.
async fn ask(address: SocketAddr, path: &str, question: &Question) -> anyhow::Result<()> {
    let request = Request::post(path)
        .header(HOST, address.to_string())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(question.body.clone()))?;
    let (status, body) = send(address, request).await?;
    anyhow::ensure!(
        status == StatusCode::OK && question.is_answered_by(&body),
        "expected digit {}, got {status} {}",
        question.digit,
        String::from_utf8_lossy(&body)
    );
    Ok(())
}

/// Reads a page as text.
pub(crate) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .body(Full::default())?;
    let (status, body) = send(address, request).await?;
    anyhow::ensure!(status == StatusCode::OK, "{path} answered {status}");
    Ok(String::from_utf8(body.into())?)
}

/// One request on a connection that ends with it.
async fn send(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(address).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let answered = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        drop(sender);
        anyhow::Ok((status, body))
    };
    let both = async { tokio::join!(answered, connection).0 };
    timeout(PATIENCE, both)
        .await
        .context("waiting for an answer")?
}
