//! `redeploy`: 1,000 deploys of one function, two components in turn, while eight connections call it without a pause. Every
//! answer is 200, every answer is exactly what one of the two says, and from the moment that a deploy is answered no request
//! gets the version before it. Neither component is compiled again.
//!
//! `echo` repeats the path in a header and the request's body; `hello` does neither and has a text of its own. So an answer
//! made of both would show.

use crate::bar::{Figure, Outcome, Run, Target};
use crate::exchange::{Exchange, Reply};
use crate::node::Home;
use bytes::Bytes;
use http::{Method, StatusCode};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use tokio::task::JoinSet;
use tokio::time::Instant;

const HELLO: &[u8] = include_bytes!("../../../samples/components/hello.wasm");
const ECHO: &[u8] = include_bytes!("../../../samples/components/echo.wasm");
const CONNECTIONS: u64 = 8;
const PROJECT: &str = "acme";
const FUNCTION: &str = "turns";

/// Which of the two a version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Component {
    Hello,
    Echo,
}

/// Deploys so far: the `n`th made the version `n` live.
#[derive(Default)]
struct Deploys {
    /// Sent to the node.
    begun: AtomicU64,
    /// Answered.
    done: AtomicU64,
    over: AtomicBool,
}

/// What came back.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    answers: u64,
    /// Other than 200, or none.
    failed: u64,
    /// Not exactly what one of the two says.
    mixed: u64,
    /// What one of the two says, but not the one that was live at any time while it was asked.
    stale: u64,
}

pub(super) async fn measure(run: &Run) -> anyhow::Result<Outcome> {
    let redeploys = if run.quick { 100 } else { 1_000 };
    let mut home = Home::new()?;
    let node = home.start().await?;
    let mut admin = node.admin().await?;
    admin.make_project(PROJECT).await?;
    let deploys = Arc::new(Deploys::default());
    let mut callers = JoinSet::new();
    let mut own = Caller::new(node.functions(), 0, deploys.clone()).await?;
    let began = Instant::now();
    for n in 0..=redeploys {
        deploys.begun.store(n, SeqCst);
        let wasm = match Component::of(n) {
            Component::Hello => HELLO,
            Component::Echo => ECHO,
        };
        let wasm = Bytes::from_static(wasm);
        let deployed = admin.deploy(PROJECT, FUNCTION, wasm).await?;
        anyhow::ensure!(
            u64::from(deployed.live.version) == n + 1,
            "deploy {n} made version {} live",
            deployed.live.version
        );
        deploys.done.store(n, SeqCst);
        own.call().await?;
        if n == 0 {
            for connection in 1..=CONNECTIONS {
                let caller = Caller::new(node.functions(), connection, deploys.clone()).await?;
                callers.spawn(caller.run());
            }
        }
    }
    let took = began.elapsed().as_secs_f64();
    deploys.over.store(true, SeqCst);
    let mut seen = own.seen;
    while let Some(ended) = callers.join_next().await {
        seen.add(&ended??);
    }
    let compiles = admin.compiles().await?;
    node.stop().await?;
    let Seen { answers, .. } = seen;
    eprintln!("redeploy: {redeploys} redeploys and {answers} answers in {took:.1} s");
    Ok(Outcome::Measured {
        figures: figures(&seen, compiles),
        n: redeploys,
    })
}

fn figures(seen: &Seen, compiles: u64) -> Vec<Figure> {
    let exactly = |value: u64, unit, wanted| Figure {
        value: value as f64,
        unit,
        target: Target::Exactly(wanted),
    };
    vec![
        exactly(seen.failed, "answers_not_2xx", 0.0),
        exactly(seen.mixed, "mixed_answers", 0.0),
        exactly(seen.stale, "stale_answers", 0.0),
        exactly(compiles, "compiles", 2.0),
    ]
}

impl Component {
    /// That of the `n`th deploy.
    fn of(n: u64) -> Self {
        if n.is_multiple_of(2) {
            Self::Hello
        } else {
            Self::Echo
        }
    }

    /// Which one gave this answer, if it is exactly what one of them gives.
    fn that_answered(reply: &Reply, path: &str, body: &Bytes) -> Option<Self> {
        let (echoed, kind) = (reply.header("x-echo-path"), reply.header("content-type"));
        match (echoed, kind) {
            (None, Some("text/plain; charset=utf-8")) if reply.body == "Hello from Shoal\n" => {
                Some(Self::Hello)
            }
            (Some(echoed), Some("application/octet-stream"))
                if echoed == path && reply.body == body =>
            {
                Some(Self::Echo)
            }
            _ => None,
        }
    }
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.answers += other.answers;
        self.failed += other.failed;
        self.mixed += other.mixed;
        self.stale += other.stale;
    }

    /// Counts an answer to a request during which the deploys from `first` to `last` may have been live.
    fn count(&mut self, component: Option<Component>, first: u64, last: u64) {
        match component {
            None => self.mixed += 1,
            // Of two deploys in a row one is each.
            Some(component) => {
                let was_live = (first..=last).any(|n| Component::of(n) == component);
                self.stale += u64::from(!was_live);
            }
        }
    }
}

/// One connection that calls the function.
struct Caller {
    exchange: Exchange,
    connection: u64,
    deploys: Arc<Deploys>,
    seen: Seen,
}

impl Caller {
    async fn new(
        address: SocketAddr,
        connection: u64,
        deploys: Arc<Deploys>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            exchange: Exchange::open(address).await?,
            connection,
            deploys,
            seen: Seen::default(),
        })
    }

    async fn run(mut self) -> anyhow::Result<Seen> {
        while !self.deploys.over.load(SeqCst) {
            self.call().await?;
        }
        Ok(self.seen)
    }

    /// One call, unlike any other.
    async fn call(&mut self) -> anyhow::Result<()> {
        let rest = format!("/{}/{}", self.connection, self.seen.answers);
        let (path, body) = (
            format!("/f/{PROJECT}/{FUNCTION}{rest}"),
            Bytes::from(rest.clone()),
        );
        self.seen.answers += 1;
        let first = self.deploys.done.load(SeqCst);
        let asked = self
            .exchange
            .ask(Method::POST, &path, None, body.clone())
            .await;
        let last = self.deploys.begun.load(SeqCst);
        match asked {
            Ok(reply) if reply.status == StatusCode::OK => {
                let component = Component::that_answered(&reply, &rest, &body);
                if component.is_none() {
                    eprintln!("redeploy: a mixed answer: {reply:?}");
                }
                self.seen.count(component, first, last);
            }
            Ok(reply) => {
                eprintln!("redeploy: {} {:?}", reply.status, reply.body);
                self.seen.failed += 1;
            }
            Err(lost) => {
                eprintln!("redeploy: {lost:#}");
                self.seen.failed += 1;
                self.exchange = Exchange::open(self.exchange.address()).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_must_be_of_a_version_that_was_live_while_it_was_asked() {
        for (component, first, last, stale) in [
            (Component::Hello, 4, 4, 0),
            (Component::Echo, 4, 4, 1),
            (Component::Hello, 4, 5, 0),
            (Component::Echo, 4, 5, 0),
            (Component::Hello, 5, 5, 1),
        ] {
            let mut seen = Seen::default();
            seen.count(Some(component), first, last);
            assert_eq!(seen.stale, stale, "{component:?} {first} {last}");
        }
        let mut seen = Seen::default();
        seen.count(None, 4, 5);
        assert_eq!((seen.mixed, seen.stale), (1, 0));
    }
}
