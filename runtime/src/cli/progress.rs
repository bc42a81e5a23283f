//! What people see of an upload that takes a while: a bar while it is sent, and then what the node does with it. On a terminal,
//! on stderr, and gone when it is over; nowhere else.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use indicatif::{ProgressBar, ProgressStyle};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Bytes that are handed over at once.
const PART_BYTES: usize = 256 << 10;
/// How often what turns is turned.
const TURN: Duration = Duration::from_millis(120);
const BAR: &str = "{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}";
const TURNING: &str = "{spinner} {msg}, {elapsed}";

/// A body, and who watches it leave.
pub(super) struct Upload {
    left: Bytes,
    watch: Option<Watch>,
}

/// Shows where an upload is, until this is dropped. Clones are the same.
#[derive(Clone)]
pub(super) struct Watch {
    bar: ProgressBar,
    /// What the node does when it has all of it.
    then: &'static str,
}

/// Takes what is shown away.
pub(super) struct Shown(Watch);

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.bar.finish_and_clear();
    }
}

impl Shown {
    /// Of a body of so many bytes, after which the node is busy with `then`.
    pub(super) fn new(bytes: usize, then: &'static str) -> Self {
        let bar = ProgressBar::new(bytes as u64).with_message("sending");
        bar.set_style(style(BAR));
        Self(Watch { bar, then })
    }

    pub(super) fn watch(&self) -> Watch {
        self.0.clone()
    }
}

/// Of a template of ours; one that is wrong looks plain.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Upload {
    pub(super) fn new(bytes: Bytes, watch: Option<Watch>) -> Self {
        Self { left: bytes, watch }
    }

    fn part(&mut self) -> Option<Bytes> {
        let part = self.left.split_to(self.left.len().min(PART_BYTES));
        if let Some(Watch { bar, then }) = &self.watch {
            bar.inc(part.len() as u64);
            if self.left.is_empty() {
                bar.set_style(style(TURNING));
                bar.set_message(*then);
                bar.enable_steady_tick(TURN);
            }
        }
        (!part.is_empty()).then_some(part)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.part().map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn all_of_a_body_is_sent_and_counted() {
        for bytes in [0, 1, PART_BYTES, 3 * PART_BYTES + 1] {
            let shown = Shown::new(bytes, "thinking");
            let body: Bytes = (0..bytes).map(|n| n as u8).collect();
            let upload = Upload::new(body.clone(), Some(shown.watch()));
            assert_eq!(upload.size_hint().exact(), Some(bytes as u64));
            let sent = upload.collect().await.unwrap().to_bytes();
            assert_eq!(sent, body);
            let bar = &shown.0.bar;
            assert_eq!(
                (bar.position(), &*bar.message()),
                (bytes as u64, "thinking")
            );
        }
    }

    #[test]
    fn the_templates_can_be_read() {
        for template in [BAR, TURNING] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
