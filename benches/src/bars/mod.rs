//! The bars. Each file says what is promised, how it is measured and what the target is.

mod cache_flip;
mod compile_bombs;
mod density;
mod drain;
mod engine_cost;
mod fairness;
mod guest_fair;
mod kill9_deploy;
mod laws;
mod no_key;
mod redeploy;
mod runaway;
mod scheduler_cost;
mod ssrf;
mod waiting;
mod watched;

use crate::bar::{Outcome, Run};

/// A bar, by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Bar {
    Waiting,
    Density,
    Redeploy,
    Drain,
    #[value(name = "kill9-deploy")]
    Kill9Deploy,
    CacheFlip,
    NoKey,
    CompileBombs,
    Runaway,
    GuestFair,
    Ssrf,
    Laws,
    Fairness,
    SchedulerCost,
    EngineCost,
}

impl Bar {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Density => "density",
            Self::Redeploy => "redeploy",
            Self::Drain => "drain",
            Self::Kill9Deploy => "kill9-deploy",
            Self::CacheFlip => "cache-flip",
            Self::NoKey => "no-key",
            Self::CompileBombs => "compile-bombs",
            Self::Runaway => "runaway",
            Self::GuestFair => "guest-fair",
            Self::Ssrf => "ssrf",
            Self::Laws => "laws",
            Self::Fairness => "fairness",
            Self::SchedulerCost => "scheduler-cost",
            Self::EngineCost => "engine-cost",
        }
    }

    /// What it promises, in a line.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Waiting => {
                "2,000 guests wait for one device: all answered, at most 150 KiB each, no thread each"
            }
            Self::Density => {
                "1,000 functions: at most 300 KiB each of an idle node; with 10,000 it starts within 3 s"
            }
            Self::Redeploy => {
                "1,000 deploys of a function under load: every answer 200 and of one version, the live one"
            }
            Self::Drain => {
                "100 drains (SIGTERM) under load: every request sent before its connection closed is answered"
            }
            Self::Kill9Deploy => {
                "300 kills (SIGKILL) under deploys: none that was answered lost, none half there, ready within 1 s"
            }
            Self::CacheFlip => "10,000 changed bytes in compiled code: none of it is loaded",
            Self::CompileBombs => {
                "20 components that overwhelm a compiler: refused within 12 s and 1 GiB, other tenants' p99 as before"
            }
            Self::Runaway => {
                "16 kinds of guest that do not end, 50 of each: all ended, at most 10 ms of CPU past their limit (p99)"
            }
            Self::GuestFair => {
                "200 guests of a tenant that compute without end: another's p99 is at most 5 ms more"
            }
            Self::Ssrf => {
                "more than 100 ways from a function to addresses inside: no byte arrives; allowed hosts are reached"
            }
            Self::Laws => {
                "what the batcher promises, on 10,000 seeds with all that can go wrong, within a minute"
            }
            Self::Fairness => {
                "a quiet tenant beside one that asks for 50 times as much: p99 at most 1.5 times that alone; shares as weighed"
            }
            Self::SchedulerCost => {
                "10,000 tenants and 100,000 queued requests: at most 2 µs of CPU a request in the scheduler"
            }
            Self::EngineCost => "from submission to reply: at most 10 µs of CPU a request",
            Self::NoKey => "every route but /healthz and /readyz answers 401 without a right key",
        }
    }

    pub(crate) async fn measure(self, run: &Run) -> anyhow::Result<Outcome> {
        match self {
            Self::Waiting => waiting::measure(run).await,
            Self::Density => density::measure(run).await,
            Self::Redeploy => redeploy::measure(run).await,
            Self::Drain => drain::measure(run).await,
            Self::Kill9Deploy => kill9_deploy::measure(run).await,
            Self::CacheFlip => cache_flip::measure(run).await,
            Self::NoKey => no_key::measure(run).await,
            Self::CompileBombs => compile_bombs::measure(run).await,
            Self::Runaway => runaway::measure(run).await,
            Self::GuestFair => guest_fair::measure(run).await,
            Self::Ssrf => ssrf::measure(run).await,
            Self::Laws => laws::measure(run).await,
            Self::Fairness => fairness::measure(run).await,
            Self::SchedulerCost => scheduler_cost::measure(run).await,
            Self::EngineCost => engine_cost::measure(run).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn a_bar_is_called_what_it_prints() {
        for bar in Bar::value_variants() {
            assert_eq!(Bar::from_str(bar.name(), false), Ok(*bar));
        }
    }
}
