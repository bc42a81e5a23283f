//! What a seed stands for: who asks for what, when, and what goes wrong.

use shoal_inference::{Class, Fault};
use std::time::Duration;

/// One play.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) kind: Kind,
    pub(crate) depth: usize,
    /// What goes wrong on each device; as many devices as there are lists.
    pub(crate) faults: Vec<Vec<Fault>>,
    pub(crate) launch: Duration,
    pub(crate) per_row: Duration,
    pub(crate) rows_max: u32,
    pub(crate) wait_max: Duration,
    /// Rows that a tenant may queue.
    pub(crate) tenant_rows_max: u32,
    pub(crate) tenants: Vec<TenantPlan>,
}

/// What is looked at beside what always holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anything may happen.
    Any,
    /// All tenants have work from the first instant on.
    Backlog,
    /// The first tenant has work all the time, the others come at once.
    Quiet,
    /// The first has work all the time; the second has a little, is away, and comes back with much.
    Comeback,
}

/// A tenant; its number is its place in the list, from 1.
#[derive(Clone, Debug)]
pub(crate) struct TenantPlan {
    pub(crate) weight: u32,
    pub(crate) class: Class,
    pub(crate) asks: Vec<Ask>,
}

impl TenantPlan {
    /// The class it is served in.
    pub(crate) fn served(&self) -> Class {
        if self.weight == 0 {
            Class::Flex
        } else {
            self.class
        }
    }
}

/// One request, or several of the same kind one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) at: Duration,
    /// Asked so often, each as soon as the one before was answered.
    pub(crate) times: u32,
    pub(crate) rows: u32,
    /// The size that the model leaves open.
    pub(crate) length: u32,
    pub(crate) lives: Duration,
    /// The caller leaves then.
    pub(crate) leaves: Option<Duration>,
    /// The device fails every batch that it is in.
    pub(crate) poison: bool,
}

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);

impl Ask {
    fn rows_at(rows: u32, at: Duration) -> Self {
        Self {
            at,
            times: 1,
            rows,
            length: 1,
            lives: MINUTE,
            leaves: None,
            poison: false,
        }
    }
}

impl Scenario {
    pub(crate) fn new(seed: u64, depth: usize) -> Self {
        let mut dice = Dice(seed);
        let mut scenario = Self {
            kind: match seed % 4 {
                0 | 1 => Kind::Any,
                2 => Kind::Backlog,
                _ if dice.one_in(2) => Kind::Quiet,
                _ => Kind::Comeback,
            },
            depth,
            faults: vec![Vec::new()],
            launch: MS * dice.below(10) as u32,
            per_row: Duration::from_micros(10 + dice.below(1_000)),
            rows_max: dice.pick(&[1, 4, 8, 16]),
            wait_max: dice.pick(&[Duration::ZERO, 5 * MS]),
            tenant_rows_max: 4_096,
            tenants: Vec::new(),
        };
        match scenario.kind {
            Kind::Any => scenario.anything(&mut dice),
            Kind::Backlog => scenario.backlog(&mut dice),
            Kind::Quiet => scenario.quiet(&mut dice),
            Kind::Comeback => scenario.comeback(&mut dice),
        }
        scenario
    }

    /// Time of a full run.
    pub(crate) fn full_run(&self) -> Duration {
        self.launch + self.per_row * self.rows_max
    }

    fn anything(&mut self, dice: &mut Dice) {
        self.tenant_rows_max = self.rows_max.max(dice.pick(&[16, 64, 4_096]));
        if dice.one_in(2) {
            self.faults.push(Vec::new());
        }
        if dice.one_in(3) {
            let run = 1 + dice.below(10);
            let fault = dice.pick(&[Fault::FailRun(run), Fault::OutOfMemoryRun(run)]);
            self.faults[0].push(fault);
        }
        if let Some(second) = self.faults.get_mut(1)
            && dice.one_in(3)
        {
            second.push(Fault::DieRun(1 + dice.below(10)));
        }
        let poison = dice.one_in(4);
        if poison {
            for faults in &mut self.faults {
                faults.push(Fault::FailPoison);
            }
        }
        for _ in 0..1 + dice.below(5) {
            let asks = (0..1 + dice.below(12)).map(|_| self.any_ask(dice, poison));
            let asks = asks.collect();
            self.tenants.push(TenantPlan {
                weight: dice.pick(&[0, 1, 1, 1, 3]),
                class: dice.pick(&[Class::Default, Class::Default, Class::Priority, Class::Flex]),
                asks,
            });
        }
    }

    fn any_ask(&self, dice: &mut Dice, poison: bool) -> Ask {
        let largest = if dice.one_in(8) {
            3 * self.rows_max.min(self.tenant_rows_max / 3)
        } else {
            self.rows_max
        };
        let poison = poison && dice.one_in(10);
        Ask {
            at: MS * dice.below(60) as u32,
            times: dice.pick(&[1, 1, 1, 4]),
            rows: if dice.one_in(2) {
                1
            } else {
                1 + dice.below(largest.max(1).into()) as u32
            },
            // One value spoils it, another says whose it is.
            length: if poison { 2 } else { dice.pick(&[1, 1, 1, 2]) },
            lives: if dice.one_in(5) {
                MS * (1 + dice.below(40) as u32)
            } else {
                MINUTE
            },
            leaves: dice.one_in(8).then(|| MS * dice.below(30) as u32),
            poison,
        }
    }

    fn backlog(&mut self, dice: &mut Dice) {
        for _ in 0..2 + dice.below(3) {
            let asks = (0..40).map(|_| {
                let rows = 1 + dice.below(u64::from(self.rows_max).min(3)) as u32;
                Ask::rows_at(rows, Duration::ZERO)
            });
            let asks = asks.collect();
            self.tenants.push(TenantPlan {
                weight: dice.pick(&[1, 2, 3]),
                class: Class::Default,
                asks,
            });
        }
    }

    fn quiet(&mut self, dice: &mut Dice) {
        let plan = |asks| TenantPlan {
            weight: 1,
            class: Class::Default,
            asks,
        };
        let flood = (0..20 * self.rows_max).map(|_| Ask::rows_at(1, Duration::ZERO));
        self.tenants.push(plan(flood.collect()));
        let at = self.full_run() * 3 + MS * dice.below(20) as u32;
        for _ in 0..1 + dice.below(2 * u64::from(self.rows_max)) {
            self.tenants.push(plan(vec![Ask::rows_at(1, at)]));
        }
    }

    fn comeback(&mut self, dice: &mut Dice) {
        let plan = |asks| TenantPlan {
            weight: 1,
            class: Class::Default,
            asks,
        };
        let always = (0..20 * self.rows_max).map(|_| Ask::rows_at(1, Duration::ZERO));
        self.tenants.push(plan(always.collect()));
        let mut asks = vec![Ask::rows_at(1, Duration::ZERO)];
        let back = self.full_run() * (4 + dice.below(4) as u32);
        asks.extend((0..4 * self.rows_max).map(|_| Ask::rows_at(1, back)));
        self.tenants.push(plan(asks));
    }
}

/// Numbers from a seed (SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}
