//! Commands on functions: deploy a version, make another one live, delete.

use super::error::Thing;
use super::garbage::Unnamed;
use super::rows::{CanaryRow, FunctionRow, VersionRow, decode, encode, function_key, version_key};
use super::{Control, ControlError};
use crate::sandbox::{Grants, check_name};
use crate::store::{Check, Digest, Kind, Listing, Op, Revision, Row, Store as _};
use crate::tenancy::{KeyId, Project};
use crate::wall_clock::unix_seconds;
use anyhow::Context as _;
use bytes::Bytes;
use shoal_inference::{Class, TenantId};
use std::sync::Arc;

/// What to deploy.
#[derive(Debug)]
pub(crate) struct Deploy {
    pub(crate) project: Arc<Project>,
    pub(crate) function: String,
    pub(crate) wasm: Bytes,
    pub(crate) grants: Grants,
    /// Percent of the calls, 1 to 99, that it gets beside the live version; `None`: it is live, and gets all.
    pub(crate) canary: Option<u8>,
    /// Who deploys.
    pub(crate) by: Option<KeyId>,
}

/// A function and what is to be known of it.
#[derive(Clone, Debug)]
pub(crate) struct Deployed {
    pub(crate) name: String,
    pub(crate) row: FunctionRow,
}

impl Control {
    /// Makes a new version live, or puts it on trial. Whatever a component can be refused for is found before anything is kept; the version that
    /// is live meanwhile stays so.
    pub(crate) async fn deploy(&self, deploy: Deploy) -> Result<Deployed, ControlError> {
        let Deploy {
            project,
            function,
            wasm,
            grants,
            canary,
            by,
        } = deploy;
        check_name("function", &function)?;
        self.check_grants(project.tenant.id, &grants)?;
        let tenant = project.tenant.id;
        // Asked again when it is this deploy's turn; here it saves a compile.
        let before = self.read_function(tenant, &function).await?;
        self.check_place(tenant, before.as_ref(), canary).await?;
        let unnamed = Unnamed::of(self);
        let component = self.components.prepare(tenant, wasm.clone()).await?;

        // In this order: who waits for a tenant's turn must not keep the search for garbage, and all who wait for it, waiting.
        let _writer = self.writer(tenant).await;
        let before = self.read_function(tenant, &function).await?;
        self.check_place(tenant, before.as_ref(), canary).await?;
        let _putting = self.putting.read().await;
        // Mapped just now, unless a search came in between.
        let code = std::future::ready(anyhow::Ok(wasm.clone()));
        self.components.ready(tenant, component, code).await?;
        let bytes = wasm.len() as u64;
        let component = self.blobs.put(wasm).await?;
        let now = unix_seconds();
        let number = before.as_ref().map_or(0, |(_, row)| row.latest) + 1;
        let version = VersionRow {
            number,
            component,
            bytes,
            grants,
            created_at: now,
            created_by: by,
            untried: canary.is_some(),
        };
        let stays = before.as_ref().filter(|_| canary.is_some());
        let stays = stays.map(|(_, row)| row.live.number);
        let mut ops = self.too_old(tenant, &function, stays).await?;
        ops.push(Op::Put(
            version_key(tenant, &function, number),
            encode(&version),
        ));
        let created_at = before.as_ref().map_or(now, |(_, row)| row.created_at);
        let (live, canary) = match (&before, canary) {
            (Some((_, row)), Some(percent)) => {
                (row.live.clone(), Some(CanaryRow { version, percent }))
            }
            _ => (version, None),
        };
        let row = FunctionRow {
            live,
            latest: number,
            created_at,
            canary,
            rolled_back: None,
        };
        self.put_function(tenant, &function, before, &row, ops)
            .await?;
        unnamed.named();
        Ok(Deployed {
            name: function,
            row,
        })
    }

    /// Makes another version live: the one of this number, or the newest that is older than the live one. A trial is over
    /// with it; without a number nothing else happens where there is one.
    pub(crate) async fn rollback(
        &self,
        tenant: TenantId,
        function: &str,
        number: Option<u32>,
    ) -> Result<Deployed, ControlError> {
        let _writer = self.writer(tenant).await;
        let before = self.function_row(tenant, function).await?;
        if number.is_none() && before.1.canary.is_some() {
            let row = FunctionRow {
                canary: None,
                ..before.1.clone()
            };
            self.put_function(tenant, function, Some(before), &row, Vec::new())
                .await?;
            let name = function.to_owned();
            return Ok(Deployed { name, row });
        }
        let versions = self.versions(tenant, function).await?;
        let older = |version: &&VersionRow| match number {
            Some(number) => version.number == number,
            None => version.number < before.1.live.number && !version.untried,
        };
        let live = versions.iter().rev().find(older).cloned();
        let live = live.ok_or(ControlError::Unknown(Thing::Version))?;
        // It ran once, but the node may have another engine now, or its compiled code may be gone.
        self.components
            .ready(tenant, live.component.into(), self.wasm(live.component))
            .await?;
        let row = FunctionRow {
            live,
            canary: None,
            ..before.1.clone()
        };
        self.put_function(tenant, function, Some(before), &row, Vec::new())
            .await?;
        let name = function.to_owned();
        Ok(Deployed { name, row })
    }

    /// Removes a function and all its versions. Its guests that run now go on to their end.
    pub(crate) async fn delete(
        &self,
        tenant: TenantId,
        function: &str,
    ) -> Result<(), ControlError> {
        let _writer = self.writer(tenant).await;
        let (revision, _) = self.function_row(tenant, function).await?;
        let key = function_key(tenant, function);
        let mut ops: Vec<Op> = self
            .versions(tenant, function)
            .await?
            .iter()
            .map(|version| Op::Delete(version_key(tenant, function, version.number)))
            .collect();
        ops.push(Op::Delete(key.clone()));
        self.commit(vec![Check::At(key, revision)], ops).await
    }

    /// Every function of a tenant, by name.
    pub(crate) async fn functions(&self, tenant: TenantId) -> Result<Vec<Deployed>, ControlError> {
        let rows = self.list(
            Kind::Function,
            tenant,
            None,
            self.config.tenant_functions_max,
        );
        let deployed = |row: &Row| {
            let name = row.key.name.clone();
            decode(row).map(|row| Deployed { name, row })
        };
        Ok(rows.await?.iter().filter_map(deployed).collect())
    }

    /// One function.
    pub(crate) async fn function(
        &self,
        tenant: TenantId,
        function: &str,
    ) -> Result<Deployed, ControlError> {
        let (_, row) = self.function_row(tenant, function).await?;
        let name = function.to_owned();
        Ok(Deployed { name, row })
    }

    /// The versions that are kept of a function, the oldest first.
    pub(crate) async fn versions(
        &self,
        tenant: TenantId,
        function: &str,
    ) -> Result<Vec<VersionRow>, ControlError> {
        // '@' is in no name of a function, so these are the rows of this one.
        let after = version_key(tenant, function, 0).name;
        let limit = self.config.function_versions_max + 1;
        let rows = self.list(Kind::Version, tenant, Some(after), limit).await?;
        let own = format!("{function}@");
        Ok(rows
            .iter()
            .take_while(|row| row.key.name.starts_with(&own))
            .filter_map(decode)
            .collect())
    }

    /// The component of a version, as it was uploaded.
    async fn wasm(&self, component: Digest) -> anyhow::Result<Bytes> {
        let wasm = self.blobs.get(&component).await?;
        wasm.context("a component is not among the blobs")
    }

    pub(super) async fn function_row(
        &self,
        tenant: TenantId,
        function: &str,
    ) -> Result<(Revision, FunctionRow), ControlError> {
        let row = self.read_function(tenant, function).await?;
        row.ok_or(ControlError::Unknown(Thing::Function))
    }

    async fn read_function(
        &self,
        tenant: TenantId,
        function: &str,
    ) -> Result<Option<(Revision, FunctionRow)>, ControlError> {
        let row = self.store.get(function_key(tenant, function)).await?;
        Ok(row.and_then(|row| Some((row.revision, decode(&row)?))))
    }

    fn check_grants(&self, tenant: TenantId, grants: &Grants) -> Result<(), ControlError> {
        let limit = self.config.function_egress_hosts_max;
        if grants.egress.len() > limit {
            return Err(ControlError::EgressLimit { limit });
        }
        if grants.class == Class::Priority {
            let limits = self.directory.limits(tenant);
            if !limits.terms(&self.config.inference).priority {
                return Err(ControlError::NoPriority);
            }
        }
        let limit = self.config.function_reuse_max;
        if grants.reuse.is_some_and(|calls| calls.get() > limit) {
            return Err(ControlError::ReuseLimit { limit });
        }
        let unknown = |model: &&String| self.inference.model(model).is_none();
        match grants.models.iter().find(unknown) {
            Some(model) => Err(ControlError::UnknownModel(model.clone())),
            None => Ok(()),
        }
    }

    /// Whether there is room for a new function, or a live version for a canary to run beside.
    async fn check_place(
        &self,
        tenant: TenantId,
        before: Option<&(Revision, FunctionRow)>,
        canary: Option<u8>,
    ) -> Result<(), ControlError> {
        match (before, canary) {
            (Some(_), _) => Ok(()),
            (None, Some(_)) => Err(ControlError::CanaryAlone),
            (None, None) => self.check_room(tenant).await,
        }
    }

    async fn check_room(&self, tenant: TenantId) -> Result<(), ControlError> {
        let limit = self.config.tenant_functions_max;
        let functions = self.list(Kind::Function, tenant, None, limit).await?;
        if functions.len() < limit {
            return Ok(());
        }
        Err(ControlError::Limit {
            what: "functions in this project",
            limit,
            key: "tenant_functions_max",
        })
    }

    /// What goes when one more version comes: the oldest, but for the one that stays live.
    async fn too_old(
        &self,
        tenant: TenantId,
        function: &str,
        stays: Option<u32>,
    ) -> Result<Vec<Op>, ControlError> {
        let versions = self.versions(tenant, function).await?;
        let surplus = (versions.len() + 1).saturating_sub(self.config.function_versions_max);
        Ok(versions
            .iter()
            .filter(|version| Some(version.number) != stays)
            .take(surplus)
            .map(|version| Op::Delete(version_key(tenant, function, version.number)))
            .collect())
    }

    pub(super) async fn put_function(
        &self,
        tenant: TenantId,
        function: &str,
        before: Option<(Revision, FunctionRow)>,
        row: &FunctionRow,
        mut ops: Vec<Op>,
    ) -> Result<(), ControlError> {
        let key = function_key(tenant, function);
        let check = match before {
            None => Check::Absent(key.clone()),
            Some((revision, _)) => Check::At(key.clone(), revision),
        };
        ops.push(Op::Put(key, encode(row)));
        self.commit(vec![check], ops).await
    }

    async fn list(
        &self,
        kind: Kind,
        tenant: TenantId,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<Row>, ControlError> {
        let listing = Listing {
            kind,
            tenant: Some(tenant),
            after: after.map(|name| (tenant, name)),
            limit,
        };
        Ok(self.store.list(listing).await?)
    }
}
