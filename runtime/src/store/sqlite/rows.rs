//! The statements, and what their failures mean. There is one rule: a full disk is the group's failure, anything else is the
//! store's, for who has seen a write or a sync fail does not know what the disk holds.

use super::Stopped;
use super::thread::Commit;
use crate::store::feed::Event;
use crate::store::{Kind, Listing, Op, Revision, Row, RowKey, StoreError};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Statement, params};
use shoal_inference::TenantId;

/// The tables. One tree holds all rows in the order in which they are listed, so that a page of them is one read in order.
pub(super) const SCHEMA: &str = "
    CREATE TABLE rows (
        kind TEXT NOT NULL,
        tenant INTEGER NOT NULL,
        name TEXT NOT NULL,
        revision INTEGER NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (kind, tenant, name)
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE head (revision INTEGER NOT NULL) STRICT;
    INSERT INTO head VALUES (0);
";

/// The rows of a file that nobody else writes.
pub(super) struct Rows<'c> {
    connection: &'c Connection,
    revision: Revision,
    stopped: Stopped,
    get: Statement<'c>,
    get_revision: Statement<'c>,
    list: Statement<'c>,
    put: Statement<'c>,
    delete: Statement<'c>,
    set_head: Statement<'c>,
}

impl<'c> Rows<'c> {
    /// Whatever stops them is put into `stopped`.
    pub(super) fn prepare(
        connection: &'c Connection,
        stopped: Stopped,
    ) -> Result<Self, StoreError> {
        Self::try_prepare(connection, stopped.clone()).map_err(|error| failure(&stopped, &error))
    }

    fn try_prepare(connection: &'c Connection, stopped: Stopped) -> rusqlite::Result<Self> {
        let prepare = |sql| connection.prepare(sql);
        let revision: i64 =
            connection.query_row("SELECT revision FROM head", [], |row| row.get(0))?;
        Ok(Self {
            connection,
            revision: Revision(revision.cast_unsigned()),
            stopped,
            get: prepare(
                "SELECT revision, value FROM rows WHERE kind = ?1 AND tenant = ?2 AND name = ?3",
            )?,
            get_revision: prepare(
                "SELECT revision FROM rows WHERE kind = ?1 AND tenant = ?2 AND name = ?3",
            )?,
            list: prepare(
                "SELECT tenant, name, revision, value FROM rows
                 WHERE kind = ?1 AND (tenant, name) >= (?2, ?3) AND tenant <= ?4
                 ORDER BY tenant, name LIMIT ?5",
            )?,
            put: prepare("INSERT OR REPLACE INTO rows VALUES (?1, ?2, ?3, ?4, ?5)")?,
            delete: prepare("DELETE FROM rows WHERE kind = ?1 AND tenant = ?2 AND name = ?3")?,
            set_head: prepare("UPDATE head SET revision = ?1")?,
        })
    }

    /// The last commit.
    pub(super) fn revision(&self) -> Result<Revision, StoreError> {
        self.alive()?;
        Ok(self.revision)
    }

    pub(super) fn get(&mut self, key: RowKey) -> Result<Option<Row>, StoreError> {
        self.alive()?;
        let place = params![key.kind.as_str(), tenant_in(key.tenant), key.name];
        let found = self
            .get
            .query_row(place, |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .map_err(|error| failure(&self.stopped, &error))?;
        Ok(found.map(|(revision, value)| Row {
            key,
            revision: revision_out(revision),
            value,
        }))
    }

    pub(super) fn list(&mut self, listing: &Listing) -> Result<Vec<Row>, StoreError> {
        self.alive()?;
        let (tenant, name) = listing.first();
        let bounds = params![
            listing.kind.as_str(),
            tenant_in(tenant),
            name,
            tenant_in(listing.last()),
            i64::try_from(listing.limit).unwrap_or(i64::MAX),
        ];
        let rows = self
            .list
            .query_map(bounds, |row| listed(listing.kind, row))
            .and_then(Iterator::collect);
        rows.map_err(|error| failure(&self.stopped, &error))
    }

    /// Commits a group, durably: for each its event, or the row that is not as it expected. On a failure none has happened,
    /// and so nothing may be concluded from the others' outcomes either.
    pub(super) fn commit(
        &mut self,
        group: Vec<Commit>,
    ) -> Result<Vec<Result<Event, RowKey>>, StoreError> {
        self.alive()?;
        let before = self.revision;
        self.try_commit(group).map_err(|error| {
            self.revision = before;
            let failed = failure(&self.stopped, &error);
            // SQLite has often rolled back by then.
            if self.connection.is_autocommit() || self.connection.execute_batch("ROLLBACK").is_ok()
            {
                return failed;
            }
            stop(&self.stopped, "a failed commit cannot be taken back")
        })
    }

    fn try_commit(&mut self, group: Vec<Commit>) -> rusqlite::Result<Vec<Result<Event, RowKey>>> {
        let before = self.revision;
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let outcomes = group.into_iter().map(|commit| self.apply(commit));
        let outcomes = outcomes.collect::<rusqlite::Result<_>>()?;
        if self.revision != before {
            self.set_head.execute([revision_in(self.revision)])?;
        }
        self.connection.execute_batch("COMMIT")?;
        Ok(outcomes)
    }

    /// No savepoint: its checks come before its operations, and an operation fails only with the whole group.
    fn apply(&mut self, commit: Commit) -> rusqlite::Result<Result<Event, RowKey>> {
        for check in commit.checks {
            let (key, expected) = check.expected();
            let place = params![key.kind.as_str(), tenant_in(key.tenant), key.name];
            let found = self
                .get_revision
                .query_row(place, |row| row.get(0))
                .optional()?;
            if found.map(revision_out) != expected {
                return Ok(Err(key));
            }
        }
        self.revision.0 += 1;
        for op in &commit.ops {
            match op {
                Op::Put(key, value) => self.put.execute(params![
                    key.kind.as_str(),
                    tenant_in(key.tenant),
                    key.name,
                    revision_in(self.revision),
                    value
                ])?,
                Op::Delete(key) => self.delete.execute(params![
                    key.kind.as_str(),
                    tenant_in(key.tenant),
                    key.name
                ])?,
            };
        }
        Ok(Ok(Event::new(self.revision, commit.ops)))
    }

    fn alive(&self) -> Result<(), StoreError> {
        match self.stopped.get() {
            Some(why) => Err(StoreError::Stopped(why.clone())),
            None => Ok(()),
        }
    }
}

fn failure(stopped: &Stopped, error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full,
        _ => stop(stopped, &error.to_string()),
    }
}

/// Only the first reason counts: what follows is its consequence.
fn stop(stopped: &Stopped, why: &str) -> StoreError {
    StoreError::Stopped(stopped.get_or_init(|| why.to_owned()).clone())
}

fn listed(kind: Kind, row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        key: RowKey {
            tenant: tenant_out(row.get(0)?),
            kind,
            name: row.get(1)?,
        },
        revision: revision_out(row.get(2)?),
        value: row.get(3)?,
    })
}

/// SQLite's integers are signed: with the highest bit turned over they have the order that tenants have.
fn tenant_in(tenant: TenantId) -> i64 {
    (tenant.0 ^ 1 << 63).cast_signed()
}

fn tenant_out(stored: i64) -> TenantId {
    TenantId(stored.cast_unsigned() ^ 1 << 63)
}

/// Revisions count from 0 and never get that far.
fn revision_in(revision: Revision) -> i64 {
    revision.0.cast_signed()
}

fn revision_out(stored: i64) -> Revision {
    Revision(stored.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Check, OPERATOR};

    fn key(name: &str) -> RowKey {
        RowKey {
            tenant: OPERATOR,
            kind: Kind::Model,
            name: name.to_owned(),
        }
    }

    /// Creates a row with so many bytes.
    fn create(name: &str, bytes: usize) -> Commit {
        Commit {
            checks: vec![Check::Absent(key(name))],
            ops: vec![Op::Put(key(name), vec![0; bytes])],
        }
    }

    fn connection() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        connection
    }

    #[test]
    fn a_commit_sees_those_before_it_in_its_group() {
        let connection = connection();
        let mut rows = Rows::prepare(&connection, Stopped::default()).unwrap();
        let group = vec![create("a", 1), create("a", 2), create("b", 3)];
        let outcomes = rows.commit(group).unwrap();
        let revisions: Vec<Result<u64, RowKey>> = outcomes
            .into_iter()
            .map(|outcome| outcome.map(|event| event.revision.0))
            .collect();
        assert_eq!(revisions, [Ok(1), Err(key("a")), Ok(2)]);
        assert_eq!(rows.get(key("a")).unwrap().unwrap().value.len(), 1);
        assert_eq!(rows.revision(), Ok(Revision(2)));
        // As the next start finds them.
        let rows = Rows::prepare(&connection, Stopped::default()).unwrap();
        assert_eq!(rows.revision(), Ok(Revision(2)));
    }

    #[test]
    fn a_full_disk_fails_the_whole_group_and_leaves_nothing_of_it() {
        let connection = connection();
        connection
            .pragma_update(None, "max_page_count", 20)
            .unwrap();
        let mut rows = Rows::prepare(&connection, Stopped::default()).unwrap();
        // The third would be told of a conflict with the first, which has not happened.
        let group = vec![create("a", 1), create("b", 100_000), create("a", 1)];
        assert_eq!(rows.commit(group), Err(StoreError::Full));
        assert_eq!(rows.get(key("a")), Ok(None));
        let outcomes = rows.commit(vec![create("a", 1)]).unwrap();
        assert_eq!(outcomes[0].as_ref().unwrap().revision, Revision(1));
    }

    #[test]
    fn any_other_failure_of_a_commit_stops_the_store() {
        let connection = connection();
        let stopped = Stopped::default();
        let mut rows = Rows::prepare(&connection, stopped.clone()).unwrap();
        connection.pragma_update(None, "query_only", true).unwrap();
        let why = "attempt to write a readonly database".to_owned();
        let error = StoreError::Stopped(why.clone());
        assert_eq!(rows.commit(vec![create("a", 1)]), Err(error.clone()));
        assert_eq!(stopped.get(), Some(&why));
        connection.pragma_update(None, "query_only", false).unwrap();
        assert_eq!(rows.commit(vec![create("a", 1)]), Err(error.clone()));
        assert_eq!(rows.revision(), Err(error.clone()));
        assert_eq!(rows.get(key("a")), Err(error));
    }
}
