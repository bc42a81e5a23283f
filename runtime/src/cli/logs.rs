//! `shoal logs`: what a function wrote.

use super::client::{InProject, block_on};
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
            let path = format!(
                "/api/v1/projects/{project}/functions/{}/logs?follow={}",
                self.name, self.follow
            );
            let mut body = client.stream(&path).await?;
            let mut unread = BytesMut::new();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.context("reading the log")?.into_data() else {
                    continue;
                };
                unread.extend_from_slice(&data);
                while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                    self.print(&unread.split_to(end + 1))?;
                }
            }
            Ok(())
        })
    }

    fn print(&self, line: &[u8]) -> anyhow::Result<()> {
        let line = std::str::from_utf8(line)?.trim_end();
        if self.json {
            println!("{line}");
            return Ok(());
        }
        let line: Value = serde_json::from_str(line)?;
        let millis = line["time_unix_ms"].as_i64().unwrap_or_default();
        let time = jiff::Timestamp::from_millisecond(millis)?;
        let source = match &line["level"] {
            Value::Null => text(&line["source"]),
            level => format!("{} {}", text(level), text(&line["context"])),
        };
        println!(
            "{time:.3} {} {} {}",
            text(&line["request_id"]),
            source.trim_end(),
            text(&line["text"])
        );
        Ok(())
    }
}
