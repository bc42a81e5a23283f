//! The bars. Each file says what is promised, how it is measured and what the target is.

mod waiting;

use crate::bar::{Outcome, Run};

/// A bar, by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Bar {
    Waiting,
}

impl Bar {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
        }
    }

    /// What it promises, in a line.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Waiting => {
                "2,000 guests wait for one device: all answered, at most 150 KiB each, no thread each"
            }
        }
    }

    pub(crate) async fn measure(self, run: &Run) -> anyhow::Result<Outcome> {
        match self {
            Self::Waiting => waiting::measure(run).await,
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
