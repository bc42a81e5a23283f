//! `async-gain`: the same guest, the same engine and the same devices; a node of ours, whose guests wait for a model without a
//! thread, beside a server that runs them on `wasmtime-wasi-nn` as it is, whose `compute` blocks its thread (`server`, in a
//! process of its own). That one with as many threads as the node has, and with one for each connection.
//!
//! Its pool is set as ours. A closed loop of 64 connections, rounds in turns, every answer looked at. On a simulated device (2 ms a run and 20 µs a row)
//! what is gained is batches; on this processor, with a model whose runs take microseconds, there is little to gain from them,
//! and what a node does beside running guests is not free.

mod backend;
mod server;

pub(crate) use server::blocking;

use crate::closed_loop::{Asked, Closed, closed_loop};
use crate::digits::Pictures;
use crate::machine::load_average;
use crate::node::{DeviceSpec, Node, Spec};
use crate::samples::Samples;
use server::{Blocking, Server, Threads};
use std::time::Duration;

const CONNECTIONS: usize = 64;
const THREADS: usize = 2;
const ROWS_MAX: u32 = 32;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_millis(500);
const DEVICES: [(&str, DeviceSpec); 2] = [
    (
        "simulated",
        DeviceSpec::Simulated {
            launch: Duration::from_millis(2),
            per_row: Duration::from_micros(20),
        },
    ),
    ("cpu", DeviceSpec::Cpu),
];

pub(super) async fn compare() -> anyhow::Result<()> {
    println!("load average {}\n", load_average()?);
    println!(
        "| device | guests | requests/s | p50 ms | p99 ms | ours is |\n|---|---|---|---|---|---|"
    );
    let questions: std::sync::Arc<[_]> = Pictures::read()?.pick(1_000, 1).into();
    for (name, device) in DEVICES {
        let node = Node::start(&ours(device)).await?;
        let few = Server::start(&Blocking::new(device, Threads::Exactly(THREADS))).await?;
        let many = Server::start(&Blocking::new(device, Threads::OnePerConnection)).await?;
        let asked = |address, paths| Asked {
            address,
            paths,
            questions: questions.clone(),
            streams: None,
        };
        let root = || vec!["/".to_owned()];
        let servers = [
            (
                "shoal, 2 socket threads",
                asked(node.address(), node.paths("digits")),
            ),
            ("blocking, 2 threads", asked(few.address(), root())),
            (
                "blocking, a thread for each connection",
                asked(many.address(), root()),
            ),
        ];
        for (_, asked) in &servers {
            closed_loop(asked, CONNECTIONS, WARM_UP).await?;
        }
        let mut rounds: [Vec<Closed>; 3] = Default::default();
        for _ in 0..ROUNDS {
            for ((_, asked), rounds) in servers.iter().zip(&mut rounds) {
                rounds.push(closed_loop(asked, CONNECTIONS, ROUND).await?);
            }
        }
        print(name, &servers.map(|(guests, _)| guests), &rounds);
        node.stop().await?;
    }
    Ok(())
}

fn print(device: &str, guests: &[&str], rounds: &[Vec<Closed>]) {
    let rate = |rounds: &[Closed]| {
        let rates: Samples = rounds.iter().map(Closed::requests_per_second).collect();
        rates.percentile(50.0)
    };
    let ours = rate(&rounds[0]);
    for (guests, rounds) in guests.iter().zip(rounds) {
        let took = Samples::millis(rounds.iter().flat_map(|round| &round.took));
        println!(
            "| {device} | {guests} | {:.0} | {:.2} | {:.2} | {:.2} times |",
            rate(rounds),
            took.percentile(50.0),
            took.percentile(99.0),
            ours / rate(rounds)
        );
    }
}

fn ours(device: DeviceSpec) -> Spec {
    Spec {
        socket_threads: THREADS,
        background_threads: 1,
        guests_max: 2 * CONNECTIONS as u32,
        tenants: 4,
        rows_max: ROWS_MAX,
        device,
    }
}
