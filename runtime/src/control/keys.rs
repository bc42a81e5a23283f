//! Commands on projects and keys.

use super::error::Thing;
use super::rows::{KeyRow, ProjectRow, decode, encode, key_key, project_key};
use super::{Control, ControlError};
use crate::sandbox::check_name;
use crate::store::{Check, OPERATOR, Op, Store as _};
use crate::tenancy::{ApiKey, KeyId, KnownKey, Project, ProjectLimits, fill_random};
use crate::wall_clock::unix_seconds;
use shoal_inference::TenantId;
use std::sync::Arc;

/// The most a project can weigh.
const WEIGHT_MAX: u64 = 1_000;
/// The most any other of its limits can be.
const LIMIT_MAX: u64 = 1 << 40;

/// Longest name of a key, in characters.
pub(crate) const KEY_NAME_LEN_MAX: usize = 100;

impl Control {
    /// Makes a project. Its name is part of its functions' addresses, so it cannot be changed.
    pub(crate) async fn create_project(&self, name: &str) -> Result<Arc<Project>, ControlError> {
        let tenant = self.new_tenant()?;
        self.create_project_as(name, tenant).await
    }

    pub(super) async fn create_project_as(
        &self,
        name: &str,
        tenant: TenantId,
    ) -> Result<Arc<Project>, ControlError> {
        check_name("project", name)?;
        let _writer = self.writer(OPERATOR).await;
        if self.directory.find(name).is_some() {
            return Err(ControlError::Exists {
                what: "project",
                name: name.to_owned(),
            });
        }
        let limit = self.config.projects_max;
        if self.directory.projects().len() >= limit {
            return Err(ControlError::Limit {
                what: "projects",
                limit,
                key: "projects_max",
            });
        }
        let row = ProjectRow {
            tenant,
            created_at: unix_seconds(),
            limits: ProjectLimits::default(),
        };
        let key = project_key(name);
        let ops = vec![Op::Put(key.clone(), encode(&row))];
        self.commit(vec![Check::Absent(key)], ops).await?;
        self.directory
            .find(name)
            .ok_or(ControlError::Unknown(Thing::Project))
    }

    /// Sets what holds for a project, all of it, from now on.
    ///
    /// # Errors
    /// A value out of its range.
    pub(crate) async fn set_limits(
        &self,
        project: &Project,
        limits: ProjectLimits,
    ) -> Result<(), ControlError> {
        for (what, value, range) in [
            ("weight", limits.weight.map(u64::from), 0..=WEIGHT_MAX),
            ("rows_max", limits.rows_max, 1..=LIMIT_MAX),
            ("bytes_max", limits.bytes_max, 1..=LIMIT_MAX),
            ("requests_max", limits.requests_max, 1..=LIMIT_MAX),
        ] {
            if value.is_some_and(|value| !range.contains(&value)) {
                return Err(ControlError::ProjectLimit { what, range });
            }
        }
        let _writer = self.writer(OPERATOR).await;
        let key = project_key(&project.name);
        let row = self.store.get(key.clone()).await?;
        let row = row.ok_or(ControlError::Unknown(Thing::Project))?;
        let before = decode::<ProjectRow>(&row).ok_or(ControlError::Store)?;
        let after = ProjectRow { limits, ..before };
        let checks = vec![Check::At(key.clone(), row.revision)];
        self.commit(checks, vec![Op::Put(key, encode(&after))])
            .await
    }

    /// Makes a key of a project, or one of the operator's. What it reveals is kept nowhere.
    pub(crate) async fn create_key(
        &self,
        project: Option<TenantId>,
        name: &str,
    ) -> Result<(ApiKey, KnownKey), ControlError> {
        let characters = name.chars().count();
        if characters == 0 || characters > KEY_NAME_LEN_MAX || name.chars().any(char::is_control) {
            return Err(ControlError::KeyName);
        }
        let _writer = self.writer(OPERATOR).await;
        let limit = self.config.project_keys_max;
        if self.directory.keys(project).len() >= limit {
            return Err(ControlError::Limit {
                what: "keys",
                limit,
                key: "project_keys_max",
            });
        }
        let key = ApiKey::random().map_err(no_random)?;
        let row = KeyRow {
            name: name.to_owned(),
            project,
            hash: key.hash(),
            created_at: unix_seconds(),
        };
        let at = key_key(key.id());
        self.commit(
            vec![Check::Absent(at.clone())],
            vec![Op::Put(at, encode(&row))],
        )
        .await?;
        Ok((key, row.into()))
    }

    /// Revokes a key: it is refused from now on.
    pub(crate) async fn revoke_key(
        &self,
        project: Option<TenantId>,
        id: &KeyId,
    ) -> Result<(), ControlError> {
        let _writer = self.writer(OPERATOR).await;
        let known = self.directory.key(id).filter(|key| key.project == project);
        known.ok_or(ControlError::Unknown(Thing::Key))?;
        if project.is_none() && self.directory.keys(None).len() == 1 {
            return Err(ControlError::LastAdminKey);
        }
        self.commit(Vec::new(), vec![Op::Delete(key_key(id))]).await
    }

    /// A number that no project has. Random, so that ids say nothing of how many there are; 63 bits, as stores keep signed
    /// ones.
    fn new_tenant(&self) -> Result<TenantId, ControlError> {
        loop {
            let mut bytes = [0; 8];
            fill_random(&mut bytes).map_err(no_random)?;
            let tenant = TenantId(u64::from_be_bytes(bytes) >> 1);
            if tenant != OPERATOR && self.directory.project(tenant).is_none() {
                return Ok(tenant);
            }
        }
    }
}

impl From<KeyRow> for KnownKey {
    fn from(row: KeyRow) -> Self {
        Self {
            name: row.name.into(),
            project: row.project,
            hash: row.hash,
            created_at: row.created_at,
        }
    }
}

fn no_random(error: std::io::Error) -> ControlError {
    tracing::error!(%error, "the operating system gives no random numbers");
    ControlError::Store
}
