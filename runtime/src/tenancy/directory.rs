//! Projects and keys as a node knows them now: a copy of the store's rows, asked on the path of every request.

use super::key::{ApiKey, KeyHash, KeyId};
use super::limits::ProjectLimits;
use super::{Access, Caller};
use crate::sandbox::Tenant;
use dashmap::DashMap;
use shoal_inference::TenantId;
use std::sync::Arc;

/// A project: a tenant with a name.
#[derive(Debug)]
pub(crate) struct Project {
    /// As it stands in paths and host names.
    pub(crate) name: Arc<str>,
    /// What its guests are counted by.
    pub(crate) tenant: Arc<Tenant>,
    /// Unix seconds.
    pub(crate) created_at: u64,
}

impl Project {
    /// As the API names it.
    pub(crate) fn id(&self) -> String {
        format!("proj_{:016x}", self.tenant.id.0)
    }
}

/// A key that is valid.
#[derive(Clone, Debug)]
pub(crate) struct KnownKey {
    /// What its owner called it.
    pub(crate) name: Box<str>,
    /// `None`: the operator's.
    pub(crate) project: Option<TenantId>,
    pub(crate) hash: KeyHash,
    /// Unix seconds.
    pub(crate) created_at: u64,
}

/// All of a node's projects and keys.
#[derive(Debug)]
pub(crate) struct Directory {
    access: Access,
    projects: DashMap<TenantId, Arc<Project>>,
    names: DashMap<Box<str>, TenantId>,
    /// Of those projects that have any.
    limits: DashMap<TenantId, ProjectLimits>,
    keys: DashMap<KeyId, KnownKey>,
}

impl Directory {
    pub(crate) fn new(access: Access) -> Self {
        Self {
            access,
            projects: DashMap::new(),
            names: DashMap::new(),
            limits: DashMap::new(),
            keys: DashMap::new(),
        }
    }

    /// Whether a call needs a key.
    pub(crate) fn access(&self) -> Access {
        self.access
    }

    /// Who holds this key; `None` for a key that is wrong, unknown or revoked.
    pub(crate) fn caller(&self, key: &str) -> Option<Caller> {
        let key = ApiKey::parse(key)?;
        let known = self.keys.get(key.id())?;
        // Compared in constant time: the type's own comparison.
        if known.hash != key.hash() {
            return None;
        }
        let id = key.id().clone();
        match known.project {
            None => Some(Caller::Admin { key: Some(id) }),
            Some(tenant) => self
                .project(tenant)
                .map(|project| Caller::Project { project, key: id }),
        }
    }

    pub(crate) fn project(&self, tenant: TenantId) -> Option<Arc<Project>> {
        self.projects.get(&tenant).map(|project| project.clone())
    }

    /// By its name, or by the id that [`Project::id`] gives. No name looks like an id: names have no underscore.
    pub(crate) fn find(&self, project: &str) -> Option<Arc<Project>> {
        let tenant = match project.strip_prefix("proj_") {
            Some(digits) => TenantId(u64::from_str_radix(digits, 16).ok()?),
            None => *self.names.get(project)?,
        };
        self.project(tenant)
    }

    /// Every project, the oldest first.
    pub(crate) fn projects(&self) -> Vec<Arc<Project>> {
        let mut all: Vec<Arc<Project>> = self.projects.iter().map(|p| p.value().clone()).collect();
        all.sort_by(|a, b| (a.created_at, &a.name).cmp(&(b.created_at, &b.name)));
        all
    }

    /// Every key of a project, or the operator's; the oldest first.
    pub(crate) fn keys(&self, of: Option<TenantId>) -> Vec<(KeyId, KnownKey)> {
        let own = self.keys.iter().filter(|key| key.project == of);
        let mut own: Vec<_> = own
            .map(|key| (key.key().clone(), key.value().clone()))
            .collect();
        own.sort_by(|a, b| (a.1.created_at, &a.0).cmp(&(b.1.created_at, &b.0)));
        own
    }

    /// The id of every key.
    pub(crate) fn key_ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(|key| key.key().clone()).collect()
    }

    pub(crate) fn key(&self, id: &KeyId) -> Option<KnownKey> {
        self.keys.get(id).map(|key| key.clone())
    }

    /// Adds a project; one that is known already keeps its tenant, and so its guests' account.
    pub(crate) fn put_project(&self, name: &str, tenant: TenantId, created_at: u64) {
        self.names.insert(name.into(), tenant);
        self.projects.entry(tenant).or_insert_with(|| {
            Arc::new(Project {
                name: name.into(),
                tenant: Tenant::new(tenant),
                created_at,
            })
        });
    }

    /// What the operator set for a project.
    pub(crate) fn limits(&self, tenant: TenantId) -> ProjectLimits {
        let limits = self.limits.get(&tenant);
        limits.map(|limits| *limits).unwrap_or_default()
    }

    /// Whether that is anything else than before.
    pub(crate) fn put_limits(&self, tenant: TenantId, limits: ProjectLimits) -> bool {
        let before = if limits == ProjectLimits::default() {
            self.limits.remove(&tenant).map(|(_, before)| before)
        } else {
            self.limits.insert(tenant, limits)
        };
        before.unwrap_or_default() != limits
    }

    pub(crate) fn put_key(&self, id: KeyId, key: KnownKey) {
        self.keys.insert(id, key);
    }

    pub(crate) fn remove_key(&self, id: &KeyId) {
        self.keys.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> Directory {
        let directory = Directory::new(Access::Keys);
        directory.put_project("acme", TenantId(7), 1);
        directory
    }

    fn add(directory: &Directory, project: Option<TenantId>) -> ApiKey {
        let key = ApiKey::random().unwrap();
        let known = KnownKey {
            name: "test".into(),
            project,
            hash: key.hash(),
            created_at: 1,
        };
        directory.put_key(key.id().clone(), known);
        key
    }

    #[test]
    fn a_key_says_who_its_holder_is() {
        let directory = directory();
        let (own, admin) = (add(&directory, Some(TenantId(7))), add(&directory, None));
        let caller = directory.caller(&own.reveal()).unwrap();
        assert!(caller.may_act_for(TenantId(7)) && !caller.may_act_for(TenantId(8)));
        assert!(matches!(
            directory.caller(&admin.reveal()),
            Some(Caller::Admin { key: Some(id) }) if id == *admin.id()
        ));
    }

    #[test]
    fn a_wrong_secret_an_unknown_id_and_a_revoked_key_are_nobody() {
        let directory = directory();
        let (own, other) = (
            add(&directory, Some(TenantId(7))),
            ApiKey::random().unwrap(),
        );
        let (own_text, other_text) = (own.reveal(), other.reveal());
        let (own_id, _) = own_text.rsplit_once('-').unwrap();
        let (_, other_secret) = other_text.rsplit_once('-').unwrap();
        assert!(
            directory
                .caller(&format!("{own_id}-{other_secret}"))
                .is_none()
        );
        assert!(directory.caller(&other_text).is_none());
        directory.remove_key(own.id());
        assert!(directory.caller(&own_text).is_none());
    }

    #[test]
    fn a_project_is_found_by_name_and_by_id() {
        let directory = directory();
        let project = directory.find("acme").unwrap();
        assert_eq!(project.id(), "proj_0000000000000007");
        assert!(Arc::ptr_eq(
            &project,
            &directory.find(&project.id()).unwrap()
        ));
        for absent in ["birch", "proj_0000000000000008", "proj_x", "proj_", ""] {
            assert!(directory.find(absent).is_none(), "{absent}");
        }
    }

    #[test]
    fn a_project_that_is_put_again_keeps_its_account() {
        let directory = directory();
        let before = directory.find("acme").unwrap();
        directory.put_project("acme", TenantId(7), 1);
        assert!(Arc::ptr_eq(&before, &directory.find("acme").unwrap()));
    }
}
