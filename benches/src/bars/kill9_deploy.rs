//! `kill9-deploy`: 300 times SIGKILL, at a moment that follows from the seed, to a node that is told to deploy and is called.
//! Started again on its data, it is ready within 1 s (99th percentile), and serves each function as it was deployed: what was
//! answered is not lost, and nothing is half there.
//!
//! Four connections deploy without a pause: three a function each that they share with nobody, the fourth a function that is
//! new in each round. What they deploy is one of eight components whose code the node has, or one that it has to compile. So
//! after a kill each function must have the last version whose deploy was answered, or the one that was on its way; its
//! component must be the one that was sent as that version; and a call must give the answer that is this component's alone.
//!
//! A kill takes the process, not the machine: what the kernel has, the disk gets. Deploys are answered when they are on disk
//! (fsync), which is part of what they take here, and not part of what this shows.

use crate::bar::{Figure, Outcome, Run, Target};
use crate::exchange::Exchange;
use crate::greetings::Greeting;
use crate::machine::{judge_timed, load_average};
use crate::node::{Admin, Home, Live, Served};
use crate::random::draw;
use crate::samples::Samples;
use bytes::Bytes;
use http::{Method, StatusCode};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

const READY_MS_MAX: f64 = 1_000.0;
const PROJECT: &str = "acme";
const LASTING: [&str; 3] = ["one", "two", "three"];
const CALLERS: usize = 4;
/// Components whose code the node has from the start on.
const KNOWN: u32 = 8;
/// One deploy of so many is of a component that the node has not seen,
const NEW_OF: u64 = 8;
/// and so many are there for each function in each round. A compile takes so long that few come to their turn.
const NEW_OF_A_ROUND: u32 = 16;
/// Kills come within so long after the first deploy of a round,
const MOMENT_MAX: Duration = Duration::from_millis(100);
/// and in one round of `LONG_OF` within so long, so that a compile may come to its end.
const LONG_MOMENT_MAX: Duration = Duration::from_secs(3);
const LONG_OF: u64 = 10;

/// A version of a function, by what was sent for it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    number: u32,
    greeting: Greeting,
    digest: String,
}

/// What is known of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Function {
    name: String,
    /// The last version whose deploy was answered.
    answered: Option<Version>,
    /// The one that was sent and not answered.
    sent: Option<Version>,
}

/// What a node says of a function after a kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// As it was deployed.
    Right,
    /// As it was deployed without anybody being told.
    Unanswered,
    /// A deploy that was answered is not there.
    Lost,
    /// Not what was deployed under this version.
    Half,
    /// Not there, and never was.
    Absent,
}

/// What was found after all kills.
#[derive(Debug, Default)]
struct Found {
    lost: u64,
    half: u64,
    /// Answers while the node ran that are no component's.
    wrong: u64,
    answers: u64,
    answered: u64,
    unanswered: u64,
    ready: Vec<Duration>,
}

pub(super) async fn measure(run: &Run) -> anyhow::Result<Outcome> {
    let kills = if run.quick { 30 } else { 300 };
    let load = load_average()?;
    let mut home = Home::new()?;
    let mut node = home.start().await?;
    let mut functions = prepare(&node).await?;
    let mut found = Found::default();
    for round in 0..kills {
        functions.push(Function {
            name: format!("round-{round}"),
            ..Function::default()
        });
        run_and_kill(node, &mut functions, Round(run.seed, round), &mut found).await?;
        node = home.start().await?;
        found.ready.push(node.ready_after);
        check(&node, &mut functions, &mut found).await?;
        if found.lost + found.half > 0 {
            // From here on nobody knows what should be there.
            break;
        }
    }
    node.stop().await?;
    let load = load.max(load_average()?);
    Ok(found.outcome(run, load))
}

/// Makes the node know its components, and the functions that last.
async fn prepare(node: &Served) -> anyhow::Result<Vec<Function>> {
    let mut admin = node.admin().await?;
    admin.make_project(PROJECT).await?;
    let mut functions: Vec<Function> = LASTING
        .map(|name| Function {
            name: name.to_owned(),
            ..Function::default()
        })
        .into();
    for n in 0..KNOWN {
        let function = &mut functions[n as usize % LASTING.len()];
        function.deploy(&mut admin, Greeting(n)).await?;
    }
    Ok(functions)
}

/// One round, by the seed and its number.
#[derive(Clone, Copy)]
struct Round(u64, u32);

impl Round {
    /// Of the connection `lane`, the `at`th number.
    fn draw(self, lane: u32, at: u64) -> u64 {
        let Self(seed, round) = self;
        draw(draw(seed, u64::from(round * 8 + lane)), at)
    }

    fn moment(self) -> Duration {
        const LANE: u32 = 7;
        let longest = if self.draw(LANE, 0).is_multiple_of(LONG_OF) {
            LONG_MOMENT_MAX
        } else {
            MOMENT_MAX
        };
        longest.mul_f64(self.draw(LANE, 1) as f64 / u64::MAX as f64)
    }

    /// What the connection `lane` deploys, one after the other.
    fn greetings(self, lane: u32) -> impl Iterator<Item = Greeting> + Send {
        let first_new = KNOWN + (self.1 * 4 + lane) * NEW_OF_A_ROUND;
        let mut new = first_new..first_new + NEW_OF_A_ROUND;
        (0..).map(move |at| {
            let drawn = self.draw(lane, at);
            let is_new = drawn.is_multiple_of(NEW_OF);
            let new = is_new.then(|| new.next()).flatten();
            Greeting(new.unwrap_or((drawn / NEW_OF % u64::from(KNOWN)) as u32))
        })
    }
}

/// Deploys to the functions that last and to the newest, calls them, and kills the node meanwhile.
async fn run_and_kill(
    node: Served,
    functions: &mut [Function],
    round: Round,
    found: &mut Found,
) -> anyhow::Result<()> {
    let killed = Arc::new(AtomicBool::new(false));
    let (mut deployers, mut callers) = (JoinSet::new(), JoinSet::new());
    for lane in 0..4 {
        let at = if lane < LASTING.len() {
            lane
        } else {
            functions.len() - 1
        };
        let (mut admin, killed) = (node.admin().await?, killed.clone());
        let mut function = functions[at].clone();
        let greetings = round.greetings(lane as u32);
        deployers.spawn(async move {
            let mut answered = 0;
            for greeting in greetings {
                match function.deploy(&mut admin, greeting).await {
                    Ok(()) => answered += 1,
                    Err(_) if killed.load(SeqCst) => break,
                    Err(refused) => return Err(refused),
                }
            }
            anyhow::Ok((at, function, answered))
        });
    }
    for first in 0..CALLERS {
        callers.spawn(call(node.functions(), first, killed.clone()));
    }
    sleep(round.moment()).await;
    killed.store(true, SeqCst);
    node.kill().await?;
    while let Some(ended) = deployers.join_next().await {
        let (at, function, answered) = ended??;
        functions[at] = function;
        found.answered += answered;
    }
    while let Some(ended) = callers.join_next().await {
        let (answers, wrong) = ended??;
        found.answers += answers;
        found.wrong += wrong;
    }
    Ok(())
}

/// Calls the functions that last in turn, until the node is killed: how many answers came, and how many are no component's.
async fn call(
    address: SocketAddr,
    first: usize,
    killed: Arc<AtomicBool>,
) -> anyhow::Result<(u64, u64)> {
    let mut exchange = Exchange::open(address).await?;
    let (mut answers, mut wrong) = (0, 0);
    for n in first.. {
        let path = path(LASTING[n % LASTING.len()]);
        match exchange.ask(Method::GET, &path, None, Bytes::new()).await {
            Ok(reply) => {
                answers += 1;
                let is_greeting = reply.body.starts_with(b"Hello from ")
                    && reply.body.len() == Greeting(0).text().len();
                wrong += u64::from(reply.status != StatusCode::OK || !is_greeting);
            }
            Err(_) if killed.load(SeqCst) => break,
            Err(lost) => return Err(lost),
        }
    }
    Ok((answers, wrong))
}

/// Compares what a node has after a kill with what was deployed.
async fn check(node: &Served, functions: &mut [Function], found: &mut Found) -> anyhow::Result<()> {
    let mut admin = node.admin().await?;
    let mut exchange = Exchange::open(node.functions()).await?;
    let listed = admin.functions(PROJECT).await?;
    let mut listed: HashMap<String, Live> = listed
        .into_iter()
        .map(|deployed| (deployed.name, deployed.live))
        .collect();
    for function in functions {
        let live = listed.remove(&function.name);
        let mut verdict = function.judge(live.as_ref());
        if let Some(Version { greeting, .. }) = &function.answered {
            let path = path(&function.name);
            let answer = exchange.ask(Method::GET, &path, None, Bytes::new()).await?;
            if verdict != Verdict::Lost && answer.body != greeting.text() {
                verdict = Verdict::Half;
            }
        }
        match verdict {
            Verdict::Right | Verdict::Absent => {}
            Verdict::Unanswered => found.unanswered += 1,
            Verdict::Lost => found.lost += 1,
            Verdict::Half => found.half += 1,
        }
        if let Verdict::Lost | Verdict::Half = verdict {
            eprintln!("kill9-deploy: {verdict:?}: {live:?} after {function:?}");
        }
    }
    found.half += listed.len() as u64;
    Ok(())
}

fn path(function: &str) -> String {
    format!("/f/{PROJECT}/{function}/")
}

impl Function {
    /// Deploys its next version, and knows what was sent when that fails.
    async fn deploy(&mut self, admin: &mut Admin, greeting: Greeting) -> anyhow::Result<()> {
        let number = self.answered.as_ref().map_or(0, |version| version.number) + 1;
        let sent = Version {
            number,
            greeting,
            digest: greeting.digest()?,
        };
        self.sent = Some(sent.clone());
        let deployed = admin.deploy(PROJECT, &self.name, greeting.wasm()?).await?;
        anyhow::ensure!(
            sent.is(&deployed.live),
            "sent {sent:?}, deployed {deployed:?}"
        );
        self.answered = self.sent.take();
        Ok(())
    }

    /// What to think of what a node has of it. What it has is from now on what was answered.
    fn judge(&mut self, live: Option<&Live>) -> Verdict {
        let sent = self.sent.take();
        let Some(live) = live else {
            return match self.answered {
                Some(_) => Verdict::Lost,
                None => Verdict::Absent,
            };
        };
        if self
            .answered
            .as_ref()
            .is_some_and(|version| version.is(live))
        {
            return Verdict::Right;
        }
        if let Some(sent) = sent
            && sent.is(live)
        {
            self.answered = Some(sent);
            return Verdict::Unanswered;
        }
        let answered = self.answered.as_ref().map_or(0, |version| version.number);
        if live.version < answered {
            return Verdict::Lost;
        }
        Verdict::Half
    }
}

impl Version {
    fn is(&self, live: &Live) -> bool {
        (self.number, &self.digest) == (live.version, &live.component)
    }
}

impl Found {
    fn outcome(&self, run: &Run, load: f64) -> Outcome {
        let ready = Samples::millis(&self.ready);
        eprintln!(
            "kill9-deploy: {} deploys answered, {} more live, {} calls answered; ready after {:.0} ms (median), {:.0} ms (most)",
            self.answered,
            self.unanswered,
            self.answers,
            ready.percentile(50.0),
            ready.max()
        );
        let none = |value: u64, unit| Figure {
            value: value as f64,
            unit,
            target: Target::Exactly(0.0),
        };
        let figures = vec![
            none(self.lost, "lost_deploys"),
            none(self.half, "half_deployed_functions"),
            none(self.wrong, "wrong_answers"),
        ];
        let kills = ready.len() as u64;
        let ready = Figure {
            value: ready.percentile(99.0),
            unit: "ms_from_start_to_ready_p99",
            target: Target::AtMost(READY_MS_MAX),
        };
        judge_timed(run, figures, vec![ready], kills, load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u32, greeting: u32) -> Version {
        Version {
            number,
            greeting: Greeting(greeting),
            digest: format!("digest-{greeting}"),
        }
    }

    fn live(number: u32, greeting: u32) -> Option<Live> {
        Some(Live {
            version: number,
            component: format!("digest-{greeting}"),
        })
    }

    #[test]
    fn a_node_must_have_the_last_answered_version_or_the_one_on_its_way() {
        let (two, three) = (Some(version(2, 20)), Some(version(3, 30)));
        for (answered, sent, found, verdict) in [
            (&two, &three, live(2, 20), Verdict::Right),
            (&two, &None, live(2, 20), Verdict::Right),
            (&two, &three, live(3, 30), Verdict::Unanswered),
            (&None, &three, live(3, 30), Verdict::Unanswered),
            (&None, &three, None, Verdict::Absent),
            (&None, &None, None, Verdict::Absent),
            (&two, &three, None, Verdict::Lost),
            (&two, &three, live(1, 10), Verdict::Lost),
            (&two, &three, live(2, 30), Verdict::Half),
            (&two, &three, live(3, 20), Verdict::Half),
            (&two, &None, live(3, 30), Verdict::Half),
            (&None, &None, live(1, 10), Verdict::Half),
        ] {
            let mut function = Function {
                name: "f".to_owned(),
                answered: answered.clone(),
                sent: sent.clone(),
            };
            assert_eq!(function.judge(found.as_ref()), verdict, "{found:?}");
            assert_eq!(function.sent, None);
            if verdict == Verdict::Unanswered {
                assert_eq!(function.answered, three);
            }
        }
    }

    #[test]
    fn what_a_round_deploys_follows_from_its_seed() {
        let first = |seed, round, lane| -> Vec<Greeting> {
            Round(seed, round).greetings(lane).take(200).collect()
        };
        assert_eq!(first(1, 2, 3), first(1, 2, 3));
        assert_ne!(first(1, 2, 3), first(2, 2, 3));
        let new = |greetings: Vec<Greeting>| -> Vec<u32> {
            let numbers = greetings.into_iter().map(|greeting| greeting.0);
            numbers.filter(|number| *number >= KNOWN).collect()
        };
        let (one, other) = (new(first(1, 2, 2)), new(first(1, 2, 3)));
        assert_eq!((one.len(), other.len()), (16, 16));
        assert!(one.iter().all(|number| !other.contains(number)));
    }
}
