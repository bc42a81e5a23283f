//! `shoal logs`: what a function wrote.

use super::client::{Client, InProject, block_on};
use super::table::text;
use anyhow::Context as _;
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use serde_json::Value;

/// Prints what a function wrote to stdout, stderr and wasi:logging.
#[derive(Debug, clap::Args)]
pub(super) struct Logs {
    /// The function
    name: String,
    /// Go on with what it writes from now on
    #[arg(short, long)]
    follow: bool,
    /// Print one JSON object for each line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    project: InProject,
}

impl Logs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        block_on(async {
            let (client, project) = self.project.resolve().await?;
            let path = path(&project, &self.name, self.follow);
            lines(&client, &path, |line| {
                match self.json {
                    true => println!("{line}"),
                    false => println!("{}", for_people(line)?),
                }
                Ok(())
            })
            .await
        })
    }
}

/// Goes on with what a function writes, from its newest lines on, until the node ends.
///
/// # Errors
/// There is no such function, or the connection breaks.
pub(super) async fn follow(
    client: &Client,
    project: &str,
    function: &str,
    each: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    lines(client, &path(project, function, true), each).await
}

fn path(project: &str, function: &str, follow: bool) -> String {
    format!("/api/v1/projects/{project}/functions/{function}/logs?follow={follow}")
}

async fn lines(
    client: &Client,
    path: &str,
    mut each: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut body = client.stream(path).await?;
    let mut unread = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.context("reading the log")?.into_data() else {
            continue;
        };
        unread.extend_from_slice(&data);
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line = unread.split_to(end + 1);
            each(std::str::from_utf8(&line)?.trim_end())?;
        }
    }
    Ok(())
}

/// A line of a log, which the node gives as JSON.
///
/// # Errors
/// It is none.
pub(super) fn for_people(line: &str) -> anyhow::Result<String> {
    let line: Value = serde_json::from_str(line)?;
    let millis = line["time_unix_ms"].as_i64().unwrap_or_default();
    let time = jiff::Timestamp::from_millisecond(millis)?;
    let source = match &line["level"] {
        Value::Null => text(&line["source"]),
        level => format!("{} {}", text(level), text(&line["context"])),
    };
    Ok(format!(
        "{time:.3} {} {} {}",
        text(&line["request_id"]),
        source.trim_end(),
        text(&line["text"])
    ))
}
