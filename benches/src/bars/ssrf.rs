//! `ssrf`: server-side request forgery. From a function there is no way to what is inside: this machine, its networks, the
//! addresses at which clouds keep their metadata, the node itself. Whoever deploys it grants it what it asks for, by address and
//! by name, owns the names and what they mean at each moment, and owns servers that redirect.
//!
//! It is measured in a network of the bar's own (`network`), where all those addresses are this machine's and servers at each
//! count what comes (`places`), and names are answered by one that changes its mind (`names`). The same ways are then tried at a
//! node whose operator allows every address: most lead inside there, so the bar can tell the difference.

mod names;
mod network;
mod places;
mod ways;

use crate::bar::{Figure, Outcome, Run, Target};
use crate::exchange::{Exchange, Reply, escaped};
use crate::node::{Admin, Home, Served};
use crate::random::shuffle;
use bytes::Bytes;
use http::{Method, StatusCode};
use names::Names;
use network::Network;
use places::{Places, is_from_outside};
use ways::{ALLOWED, Kind, Way, ways};

const PROXY: &[u8] = include_bytes!("../../../samples/components/proxy.wasm");
const PROJECT: &str = "acme";
/// What the function is granted that tries what nobody can be granted.
const USUAL: &str = "public.test,*.public.test";
/// How often each allowed host is asked.
const CALLS: usize = 10;
/// As many ways at least must lead inside where the operator lets them.
const OPEN_MIN: usize = 60;

/// What came of all ways.
#[derive(Debug, Default)]
struct Seen {
    ways: usize,
    /// Ways on which something inside was reached.
    inside: usize,
    /// The kinds of those.
    kinds: Vec<Kind>,
    /// Calls of allowed hosts, and those of them that were answered by one.
    asked: usize,
    reached: usize,
}

pub(super) async fn measure(run: &Run) -> anyhow::Result<Outcome> {
    let _network = match Network::enter()? {
        Ok(network) => network,
        Err(missing) => return Ok(Outcome::Skipped(missing)),
    };
    let _names = Names::serve().await?;
    let places = Places::serve().await?;
    let seen = Seen::at(&[], &places, run.seed).await?;
    let (connections, bytes) = (places.connections(), places.bytes());
    let open = [("SHOAL_EGRESS_NETWORKS", "0.0.0.0/0,::/0")];
    let open = Seen::at(&open, &places, run.seed).await?;
    eprintln!(
        "ssrf: where the operator lets them, {} of {} ways lead inside",
        open.inside, open.ways
    );
    let shut = Kind::OPEN.iter().find(|kind| !open.kinds.contains(kind));
    anyhow::ensure!(
        open.inside >= OPEN_MIN && shut.is_none(),
        "the bar cannot tell the difference: nothing is reached by {shut:?}"
    );
    let none = |value: u64, unit| Figure {
        value: value as f64,
        unit,
        target: Target::Exactly(0.0),
    };
    Ok(Outcome::Measured {
        figures: vec![
            none(bytes, "bytes_to_addresses_inside"),
            none(connections, "connections_to_addresses_inside"),
            none(seen.inside as u64, "ways_inside"),
            Figure {
                value: 100.0 * seen.reached as f64 / seen.asked as f64,
                unit: "%_of_allowed_reached",
                target: Target::Exactly(100.0),
            },
        ],
        n: seen.ways as u64,
    })
}

impl Seen {
    /// Tries all ways, in an order that follows from the seed, from functions of a node with these settings.
    async fn at(
        settings: &[(&'static str, &'static str)],
        places: &Places,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let mut home = Home::with(settings)?;
        let node = home.start().await?;
        let mut caller = Caller::new(&node).await?;
        let mut ways = ways(node.functions().port(), node.admin_at().port());
        shuffle(&mut ways, seed);
        let mut seen = Self {
            ways: ways.len(),
            ..Self::default()
        };
        for way in &ways {
            let before = places.connections();
            let answered = caller.go(way).await?;
            let is_inside = answered || places.connections() > before;
            if is_inside {
                seen.inside += 1;
                seen.kinds.push(way.kind);
            }
            if is_inside && settings.is_empty() {
                eprintln!("ssrf: {way:?} leads inside");
            }
        }
        for host in ALLOWED {
            let function = caller.granted(&format!("{},{USUAL}", host.grant)).await?;
            for _ in 0..CALLS {
                let reply = caller.call(&function, host.url).await?;
                let reached = reply.status == StatusCode::OK && is_from_outside(&reply.body);
                seen.asked += 1;
                seen.reached += usize::from(reached);
                if !reached && settings.is_empty() {
                    let body = String::from_utf8_lossy(&reply.body);
                    eprintln!("ssrf: {host:?} answered {} {body}", reply.status);
                }
            }
        }
        node.stop().await?;
        Ok(seen)
    }
}

/// Deploys and calls functions.
struct Caller {
    admin: Admin,
    exchange: Exchange,
    functions: usize,
}

impl Caller {
    async fn new(node: &Served) -> anyhow::Result<Self> {
        let mut admin = node.admin().await?;
        admin.make_project(PROJECT).await?;
        Ok(Self {
            admin,
            exchange: Exchange::open(node.functions()).await?,
            functions: 0,
        })
    }

    /// A new function that is granted these hosts, or what is usual if nobody can be granted them.
    async fn granted(&mut self, egress: &str) -> anyhow::Result<String> {
        self.functions += 1;
        let function = format!("proxy-{}", self.functions);
        for egress in [egress, USUAL] {
            let proxy = Bytes::from_static(PROXY);
            let deployed = self
                .admin
                .try_deploy_reaching(PROJECT, &function, proxy, egress)
                .await?;
            match deployed.status {
                StatusCode::OK => return Ok(function),
                StatusCode::BAD_REQUEST => {}
                other => anyhow::bail!("deploying with {egress:?} answered {other}"),
            }
        }
        anyhow::bail!("{USUAL} cannot be granted")
    }

    /// Whether something inside answered.
    async fn go(&mut self, way: &Way) -> anyhow::Result<bool> {
        let function = self.granted(&way.grant).await?;
        let mut inside = false;
        for _ in 0..way.calls {
            let mut reply = self.call(&function, &way.url).await?;
            // As a guest that follows, by hand.
            if reply.status == StatusCode::FOUND {
                let to = String::from_utf8_lossy(&reply.body).into_owned();
                reply = self.call(&function, &to).await?;
            }
            inside |= reply.status == StatusCode::OK && !is_from_outside(&reply.body);
        }
        Ok(inside)
    }

    async fn call(&mut self, function: &str, url: &str) -> anyhow::Result<Reply> {
        let path = format!("/f/{PROJECT}/{function}/?url={}", escaped(url));
        self.exchange
            .ask(Method::GET, &path, None, Bytes::new())
            .await
    }
}
