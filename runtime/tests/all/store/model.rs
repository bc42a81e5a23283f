//! Every kind of store beside a map: random commits, reads and listings have the same answers.

#[path = "../../../../host-apis/inference/tests/all/support/seed.rs"]
mod seed;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use shoal::store::{
    AnyStore, Change, Check, CommitError, Event, Kind, Listing, MemoryStore, Op, Revision, Row,
    RowKey, SqliteStore, Store as _,
};
use shoal_inference::TenantId;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Guess>, Vec<Op>),
    Get(RowKey),
    List(Listing),
}

/// A check that holds or not, whatever is there when it comes.
#[derive(Clone, Debug)]
enum Guess {
    Right(RowKey),
    Absent(RowKey),
    At(RowKey, u64),
}

/// What a store is.
#[derive(Default)]
struct Model {
    rows: BTreeMap<RowKey, (Revision, Vec<u8>)>,
    events: Vec<Event>,
}

impl Model {
    fn row(&self, key: &RowKey) -> Option<Row> {
        let (revision, value) = self.rows.get(key)?;
        Some(Row {
            key: key.clone(),
            revision: *revision,
            value: value.clone(),
        })
    }

    fn check(&self, guess: Guess) -> Check {
        match guess {
            Guess::Right(key) => match self.rows.get(&key) {
                Some((revision, _)) => Check::At(key, *revision),
                None => Check::Absent(key),
            },
            Guess::Absent(key) => Check::Absent(key),
            Guess::At(key, revision) => Check::At(key, Revision(revision)),
        }
    }

    fn commit(&mut self, checks: &[Check], ops: &[Op]) -> Result<Revision, CommitError> {
        for check in checks {
            let (key, holds) = match check {
                Check::Absent(key) => (key, !self.rows.contains_key(key)),
                Check::At(key, revision) => {
                    let found = self.rows.get(key);
                    (key, found.is_some_and(|(found, _)| found == revision))
                }
            };
            if !holds {
                return Err(CommitError::Conflict(key.clone()));
            }
        }
        let revision = Revision(self.events.len() as u64 + 1);
        let mut named = BTreeSet::new();
        for op in ops {
            match op {
                Op::Put(key, value) => {
                    named.insert(key);
                    self.rows.insert(key.clone(), (revision, value.clone()));
                }
                Op::Delete(key) => {
                    named.insert(key);
                    self.rows.remove(key);
                }
            }
        }
        let change = |key: &RowKey| Change {
            key: key.clone(),
            row: self.row(key),
        };
        let changes = named.into_iter().map(change).collect();
        self.events.push(Event { revision, changes });
        Ok(revision)
    }

    fn list(&self, listing: &Listing) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .rows
            .keys()
            .filter(|key| key.kind == listing.kind)
            .filter(|key| listing.tenant.is_none_or(|tenant| key.tenant == tenant))
            .filter(|key| {
                let place = (key.tenant, key.name.clone());
                listing.after.as_ref().is_none_or(|after| place > *after)
            })
            .filter_map(|key| self.row(key))
            .collect();
        rows.sort_by(|a, b| (a.key.tenant, &a.key.name).cmp(&(b.key.tenant, &b.key.name)));
        rows.truncate(listing.limit);
        rows
    }
}

fn tenants() -> impl Strategy<Value = TenantId> {
    prop_oneof![Just(0), Just(1), Just(1 << 63), Just(u64::MAX)].prop_map(TenantId)
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Function), Just(Kind::Version)]
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![Just(""), Just("a"), Just("a\0"), Just("b")].prop_map(str::to_owned)
}

fn keys() -> impl Strategy<Value = RowKey> {
    (tenants(), kinds(), names()).prop_map(|(tenant, kind, name)| RowKey { tenant, kind, name })
}

fn guesses() -> impl Strategy<Value = Guess> {
    prop_oneof![
        8 => keys().prop_map(Guess::Right),
        1 => keys().prop_map(Guess::Absent),
        1 => (keys(), 0..40_u64).prop_map(|(key, revision)| Guess::At(key, revision)),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (keys(), vec(any::<u8>(), 0..4)).prop_map(|(key, value)| Op::Put(key, value)),
        1 => keys().prop_map(Op::Delete),
    ]
}

fn listings() -> impl Strategy<Value = Listing> {
    let after = option::of((tenants(), names()));
    (kinds(), option::of(tenants()), after, 0..20_usize).prop_map(|(kind, tenant, after, limit)| {
        Listing {
            kind,
            tenant,
            after,
            limit,
        }
    })
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (vec(guesses(), 0..3), vec(ops(), 0..5))
            .prop_map(|(guesses, ops)| Step::Commit(guesses, ops)),
        1 => keys().prop_map(Step::Get),
        2 => listings().prop_map(Step::List),
    ]
}

async fn play(store: AnyStore, steps: Vec<Step>) {
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Commit(guesses, ops) => {
                let checks: Vec<Check> = guesses.into_iter().map(|g| model.check(g)).collect();
                let expected = model.commit(&checks, &ops);
                assert_eq!(store.commit(checks, ops).await, expected);
            }
            Step::Get(key) => assert_eq!(store.get(key.clone()).await, Ok(model.row(&key))),
            Step::List(listing) => {
                let expected = model.list(&listing);
                assert_eq!(store.list(listing).await, Ok(expected));
            }
        }
    }
    let last = Revision(model.events.len() as u64);
    assert_eq!(store.revision().await, Ok(last));
    let mut watch = store.watch(Revision(0));
    for event in model.events {
        assert_eq!(watch.next().await, Some(Ok(event)));
    }
}

proptest! {
    #![proptest_config(seed::cases(16))]

    #[test]
    fn every_store_answers_as_a_map_does(steps in vec(steps(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            play(MemoryStore::new().into(), steps.clone()).await;
            let dir = tempfile::tempdir().unwrap();
            let store = SqliteStore::open(&dir.path().join("store.db")).unwrap();
            play(store.into(), steps).await;
        });
    }
}
