//! The children of a process, watched from outside: how long they lived and how much memory they had.

use anyhow::Context as _;
use std::collections::HashMap;
use std::fs::{read_dir, read_to_string};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::time::Instant;

/// How often they are looked at. A look reads a file for each thread of the parent.
const LOOK: Duration = Duration::from_millis(100);

/// Children that are being watched, by a thread of its own.
pub(crate) struct Children {
    stop: Sender<()>,
    watcher: JoinHandle<Peak>,
}

/// The most that was seen of any child; of none, nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Peak {
    pub(crate) seconds: f64,
    pub(crate) resident_mib: f64,
}

impl Children {
    /// Watches all that the process has from now on.
    pub(crate) fn watch(parent: u32) -> anyhow::Result<Self> {
        let own = format!("/proc/{parent}/task/{parent}/children");
        read_to_string(own).context("the kernel does not list children (CONFIG_PROC_CHILDREN)")?;
        let (stop, stopped) = channel();
        let watcher = std::thread::Builder::new().spawn(move || peak(parent, &stopped))?;
        Ok(Self { stop, watcher })
    }

    /// What was seen until now.
    pub(crate) fn end(self) -> anyhow::Result<Peak> {
        drop(self.stop);
        let peak = self.watcher.join();
        peak.map_err(|_| anyhow::anyhow!("the watcher panicked"))
    }
}

fn peak(parent: u32, stopped: &Receiver<()>) -> Peak {
    let (mut peak, mut first_seen) = (Peak::default(), HashMap::new());
    while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        let now = Instant::now();
        for child in children(parent) {
            let since = first_seen.entry(child).or_insert(now);
            let lived = now.duration_since(*since).as_secs_f64();
            let status = read_to_string(format!("/proc/{child}/status"));
            let resident = status.ok().and_then(|status| resident_mib(&status));
            peak.seconds = peak.seconds.max(lived);
            peak.resident_mib = peak.resident_mib.max(resident.unwrap_or(0.0));
        }
    }
    peak
}

/// One that ended meanwhile, and a thread that did, is left out.
fn children(parent: u32) -> Vec<u32> {
    let Ok(threads) = read_dir(format!("/proc/{parent}/task")) else {
        return Vec::new();
    };
    let lists =
        threads.filter_map(|thread| read_to_string(thread.ok()?.path().join("children")).ok());
    lists.flat_map(|list| ids(&list)).collect()
}

fn ids(list: &str) -> Vec<u32> {
    let ids = list.split_whitespace();
    ids.filter_map(|id| id.parse().ok()).collect()
}

/// The most it ever had, from the text of `/proc/PID/status`.
fn resident_mib(status: &str) -> Option<f64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_is_seen_with_its_memory() {
        let children = Children::watch(std::process::id()).unwrap();
        let mut child = Command::new("sleep").arg("0.5").spawn().unwrap();
        child.wait().unwrap();
        let peak = children.end().unwrap();
        assert!((0.1..5.0).contains(&peak.seconds), "{peak:?}");
        assert!(peak.resident_mib > 0.1, "{peak:?}");
    }

    #[test]
    fn memory_is_what_was_resident_at_most() {
        let status = "VmPeak:\t  9000 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 10 kB\n";
        assert_eq!(resident_mib(status), Some(2.0));
        assert_eq!(resident_mib(""), None);
        assert_eq!(ids("12 7 \n"), [12, 7]);
    }
}
