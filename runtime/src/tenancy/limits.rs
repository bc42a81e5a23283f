//! What an operator sets for one project: its part of the devices, and what it may queue there.

use serde::{Deserialize, Serialize};
use shoal_inference::{Config, Terms};

/// See the module's description. What is not set is as for all projects, which is the configuration's business.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProjectLimits {
    /// Device time it gets beside others that wait too, in proportion. 0: only what is idle.
    pub(crate) weight: Option<u32>,
    /// Whether its functions may use the class `priority`.
    pub(crate) priority: Option<bool>,
    /// Queued rows.
    pub(crate) rows_max: Option<u64>,
    /// Queued bytes.
    pub(crate) bytes_max: Option<u64>,
    /// Requests not yet answered.
    pub(crate) requests_max: Option<u64>,
}

impl ProjectLimits {
    /// All of them, as they hold.
    pub(crate) fn terms(&self, config: &Config) -> Terms {
        let rows_max = u64::from(config.tenant_rows_max);
        let requests_max = u64::from(config.tenant_requests_max);
        Terms {
            weight: self.weight.unwrap_or(1),
            priority: self.priority.unwrap_or(config.priority_for_all),
            rows_max: self.rows_max.unwrap_or(rows_max),
            bytes_max: self.bytes_max.unwrap_or(config.tenant_bytes_max),
            requests_max: self.requests_max.unwrap_or(requests_max),
        }
    }
}
