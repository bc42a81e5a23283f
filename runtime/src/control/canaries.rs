//! Commands on the version of a function that is on trial: give it more of the calls, make it live, give it up. Which calls
//! it gets, and whether it failed, is found where it is called: see `sandbox/canary`.

use super::error::Thing;
use super::functions::Deployed;
use super::rows::{CanaryRow, FunctionRow, RolledBack, VersionRow, encode, version_key};
use super::{Control, ControlError};
use crate::sandbox::{ComponentId, Findings, Function};
use crate::store::Op;
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
        let mut ops = Vec::new();
        let row = if percent < 100 {
            FunctionRow {
                canary: Some(CanaryRow { percent, ..canary }),
                ..row
            }
        } else {
            let live = VersionRow {
                untried: false,
                ..canary.version
            };
            let key = version_key(tenant, function, live.number);
            ops.push(Op::Put(key, encode(&live)));
            FunctionRow {
                live,
                canary: None,
                ..row
            }
        };
        self.put_function(tenant, function, Some(before), &row, ops)
            .await?;
        let name = function.to_owned();
        Ok(Deployed { name, row })
    }

    async fn give_up_canaries(&self) -> Result<(), ControlError> {
        for failed in self.registry.failed_canaries() {
            let function = &failed.function;
            let given_up = self.give_up_canary(function, failed.findings);
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
        failed: &Function,
        findings: Findings,
    ) -> Result<(), ControlError> {
        let (tenant, function, number) = (failed.tenant.id, &*failed.name, failed.number);
        let _writer = self.writer(tenant).await;
        let before = self.function_row(tenant, function).await?;
        // A function that was deleted and made again has the same numbers.
        let is_it = |canary: &CanaryRow| {
            let component: ComponentId = canary.version.component.into();
            (canary.version.number, component) == (number, failed.component)
        };
        if !before.1.canary.as_ref().is_some_and(is_it) {
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
