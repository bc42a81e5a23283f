//! `acceptors`: how connections come to a server's threads. One thread that accepts and hands each connection to the thread with
//! the fewest, as a node does, beside a socket for each thread (SO_REUSEPORT), where the kernel chooses, and beside all threads
//! at one socket. On hyper alone, so that nothing hides it; new servers and new connections each round, in turns, since it is
//! the choice that is measured.

use super::dispatch::native;
use crate::closed_loop::closed_loop;
use crate::machine::load_average;
use crate::samples::Samples;
use std::time::Duration;

const ROUNDS: usize = 8;
const ROUND: Duration = Duration::from_secs(1);
const CONNECTIONS: [usize; 2] = [8, 32];
const WAYS: [(&str, &str); 3] = [
    ("handed", "handed to the thread with the fewest"),
    ("reuseport", "a socket for each thread (SO_REUSEPORT)"),
    ("shared", "all threads at one socket"),
];

pub(super) async fn compare() -> anyhow::Result<()> {
    println!("load average {}\n", load_average()?);
    println!(
        "| connections | accepted | requests/s, median | least | p99 ms, median | most | handed is faster in |\n|---|---|---|---|---|---|---|"
    );
    for connections in CONNECTIONS {
        let mut rates: [Vec<f64>; WAYS.len()] = Default::default();
        let mut p99: [Vec<f64>; WAYS.len()] = Default::default();
        for _ in 0..ROUNDS {
            for (way, (accept, _)) in WAYS.iter().enumerate() {
                let server = native(&["one", accept]).await?;
                let round = closed_loop(&server.asked(None), connections, ROUND).await?;
                rates[way].push(round.requests_per_second());
                p99[way].push(Samples::millis(&round.took).percentile(99.0));
            }
        }
        for (way, (_, name)) in WAYS.iter().enumerate() {
            let won = rates[0]
                .iter()
                .zip(&rates[way])
                .filter(|(handed, other)| handed > other);
            let won = match way {
                0 => String::new(),
                _ => format!("{} of {ROUNDS}", won.count()),
            };
            let rate: Samples = rates[way].iter().copied().collect();
            let p99: Samples = p99[way].iter().copied().collect();
            println!(
                "| {connections} | {name} | {:.0} | {:.0} | {:.2} | {:.2} | {won} |",
                rate.percentile(50.0),
                rate.percentile(0.0),
                p99.percentile(50.0),
                p99.max()
            );
        }
    }
    Ok(())
}
