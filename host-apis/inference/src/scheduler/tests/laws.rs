//! Laws that hold for every script of submissions, outcomes, failures, deaths, departures, models that come and go, and
//! passing time.

use super::super::*;
use crate::plan::DEPTH;
use crate::seed::cases;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Rows of the models there are at first.
const ROWS_MAX: [u32; 2] = [8, 1];
/// Of a tenant, by its number.
const CLASSES: [Class; 5] = [
    Class::Default,
    Class::Flex,
    Class::Priority,
    Class::Default,
    Class::Flex,
];
const DEVICES: usize = 3;
const TENANT_ROWS_MAX: u64 = 30;
const TENANT_REQUESTS_MAX: u64 = 40;

#[derive(Clone, Debug)]
enum Step {
    Push {
        tenant: u64,
        /// One of the models there are.
        model: usize,
        rows: u32,
        shape: u32,
        lives_ms: u64,
    },
    Come {
        rows_max: u32,
    },
    /// One of the models there are.
    Go {
        model: usize,
    },
    /// The caller of one of the latest requests leaves.
    Leave {
        back: u64,
    },
    Pass {
        ms: u64,
    },
    /// The first run in flight on a device ends.
    End {
        device: usize,
        well: bool,
    },
    Die {
        device: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..5_u64, 0..6_usize, 1..=8_u32, 0..2_u32, 1..200_u64).prop_map(
            |(tenant, model, rows, shape, lives_ms)| Step::Push {
                tenant,
                model,
                rows,
                shape,
                lives_ms,
            }
        ),
        1 => prop_oneof![Just(1), Just(8)].prop_map(|rows_max| Step::Come { rows_max }),
        1 => (0..6_usize).prop_map(|model| Step::Go { model }),
        2 => (0..10_u64).prop_map(|back| Step::Leave { back }),
        4 => (0..20_u64).prop_map(|ms| Step::Pass { ms }),
        6 => (0..DEVICES, prop::bool::weighted(0.8)).prop_map(|(device, well)| Step::End { device, well }),
        // One device is left alive, so that everything can come to its end.
        1 => (1..DEVICES).prop_map(|device| Step::Die { device }),
    ]
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Answered,
    Failed,
    Expired,
    Gone,
    /// With its model.
    Unloaded,
    TooLate,
}

/// The scheduler, and all that is known of every request from outside.
struct World {
    scheduler: Scheduler,
    now: Instant,
    /// Most rows of each model there is.
    models: BTreeMap<ModelId, u32>,
    last_model: u32,
    entries: BTreeMap<RequestId, Entry>,
    ends: BTreeMap<RequestId, End>,
    left: HashSet<RequestId>,
    flights: Vec<VecDeque<(Ticket, Vec<RequestId>)>>,
    dead: Vec<bool>,
    /// Since when a device has nothing, if it has nothing.
    idle_since: Vec<Instant>,
    /// Asked back, and not answered yet.
    asked_back: HashSet<Ticket>,
    /// Those that have been on a device.
    begun: HashSet<RequestId>,
    /// Those that are queued.
    queued: BTreeSet<RequestId>,
}

impl World {
    fn new(wait_ms: u64) -> Self {
        let limits = Limits {
            wait_max: Duration::from_millis(wait_ms),
            terms: Terms {
                weight: 1,
                priority: true,
                rows_max: TENANT_ROWS_MAX,
                bytes_max: 1_000,
                requests_max: TENANT_REQUESTS_MAX,
            },
            tenant_shapes_max: 64,
            batch_bytes_max: 60,
            targets: super::TARGETS,
        };
        let mut world = Self {
            scheduler: Scheduler::new(limits, &[DEPTH; DEVICES]),
            now: Instant::now(),
            models: BTreeMap::new(),
            last_model: 0,
            entries: BTreeMap::new(),
            ends: BTreeMap::new(),
            left: HashSet::new(),
            flights: vec![VecDeque::new(); DEVICES],
            dead: vec![false; DEVICES],
            idle_since: vec![Instant::now(); DEVICES],
            asked_back: HashSet::new(),
            begun: HashSet::new(),
            queued: BTreeSet::new(),
        };
        for rows_max in ROWS_MAX {
            world.come(rows_max);
        }
        world
    }

    fn come(&mut self, rows_max: u32) {
        self.last_model += 1;
        let model = ModelId(self.last_model);
        self.models.insert(model, rows_max);
        let devices = (0..DEVICES).filter(|device| !self.dead[*device]);
        self.scheduler
            .add_model(model, rows_max, devices, &CostCurve::default());
    }

    /// What waits ends with its model; nothing of it is left but what is on a device.
    fn go(&mut self, model: ModelId) {
        self.models.remove(&model);
        for id in self.scheduler.remove_model(model) {
            assert_eq!(self.entries[&id].model, model);
            self.end(id, End::Unloaded);
        }
        let on_devices: HashSet<RequestId> = self
            .flights
            .iter()
            .flatten()
            .flat_map(|(_, requests)| requests.iter().copied())
            .collect();
        for entry in self.entries.values().filter(|entry| entry.model == model) {
            let is_over = self.ends.contains_key(&entry.id);
            assert!(is_over || on_devices.contains(&entry.id));
        }
    }

    /// The n-th of the models there are, and its rows.
    fn pick(&self, n: usize) -> Option<(ModelId, u32)> {
        let at = n.checked_rem(self.models.len())?;
        self.models
            .iter()
            .nth(at)
            .map(|(model, rows)| (*model, *rows))
    }

    /// Nothing is answered twice.
    fn end(&mut self, id: RequestId, end: End) {
        self.queued.remove(&id);
        let before = self.ends.insert(id, end);
        assert_eq!(before, None, "{id:?} ended twice");
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Push {
                tenant,
                model,
                rows,
                shape,
                lives_ms,
            } => {
                let Some((model, rows_max)) = self.pick(model) else {
                    return;
                };
                let rows = rows.min(rows_max);
                let entry = Entry {
                    id: RequestId(self.entries.len() as u64),
                    tenant: TenantId(tenant),
                    model,
                    class: CLASSES[tenant as usize % CLASSES.len()],
                    shape: [shape].into(),
                    row_units: 1,
                    rows,
                    bytes: u64::from(rows) * 10,
                    queued_at: self.now,
                    deadline: self.now + Duration::from_millis(lives_ms),
                };
                if self.scheduler.push(self.now, entry.clone()).is_ok() {
                    self.queued.insert(entry.id);
                    self.entries.insert(entry.id, entry);
                }
            }
            Step::Come { rows_max } => self.come(rows_max),
            Step::Go { model } => {
                if let Some((model, _)) = self.pick(model) {
                    self.go(model);
                }
            }
            Step::Leave { back } => {
                let id = (self.entries.len() as u64).checked_sub(back + 1);
                self.left.extend(id.map(RequestId));
            }
            Step::Pass { ms } => self.now += Duration::from_millis(ms),
            Step::End { device, well } => self.end_run(device, well),
            Step::Die { device } => {
                if !self.dead[device] {
                    self.dead[device] = true;
                    self.flights[device].clear();
                    for id in self.scheduler.die(device) {
                        self.fail(id);
                    }
                }
            }
        }
        self.settle();
    }

    fn end_run(&mut self, device: usize, well: bool) {
        let Some((ticket, requests)) = self.flights[device].pop_front() else {
            return;
        };
        if self.flights[device].is_empty() {
            self.idle_since[device] = self.now;
        }
        if self.asked_back.remove(&ticket) {
            for id in self.scheduler.cancelled(self.now, device, ticket) {
                self.end(id, End::Unloaded);
            }
            for id in requests {
                // What had failed before is run again as it is, and not queued.
                let mut retries = self
                    .scheduler
                    .retries
                    .iter()
                    .flat_map(|retry| &retry.entries);
                let is_retry = retries.any(|entry| entry.id == id);
                if !is_retry && !self.ends.contains_key(&id) {
                    self.queued.insert(id);
                }
            }
            return;
        }
        if !well {
            let failed = self.scheduler.fail(self.now, device, ticket);
            let model = self.entries[&requests[0]].model;
            assert!(
                failed.is_empty() || requests.len() == 1 || !self.models.contains_key(&model),
                "only who ran alone may fail"
            );
            for id in failed {
                self.fail(id);
            }
            return;
        }
        let finished = self.scheduler.finish(self.now, device, ticket, 5_000_000);
        let Finished { batch, shares } = finished.expect("the run was in flight");
        assert_eq!(shares.iter().sum::<u64>(), 5_000_000);
        let ids: Vec<RequestId> = batch.entries.iter().map(|entry| entry.id).collect();
        assert_eq!(ids, requests);
        for id in ids {
            if !self.ends.contains_key(&id) {
                self.end(id, End::Answered);
            }
        }
    }

    fn fail(&mut self, id: RequestId) {
        self.end(id, End::Failed);
    }

    /// What the engine does after every event, and the laws that hold then.
    fn settle(&mut self) {
        for id in self.scheduler.expire(self.now) {
            assert!(self.entries[&id].deadline <= self.now);
            self.end(id, End::Expired);
        }
        let in_flight = |world: &Self| world.flights.iter().map(VecDeque::len).sum::<usize>();
        loop {
            let before = in_flight(self);
            for depth in 0..=DEPTH {
                for device in 0..DEVICES {
                    if self.scheduler.in_flight(device) == depth {
                        self.ask(device);
                    }
                }
            }
            if in_flight(self) == before {
                break;
            }
        }
        self.check_bounds();
    }

    fn ask(&mut self, device: usize) {
        let mut gone = Vec::new();
        let (left, ends) = (&self.left, &self.ends);
        let decision = self.scheduler.next(self.now, device, &mut |id| {
            let is_gone = left.contains(&id) || ends.contains_key(&id);
            if is_gone {
                gone.push(id);
            }
            is_gone
        });
        for id in gone {
            if !self.ends.contains_key(&id) {
                self.end(id, End::Gone);
            }
        }
        for TooLate { id, needs, left } in self.scheduler.take_too_late() {
            assert!(needs > left);
            self.end(id, End::TooLate);
        }
        match decision {
            Decision::Run(run) => self.check_run(device, run),
            Decision::Preempt(ticket) => {
                let (last, requests) = self.flights[device].back().expect("something to ask back");
                assert_eq!((ticket, self.flights[device].len()), (*last, DEPTH));
                let is_flex = |id: &RequestId| self.entries[id].class == Class::Flex;
                assert!(requests.iter().all(is_flex), "gives way to its like");
                assert!(self.foreground_waits());
                assert!(self.asked_back.insert(ticket), "asked back twice");
            }
            Decision::WaitUntil(at) => assert!(at > self.now, "waits for the past"),
            Decision::Idle => {}
        }
    }

    fn check_run(&mut self, device: usize, run: Run) {
        assert!(!self.dead[device]);
        let entries: Vec<&Entry> = run.requests.iter().map(|id| &self.entries[id]).collect();
        let first = entries[0];
        let rows: u32 = entries.iter().map(|entry| entry.rows).sum();
        assert!(
            rows <= self.models[&run.model],
            "of a model that is there, and no more than it takes"
        );
        let bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        assert!(entries.len() == 1 || bytes <= 60);
        for entry in &entries {
            assert_eq!((entry.model, &entry.shape), (run.model, &first.shape));
            assert!(entry.deadline > self.now, "runs after its deadline");
            assert!(!self.left.contains(&entry.id), "runs for nobody");
            assert!(!self.ends.contains_key(&entry.id), "runs after its end");
        }
        let is_retry = !self.queued.contains(&first.id);
        if !is_retry {
            self.check_order(device, &entries);
        }
        let entries: Vec<RequestId> = entries.iter().map(|entry| entry.id).collect();
        for id in entries {
            self.begun.insert(id);
            self.queued.remove(&id);
        }
        self.flights[device].push_back((run.ticket, run.requests));
    }

    fn check_bounds(&self) {
        for device in 0..DEVICES {
            assert_eq!(
                self.scheduler.in_flight(device),
                self.flights[device].len(),
                "what is in flight is known on both sides"
            );
            assert!(self.flights[device].len() <= DEPTH);
        }
        for (_, [rows, bytes, requests]) in self.scheduler.loads.each() {
            // What was asked back waits again, beside what came meanwhile: at most a batch of each device.
            let back = 8 * DEVICES as u64;
            assert!(rows <= TENANT_ROWS_MAX + back && bytes <= 1_000 + 10 * back);
            assert!((1..=TENANT_REQUESTS_MAX).contains(&requests));
        }
        let wait = self.scheduler.limits.wait_max;
        // What is content with idle capacity also waits for others to come back.
        let patience = 2 * wait + Duration::from_millis(1);
        for device in 0..DEVICES {
            if self.dead[device] || !self.flights[device].is_empty() {
                continue;
            }
            let foreground_waits = self.foreground_waits();
            // One that is content with idle capacity waits for others.
            let urgent = |entry: &Entry| entry.class != Class::Flex || !foreground_waits;
            let mut retries = self.scheduler.retries.iter();
            let waits = retries.find(|retry| retry.entries.iter().any(urgent));
            assert!(waits.is_none(), "idle beside {waits:?}");
            // And what another device is expected to have done sooner is left to it for as long as a run.
            let alone = self.dead.iter().filter(|dead| !**dead).count() == 1;
            let elsewhere = Duration::from_millis(if alone { 0 } else { 7 });
            let (wait, patience) = (wait + elsewhere, patience + elsewhere);
            for id in &self.queued {
                let entry = &self.entries[id];
                let since = entry.queued_at.max(self.idle_since[device]);
                let waits = self.now - since;
                let longest = match entry.class {
                    Class::Flex if foreground_waits => Duration::MAX,
                    Class::Flex => patience,
                    Class::Default | Class::Priority => wait,
                };
                assert!(waits <= longest, "idle beside {entry:?} for {waits:?}");
            }
        }
    }

    fn foreground_waits(&self) -> bool {
        let class = |id: &RequestId| self.entries[id].class;
        self.queued.iter().any(|id| class(id) != Class::Flex)
    }

    /// Of one tenant, model, class and shape the most urgent goes first; and what is content with idle capacity leads no
    /// batch while anybody else waits.
    fn check_order(&self, device: usize, entries: &[&Entry]) {
        for entry in entries {
            let before = |id: &&RequestId| {
                let other = &self.entries[*id];
                let same = other.flow() == entry.flow()
                    && other.model == entry.model
                    && other.shape == entry.shape;
                same && (other.deadline, other.id) < (entry.deadline, entry.id)
                    && !entries.iter().any(|taken| taken.id == **id)
                    && !self.left.contains(*id)
            };
            let overtaken = self.queued.iter().find(before);
            assert_eq!(overtaken, None, "overtaken by {entry:?}");
        }
        let flex = entries.iter().all(|entry| entry.class == Class::Flex);
        let others = self.queued.iter().map(|id| &self.entries[id]);
        let mut others = others.filter(|entry| entry.class != Class::Flex);
        let wanted = others.find(|entry| !self.left.contains(&entry.id));
        // What another device will have done sooner need not keep this one idle.
        let alone = self.dead.iter().filter(|dead| !**dead).count() == 1;
        if self.flights[device].is_empty() && !alone {
            return;
        }
        assert!(!flex || wanted.is_none(), "in front of {wanted:?}");
    }

    /// Lets everything come to its end.
    fn drain(&mut self) {
        for _ in 0..10_000 {
            self.now += Duration::from_millis(1);
            for device in 0..DEVICES {
                self.end_run(device, true);
            }
            self.settle();
            if self.ends.len() == self.entries.len() && self.flights.iter().all(VecDeque::is_empty)
            {
                break;
            }
        }
        assert_eq!(self.ends.len(), self.entries.len(), "a request is lost");
        let scheduler = &self.scheduler;
        assert_eq!(scheduler.queued_rows(), 0);
        assert_eq!(scheduler.next_deadline(), None);
        assert_eq!(scheduler.loads.each().count(), 0);
        assert!(scheduler.retries.is_empty());
        assert_eq!(scheduler.lanes.in_turn(Tier::Foreground).count(), 0);
        assert_eq!(scheduler.lanes.in_turn(Tier::Idle).count(), 0);
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn nothing_is_lost_or_answered_twice_and_every_bound_holds(
        wait_ms in prop_oneof![Just(0_u64), 1..10_u64],
        script in prop::collection::vec(step(), 1..200),
    ) {
        let mut world = World::new(wait_ms);
        for step in script {
            world.play(step);
        }
        world.drain();
    }

    #[test]
    fn two_backlogged_tenants_differ_in_service_by_less_than_two_of_the_largest_requests(
        rows in prop::collection::vec((1..=8_u32, 1..=8_u32), 60..120),
    ) {
        let mut world = World::new(0);
        world.scheduler.limits.terms = Terms {
            weight: 1,
            priority: true,
            rows_max: u64::MAX,
            bytes_max: u64::MAX,
            requests_max: u64::MAX,
        };
        world.scheduler.limits.batch_bytes_max = u64::MAX;
        let mut served = [0_u64; 2];
        let mut waiting = [0_usize; 2];
        for (id, (a, b)) in (0..).step_by(2).zip(&rows) {
            for (at, rows) in [(0, *a), (1, *b)] {
                let entry = Entry {
                    id: RequestId(id + at as u64),
                    tenant: TenantId(at as u64),
                    model: ModelId(1),
                    class: Class::Default,
                    shape: Shape::default(),
                    row_units: 1,
                    rows,
                    bytes: 1,
                    queued_at: world.now,
                    deadline: world.now + Duration::from_secs(60),
                };
                waiting[at] += 1;
                world.entries.insert(entry.id, entry.clone());
                world.scheduler.push(world.now, entry).unwrap();
            }
        }
        while waiting.iter().all(|waiting| *waiting > 0) {
            let decision = world.scheduler.next(world.now, 0, &mut |_| false);
            let Decision::Run(run) = decision else {
                panic!("a device is idle beside a backlog");
            };
            for id in &run.requests {
                let entry = &world.entries[id];
                let at = usize::from(entry.tenant == TenantId(1));
                served[at] += u64::from(entry.rows);
                waiting[at] -= 1;
            }
            let rows: u32 = run.requests.iter().map(|id| world.entries[id].rows).sum();
            let device_ns = 1_000_000 * u64::from(rows);
            world.now += Duration::from_nanos(device_ns);
            world.scheduler.finish(world.now, 0, run.ticket, device_ns);
            // Within one run a batch may be topped up with what fits, so the bound is that of two requests.
            prop_assert!(served[0].abs_diff(served[1]) <= 2 * 8, "{:?}", served);
        }
    }
}
