//! `density`: many functions that mostly wait to be called. 1,000 functions over 100 components, each deployed and called
//! once, take at most 300 KiB each of an idle node; with 10,000 over the same components a node that is started again on its
//! data is ready within 3 s. Each component is compiled once.
//!
//! 10 projects have 10 components of their own. They are the sample `hello` with another text in each (`greetings`): about
//! 100 KB as they are deployed, all different to the node, and none shares anything with another.
//!
//! What a function takes is everything that grew between the node with its empty projects and the node that had deployed and
//! answered all and was left alone for a while, by its resident memory, and all of the code besides: the node holds it in memory
//! of its own, of which only what was run is resident. The deploys of the same component from the second on cost no compile;
//! each is on disk before it is answered.
//!
//! The short form has a tenth of the components and of the functions at the start, and as many when memory is measured: what a
//! node takes once and keeps (buffers of ten uploads at once, some 50 MiB) is not to be shared by fewer.

use crate::bar::{Figure, Outcome, Run, Target};
use crate::exchange::Exchange;
use crate::greetings::Greeting;
use crate::machine::{judge_timed, load_average};
use crate::node::{Home, Served};
use bytes::Bytes;
use http::Method;
use std::ops::Range;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const KIB_MAX: f64 = 300.0;
const READY_MS_MAX: f64 = 3_000.0;
const PROJECTS: u32 = 10;
/// Starts with the same data; the slowest counts.
const STARTS: usize = 3;
/// A node is idle after so long without a request: the allocator gives memory back with some delay.
const IDLE: Duration = Duration::from_secs(2);

/// How many there are of what.
#[derive(Clone, Copy)]
struct Shape {
    /// Of each project.
    components: u32,
    /// Of each component, when memory is measured.
    few: u32,
    /// And when the start is.
    many: u32,
}

pub(super) async fn measure(run: &Run) -> anyhow::Result<Outcome> {
    let (components, few) = if run.quick { (1, 100) } else { (10, 10) };
    let shape = Shape {
        components,
        few,
        many: 100,
    };
    let load = load_average()?;
    let mut home = Home::new()?;
    let node = home.start().await?;
    let mut admin = node.admin().await?;
    for project in 0..PROJECTS {
        admin.make_project(&name(project)).await?;
    }
    let empty = node.footprint()?;
    eprintln!("density: no function: {empty}");
    deploy(&node, shape, 0..shape.few).await?;
    let mut wrong = call(&node, shape, 0..shape.few).await?;
    sleep(IDLE).await;
    let full = node.footprint()?;
    eprintln!("density: {} functions: {full}", shape.functions(shape.few));
    deploy(&node, shape, shape.few..shape.many).await?;
    let compiles = admin.compiles().await?;
    node.stop().await?;

    let mut slowest = Duration::ZERO;
    for start in 0..STARTS {
        let node = home.start().await?;
        let (after, footprint) = (node.ready_after, node.footprint()?);
        eprintln!("density: start {start}: ready after {after:.3?}: {footprint}");
        slowest = slowest.max(after);
        // The last function of each component.
        wrong += call(&node, shape, shape.many - 1..shape.many).await?;
        node.stop().await?;
    }
    let code_kib = code_bytes(&home)? as f64 / 1024.0;
    eprintln!("density: {code_kib:.0} KiB of code");
    let grown = full.resident_kib as f64 - empty.resident_kib as f64 + code_kib;
    let functions = shape.functions(shape.few);
    let figures = vec![
        Figure {
            value: grown / f64::from(functions),
            unit: "KiB/function",
            target: Target::AtMost(KIB_MAX),
        },
        Figure {
            value: compiles as f64,
            unit: "compiles",
            target: Target::Exactly(f64::from(PROJECTS * shape.components)),
        },
        Figure {
            value: wrong as f64,
            unit: "wrong_answers",
            target: Target::Exactly(0.0),
        },
    ];
    let ready = Figure {
        value: slowest.as_secs_f64() * 1e3,
        unit: "ms_from_start_to_ready",
        target: Target::AtMost(READY_MS_MAX),
    };
    let load = load.max(load_average()?);
    Ok(judge_timed(
        run,
        figures,
        vec![ready],
        u64::from(functions),
        load,
    ))
}

impl Shape {
    fn functions(self, of_each: u32) -> u32 {
        PROJECTS * self.components * of_each
    }

    /// The components of a project.
    fn greetings(self, project: u32) -> impl Iterator<Item = Greeting> {
        (project * self.components..(project + 1) * self.components).map(Greeting)
    }
}

fn name(project: u32) -> String {
    format!("project-{project}")
}

fn function(greeting: Greeting, n: u32) -> String {
    format!("f-{}-{n}", greeting.0)
}

/// Bytes of all compiled code of a node that maps all it has.
fn code_bytes(home: &Home) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for file in std::fs::read_dir(home.data().join("code"))? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes)
}

/// Deploys the functions of these numbers of every component, all projects at once.
async fn deploy(node: &Served, shape: Shape, numbers: Range<u32>) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut projects = JoinSet::new();
    for project in 0..PROJECTS {
        let (mut admin, numbers) = (node.admin().await?, numbers.clone());
        projects.spawn(async move {
            for greeting in shape.greetings(project) {
                let wasm = greeting.wasm()?;
                for n in numbers.clone() {
                    let function = function(greeting, n);
                    admin
                        .deploy(&name(project), &function, wasm.clone())
                        .await?;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(deployed) = projects.join_next().await {
        deployed??;
    }
    let functions = shape.functions(numbers.len() as u32);
    let took = began.elapsed().as_secs_f64();
    eprintln!("density: {functions} deploys in {took:.1} s");
    Ok(())
}

/// Calls each of these functions once; how many answers were not the function's own.
async fn call(node: &Served, shape: Shape, numbers: Range<u32>) -> anyhow::Result<usize> {
    let mut exchange = Exchange::open(node.functions()).await?;
    let mut wrong = 0;
    for project in 0..PROJECTS {
        for greeting in shape.greetings(project) {
            for n in numbers.clone() {
                let path = format!("/f/{}/{}/", name(project), function(greeting, n));
                let answer = exchange.ask(Method::GET, &path, None, Bytes::new()).await?;
                wrong += usize::from(answer.body != greeting.text());
            }
        }
    }
    Ok(wrong)
}
