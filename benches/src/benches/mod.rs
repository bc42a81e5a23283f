//! The benches. Each file says what is compared with what.

mod acceptors;
mod async_gain;
mod batch_gain;
mod batching;
mod dispatch;
mod first_request;
mod layers;

pub(crate) use async_gain::blocking;

use std::path::Path;

/// A bench, by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Bench {
    Acceptors,
    AsyncGain,
    BatchGain,
    Batching,
    Dispatch,
    FirstRequest,
    Layers,
}

impl Bench {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Acceptors => "acceptors",
            Self::AsyncGain => "async-gain",
            Self::BatchGain => "batch-gain",
            Self::Batching => "batching",
            Self::Dispatch => "dispatch",
            Self::FirstRequest => "first-request",
            Self::Layers => "layers",
        }
    }

    /// What it compares, in a line.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Acceptors => {
                "one thread that accepts for all, beside a socket for each (SO_REUSEPORT)"
            }
            Self::AsyncGain => {
                "guests that wait for a model without a thread, beside those of wasmtime-wasi-nn, which take one"
            }
            Self::BatchGain => {
                "rows a second by how many ask at once, beside no batches and beside a batcher with a fixed window"
            }
            Self::Batching => {
                "what batches cost beside the engine called directly, and beside what a device could do"
            }
            Self::Dispatch => {
                "a fresh sandbox for each request, beside wasmtime serve and beside hyper alone"
            }
            Self::FirstRequest => {
                "the first request to a function after its node started, beside the second"
            }
            Self::Layers => "what a call costs, by the layer whose code runs",
        }
    }

    /// Prints a table; writes a plot where there is a folder for it.
    pub(crate) async fn compare(self, out: Option<&Path>) -> anyhow::Result<()> {
        match self {
            Self::Acceptors => acceptors::compare().await,
            Self::AsyncGain => async_gain::compare().await,
            Self::BatchGain => batch_gain::compare(out).await,
            Self::Batching => batching::compare().await,
            Self::Dispatch => dispatch::compare(out).await,
            Self::FirstRequest => first_request::compare(out).await,
            Self::Layers => layers::compare().await,
        }
    }
}

/// Of a goal.
fn verdict(holds: bool) -> &'static str {
    if holds { "holds" } else { "missed" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn a_bench_is_called_what_it_says() {
        for bench in Bench::value_variants() {
            assert_eq!(Bench::from_str(bench.name(), false), Ok(*bench));
        }
    }
}
