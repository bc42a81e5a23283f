//! Commands on the version of a function that is on trial: give it more of the calls, make it live, give it up. Which calls
//! it gets, and whether it failed, is found where it is called: see `sandbox/canary`.

use super::error::Thing;
use super::functions::Deployed;
use super::rows::{CanaryRow, FunctionRow, RolledBack};
use super::{Control, ControlError};
use crate::sandbox::Findings;
use crate::wall_clock::unix_seconds;
use shoal_inference::TenantId;
use std::sync::Arc;
use std::time::Duration;

/// Time until a commit that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Takes canaries away that failed. They get no call from when they failed; this makes it last.
pub(crate) async fn watch(control: Arc<Control>) {
    loop {
        control.registry.canary_fails().await;
        while let Err(error) = control.give_up_canaries().await {
            tracing::warn!(%error, "a canary that failed cannot be taken away");
            tokio::time::sleep(RETRY).await;
        }
    }
}

impl Control {
    /// Gives the version on trial so many percent of the calls; with all of them it is live, and the trial over.
    pub(crate) async fn promote(
        &self,
        tenant: TenantId,
        function: &str,
        percent: u8,
    ) -> Result<Deployed, ControlError> {
        let _writer = self.writer(tenant).await;
        let before = self.function_row(tenant, function).await?;
        let row = before.1.clone();
        let canary = row.canary.ok_or(ControlError::Unknown(Thing::Canary))?;
        let row = if percent < 100 {
            FunctionRow {
                canary: Some(CanaryRow { percent, ..canary }),
                ..row
            }
        } else {
            FunctionRow {
                live: canary.version,
                canary: None,
                ..row
            }
        };
        self.put_function(tenant, function, Some(before), &row, Vec::new())
            .await?;
        let name = function.to_owned();
        Ok(Deployed { name, row })
    }

    async fn give_up_canaries(&self) -> Result<(), ControlError> {
        for failed in self.registry.failed_canaries() {
            let function = &failed.function;
            let given_up = self.give_up_canary(
                function.tenant.id,
                &function.name,
                function.number,
                failed.findings,
            );
            match given_up.await {
                // Whoever changed it meanwhile knew better, or the next round does.
                Ok(()) | Err(ControlError::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn give_up_canary(
        &self,
        tenant: TenantId,
        function: &str,
        number: u32,
        findings: Findings,
    ) -> Result<(), ControlError> {
        let _writer = self.writer(tenant).await;
        let before = self.function_row(tenant, function).await?;
        let canary = before.1.canary.as_ref();
        if canary.is_none_or(|canary| canary.version.number != number) {
            return Ok(());
        }
        let row = FunctionRow {
            canary: None,
            rolled_back: Some(RolledBack {
                number,
                findings,
                at: unix_seconds(),
            }),
            ..before.1.clone()
        };
        self.put_function(tenant, function, Some(before), &row, Vec::new())
            .await?;
        tracing::warn!(
            tenant = tenant.0,
            function,
            version = number,
            ?findings,
            "a canary failed: all calls go to the live version"
        );
        Ok(())
    }
}
