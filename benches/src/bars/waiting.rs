//! `waiting`: guests that wait for one device at the same time, on two socket threads. All are answered, each with the digit
//! in its own picture; each costs the node at most 150 KiB while it waits, and none an OS thread.
//!
//! A run takes longer than the guests take to arrive: the first few have one of their own, then all others share one. So there
//! is a moment when all others are queued, and another when all of them are on the device: memory is read at both, and the larger
//! reading counts. What a guest costs is everything that grew: its sandbox, its connection, its request.
//!
//! Memory is what is resident. That leaves out the page tables, but counts pages of the component that all guests share for
//! each of them, which is more: what a guest really takes from the machine is less than the figure.
//!
//! The short form is the whole: it takes ten seconds, and what a node takes once and keeps is not to be shared by fewer.

use crate::bar::{Figure, Outcome, Run, Target};
use crate::client;
use crate::digits::Pictures;
use crate::node::{DeviceSpec, Footprint, Node, Spec};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

const GUESTS: usize = 2_000;
const KIB_MAX: f64 = 150.0;
/// Few: the pool's slots are to be nearly as untouched as on a node that has just started. But enough to show that a large run
/// takes no longer than a small one on this device, or the others would not share one.
const WARM_UP: usize = 64;
/// Files that a process has open beside one for each connection.
const FILES_BESIDE: u64 = 256;
/// How long one run takes on the device: longer than the guests take to arrive, under 1 s on two cores, the load beside.
const LAUNCH: Duration = Duration::from_secs(4);
/// Guests that may come before the first run begins.
const FIRST: u64 = 100;
/// How often the node is looked at. Each look is a request, and costs the node what it is to be measured without.
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn measure(run: &Run) -> anyhow::Result<Outcome> {
    if let Err(skipped) = allow_files(GUESTS as u64 + FILES_BESIDE) {
        return Ok(skipped);
    }
    let spec = Spec {
        socket_threads: 2,
        background_threads: 2,
        guests_max: GUESTS as u32,
        tenants: 4,
        // More than there are: a full batch would be closed at once.
        rows_max: GUESTS as u32 + 1,
        device: DeviceSpec::Simulated {
            launch: LAUNCH,
            per_row: Duration::ZERO,
        },
    };
    let node = Node::start(&spec).await?;
    if let Some(why) = node.cannot_hold(GUESTS) {
        return Ok(Outcome::Skipped(why));
    }
    let measured = load(&node, run.seed).await?;
    node.stop().await?;
    Ok(Outcome::Measured {
        figures: measured.figures(GUESTS),
        n: GUESTS as u64,
    })
}

/// What was seen.
struct Measured {
    idle: Footprint,
    waiting: Waiting,
    right: usize,
}

/// The node while guests wait.
#[derive(Default)]
struct Waiting {
    /// Those alive when the first few were on the device and all others waited for it.
    guests: u64,
    /// When all waited in the queue, and when all waited on the device.
    all: Vec<Footprint>,
}

async fn load(node: &Node, seed: u64) -> anyhow::Result<Measured> {
    let pictures = Pictures::read()?;
    eprintln!("waiting: warming up");
    let (address, paths) = (node.address(), node.paths("digits"));
    let warm = client::at_once(address, &paths, pictures.pick(WARM_UP, seed)).await?;
    anyhow::ensure!(
        warm == WARM_UP,
        "{warm} of {WARM_UP} first requests were answered right"
    );
    let idle = node.footprint()?;
    eprintln!("waiting: idle: {idle}");
    let mut tasks = JoinSet::new();
    let asked = pictures.pick(GUESTS, seed);
    tasks.spawn(async move { client::at_once(address, &paths, asked).await });
    let waiting = watch(node, GUESTS as u64, 4 * LAUNCH).await?;
    let mut right = 0;
    while let Some(answered) = tasks.join_next().await {
        right += answered??;
    }
    Ok(Measured {
        idle,
        waiting,
        right,
    })
}

/// Looks at the node until all guests have been seen in the queue and then on the device, at most for `patience`.
async fn watch(node: &Node, guests: u64, patience: Duration) -> anyhow::Result<Waiting> {
    let (began, until) = (Instant::now(), Instant::now() + patience);
    let mut looks = interval(LOOK);
    let mut waiting = Waiting::default();
    let mut first = 0;
    while Instant::now() < until {
        looks.tick().await;
        let now = node.load().await?;
        let on_device = now.guests_live - now.queue_rows.min(now.guests_live);
        let all_queued = waiting.all.is_empty() && now.guests_live == guests && on_device <= FIRST;
        let all_on_device = !waiting.all.is_empty() && on_device == guests - first;
        if all_queued {
            waiting.guests = now.guests_live;
            first = on_device;
        }
        if all_queued || all_on_device {
            let footprint = node.footprint()?;
            let after = began.elapsed().as_secs_f64();
            eprintln!("waiting: {guests} guests, after {after:.1} s: {footprint}");
            waiting.all.push(footprint);
        }
        if all_on_device {
            break;
        }
    }
    Ok(waiting)
}

impl Measured {
    /// Without a moment when all waited, what each costs cannot be said: those figures are not numbers, and fail.
    fn figures(&self, guests: usize) -> Vec<Figure> {
        let all = self.waiting.all.iter();
        let grown = |of: fn(&Footprint) -> u64| {
            let most = all.clone().map(of).max();
            most.map_or(f64::NAN, |most| most as f64 - of(&self.idle) as f64)
        };
        vec![
            Figure {
                value: self.right as f64,
                unit: "right_answers",
                target: Target::Exactly(guests as f64),
            },
            Figure {
                value: self.waiting.guests as f64,
                unit: "guests_waiting_at_once",
                target: Target::Exactly(guests as f64),
            },
            Figure {
                value: grown(|footprint| footprint.resident_kib) / guests as f64,
                unit: "KiB/waiting_guest",
                target: Target::AtMost(KIB_MAX),
            },
            Figure {
                value: grown(|footprint| footprint.threads),
                unit: "more_threads",
                target: Target::Exactly(0.0),
            },
        ]
    }
}

/// Raises this process's limit of open files, which the node inherits.
fn allow_files(needed: u64) -> Result<(), Outcome> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    let enough = maximum.is_none_or(|maximum| maximum >= needed);
    if enough && setrlimit(Resource::Nofile, limit).is_ok() {
        return Ok(());
    }
    let most = maximum.map_or_else(|| "unlimited".to_owned(), |most| most.to_string());
    Err(Outcome::Skipped(format!(
        "needs {needed} open files in a process, {most} allowed: raise ulimit -Hn"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footprint(resident_kib: u64, threads: u64) -> Footprint {
        Footprint {
            resident_kib,
            page_tables_kib: 0,
            threads,
        }
    }

    fn measured(all: Vec<Footprint>, guests: u64) -> Measured {
        Measured {
            idle: footprint(1_000, 7),
            waiting: Waiting { guests, all },
            right: 10,
        }
    }

    #[test]
    fn the_larger_of_both_moments_counts() {
        let figures = measured(vec![footprint(2_000, 7), footprint(1_800, 8)], 10).figures(10);
        let values: Vec<f64> = figures.iter().map(|figure| figure.value).collect();
        assert_eq!(values, [10.0, 10.0, 100.0, 1.0]);
        let holds: Vec<bool> = figures.iter().map(Figure::holds).collect();
        assert_eq!(holds, [true, true, true, false]);
    }

    #[test]
    fn guests_that_never_waited_together_fail_the_bar() {
        let figures = measured(Vec::new(), 9).figures(10);
        let holds: Vec<bool> = figures.iter().map(Figure::holds).collect();
        assert_eq!(holds, [true, false, false, false]);
    }
}
