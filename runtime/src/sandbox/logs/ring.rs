//! The newest lines of one function, within a number of bytes. Writers never wait for readers: who reads too slowly finds
//! numbers missing.

use super::Logs;
use super::line::Line;
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Notify;

/// The log of one function.
#[derive(Debug)]
pub struct LogRing {
    logs: Arc<Logs>,
    lines: Mutex<Lines>,
    /// Outlives the ring, for those who wait for its next line.
    changed: Arc<Notify>,
}

/// Waits for the lines of one function. It keeps none for itself: however slowly it is asked, it costs nothing but its gap.
#[derive(Debug)]
pub struct Follower {
    ring: Weak<LogRing>,
    changed: Arc<Notify>,
    seen: u64,
}

#[derive(Debug, Default)]
struct Lines {
    /// Numbered without a gap up to `last`.
    newest: VecDeque<Arc<Line>>,
    bytes: usize,
    last: u64,
}

impl LogRing {
    pub(super) fn new(logs: Arc<Logs>) -> Arc<Self> {
        Arc::new(Self {
            logs,
            lines: Mutex::default(),
            changed: Arc::default(),
        })
    }

    /// The lines numbered higher than `seq`, oldest first; 0 asks for all that are left. Where the first is not `seq` + 1,
    /// those between made room before they were read.
    pub fn after(&self, seq: u64) -> Vec<Arc<Line>> {
        let lines = self.lines();
        let new = usize::try_from(lines.last.saturating_sub(seq)).unwrap_or(usize::MAX);
        let seen = lines.newest.len().saturating_sub(new);
        lines.newest.range(seen..).cloned().collect()
    }

    /// A reader that has seen the lines up to `seq`.
    pub fn follow(self: &Arc<Self>, seq: u64) -> Follower {
        Follower {
            ring: Arc::downgrade(self),
            changed: self.changed.clone(),
            seen: seq,
        }
    }

    /// Longest text of a line.
    pub(super) fn line_bytes_max(&self) -> usize {
        self.logs.line_bytes_max
    }

    /// Numbers a line and adds it; the oldest make room.
    pub(super) fn push(&self, line: Line) {
        let lost = self.lines().push(line, self.logs.function_bytes_max);
        self.logs.lines.fetch_add(1, Relaxed);
        self.logs.lost.fetch_add(lost, Relaxed);
        self.changed.notify_waiters();
    }

    /// Held for as long as a line takes to add, or the references to new ones to copy.
    fn lines(&self) -> MutexGuard<'_, Lines> {
        // Nothing panics while it holds this lock but for a bug; lines are plain data either way.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The function is gone, and so is every guest that could write.
impl Drop for LogRing {
    fn drop(&mut self) {
        self.changed.notify_waiters();
    }
}

impl Lines {
    /// How many lines it lost.
    fn push(&mut self, mut line: Line, bytes_max: usize) -> u64 {
        self.last += 1;
        line.seq = self.last;
        self.bytes += line.bytes();
        let mut lost = 0;
        while self.bytes > bytes_max
            && let Some(oldest) = self.newest.pop_front()
        {
            self.bytes -= oldest.bytes();
            lost += 1;
        }
        self.newest.push_back(Arc::new(line));
        lost
    }
}

impl Follower {
    /// The lines that came since those it answered last, at least one; `None` once the function is gone. Cancel safe: what
    /// was not answered comes again.
    pub async fn next(&mut self) -> Option<Vec<Arc<Line>>> {
        loop {
            // Before the ring is read, so that a line that comes meanwhile is not slept through.
            let changed = self.changed.notified();
            let lines = self.ring.upgrade()?.after(self.seen);
            if let Some(last) = lines.last() {
                self.seen = last.seq;
                return Some(lines);
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::{Origin, Source};
    use super::*;
    use crate::config::Config;
    use crate::sandbox::messages::ComponentId;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn ring(function_log_bytes_max: usize) -> Arc<LogRing> {
        let config = Config {
            function_log_bytes_max,
            ..Config::default()
        };
        Logs::new(&config).ring()
    }

    fn line(text: &str) -> Line {
        Line {
            seq: 0,
            unix_ms: 0,
            origin: Arc::new(Origin::new(b"req", ComponentId([0; 32]))),
            source: Source::Stdout,
            text: text.into(),
        }
    }

    fn seqs(lines: &[Arc<Line>]) -> Vec<u64> {
        lines.iter().map(|line| line.seq).collect()
    }

    #[test]
    fn a_reader_gets_what_came_after_what_it_has() {
        let ring = ring(10_000);
        assert!(ring.after(0).is_empty());
        for text in ["a", "b", "c"] {
            ring.push(line(text));
        }
        for (seq, expected) in [
            (0, &[1, 2, 3][..]),
            (1, &[2, 3]),
            (2, &[3]),
            (3, &[]),
            (4, &[]),
            (u64::MAX, &[]),
        ] {
            assert_eq!(seqs(&ring.after(seq)), expected, "{seq}");
        }
    }

    #[test]
    fn lines_are_kept_up_to_the_limit_and_the_oldest_go_first() {
        let one = line("12345678").bytes();
        let ring = ring(4 * one);
        for _ in 0..4 {
            ring.push(line("12345678"));
        }
        assert_eq!(seqs(&ring.after(0)), [1, 2, 3, 4]);
        // As many bytes as are free, once one line is gone.
        ring.push(line("12345678"));
        assert_eq!(seqs(&ring.after(0)), [2, 3, 4, 5]);
        // One byte more takes another line away, however little of it is needed.
        ring.push(line("123456789"));
        assert_eq!(seqs(&ring.after(0)), [4, 5, 6]);
        assert_eq!((ring.logs.lines(), ring.logs.lost()), (6, 3));
        // A reader that has seen line 1 finds that 2 and 3 are missing.
        assert_eq!(seqs(&ring.after(1)), [4, 5, 6]);
    }

    #[test]
    fn a_million_lines_take_no_more_memory_than_the_limit() {
        let ring = ring(64 << 10);
        let texts = [0, 1, 70, 4_096].map(|length| "x".repeat(length));
        for n in 0..1_000_000 {
            ring.push(line(&texts[n % texts.len()]));
            let lines = ring.lines();
            assert!(lines.bytes <= 64 << 10);
            // A place has 8 bytes, and each line is charged for two.
            assert!(lines.newest.capacity() <= 512);
        }
        let kept = ring.after(0);
        let bytes: usize = kept.iter().map(|line| line.bytes()).sum();
        assert_eq!(ring.lines().bytes, bytes);
        assert!(bytes > (64 << 10) - line(&texts[3]).bytes());
        let kept = kept.len() as u64;
        assert_eq!(
            (ring.logs.lines(), ring.logs.lost()),
            (1_000_000, 1_000_000 - kept)
        );
    }

    #[test]
    fn a_function_that_never_writes_costs_next_to_nothing() {
        let ring = ring(64 << 10);
        assert_eq!(ring.lines().newest.capacity(), 0);
        assert!(size_of::<LogRing>() + size_of::<Notify>() <= 160);
    }

    #[test]
    fn a_follower_sleeps_until_a_line_comes_and_sees_each_once() {
        let ring = ring(10_000);
        ring.push(line("before"));
        let mut follower = ring.follow(0);
        let mut cx = Context::from_waker(Waker::noop());
        {
            let next = pin!(follower.next());
            let Poll::Ready(Some(lines)) = next.poll(&mut cx) else {
                panic!("a line was there");
            };
            assert_eq!(seqs(&lines), [1]);
        }
        // Dropped while it waits: nothing is lost.
        assert!(pin!(follower.next()).poll(&mut cx).is_pending());
        ring.push(line("between"));
        let mut next = pin!(follower.next());
        let Poll::Ready(Some(lines)) = next.as_mut().poll(&mut cx) else {
            panic!("a line came meanwhile");
        };
        assert_eq!(seqs(&lines), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn every_follower_is_woken_by_a_line_and_by_the_end() {
        let ring = ring(10_000);
        let mut followers = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let mut follower = ring.follow(0);
            followers.spawn(async move {
                let mut seen = Vec::new();
                while let Some(lines) = follower.next().await {
                    seen.extend(seqs(&lines));
                }
                seen
            });
        }
        // On a paused clock, time passes once everybody sleeps.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        ring.push(line("one"));
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        ring.push(line("two"));
        ring.push(line("three"));
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        drop(ring);
        assert_eq!(followers.join_all().await, vec![vec![1, 2, 3]; 3]);
    }

    #[test]
    fn a_slow_follower_finds_a_gap() {
        let ring = ring(3 * line("x").bytes());
        let mut follower = ring.follow(0);
        for _ in 0..10 {
            ring.push(line("x"));
        }
        let mut cx = Context::from_waker(Waker::noop());
        let next = pin!(follower.next());
        let Poll::Ready(Some(lines)) = next.poll(&mut cx) else {
            panic!("lines were there");
        };
        assert_eq!(seqs(&lines), [8, 9, 10]);
    }
}
