//! Devices that do not keep the contract. One may live in another process, so what it answers is outside data: checked, and
//! the worst it can do is to fail the requests it was given.

use crate::support::{Callers, Node, echo_spec, eight_rows, sim_with, source, start, values};
use shoal_inference::plan::{Command, Event, Rows, RowsDone, Ticket};
use shoal_inference::{
    AnyDevice, DType, Device, DeviceGone, DeviceInfo, Error, LoadError, Payload, SimDevice,
};
use std::collections::VecDeque;

type Answer = (Event, Payload);

/// Loads like an honest device, then answers as the closure says.
struct Liar<F> {
    answer: F,
    answers: VecDeque<Option<Answer>>,
}

impl<F: FnMut(Ticket, Rows, Payload) -> Vec<Option<Answer>> + Send + 'static> Liar<F> {
    fn new(answer: F) -> Self {
        let answers = VecDeque::new();
        Self { answer, answers }
    }
}

impl<F: FnMut(Ticket, Rows, Payload) -> Vec<Option<Answer>> + Send + 'static> Device for Liar<F> {
    fn describe(&self) -> DeviceInfo {
        DeviceInfo {
            name: "liar".to_owned(),
            memory_bytes: None,
            depth: 2,
            simulated: true,
        }
    }

    fn send(&mut self, command: Command, payload: Payload) -> Result<(), DeviceGone> {
        match command {
            Command::Load { model } => {
                let result = Ok(echo_spec());
                let event = Event::Loaded { model, result };
                self.answers.push_back(Some((event, Payload::empty())));
            }
            Command::Unload { model } => {
                let event = Event::Unloaded { model };
                self.answers.push_back(Some((event, Payload::empty())));
            }
            Command::Submit { ticket, plan, .. } => {
                self.answers.extend((self.answer)(ticket, plan, payload));
            }
            Command::Cancel { .. } => {}
        }
        Ok(())
    }

    async fn recv(&mut self) -> Option<Answer> {
        match self.answers.pop_front() {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

/// What an honest device would answer, changed.
fn changed(
    ticket: Ticket,
    plan: Rows,
    payload: Payload,
    change: impl Fn(&mut RowsDone),
) -> Vec<Option<Answer>> {
    let mut done = RowsDone {
        requests: plan.requests,
        device_ns: 1,
    };
    change(&mut done);
    let result = Ok(done);
    vec![Some((Event::Outcome { ticket, result }, payload))]
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_fit_its_request_is_not_delivered() {
    type Change = fn(&mut RowsDone);
    let lies: [(&str, Change); 10] = [
        ("no requests", |done| done.requests.clear()),
        ("a request too many", |done| {
            let extra = done.requests[0].clone();
            done.requests.push(extra);
        }),
        ("no outputs", |done| done.requests[0].clear()),
        ("an output too many", |done| {
            let extra = done.requests[0][0].clone();
            done.requests[0].push(extra);
        }),
        ("another element type", |done| {
            done.requests[0][0].dtype = DType::I32;
        }),
        ("fewer rows", |done| {
            done.requests[0][0].dims = vec![1, 1];
            done.requests[0][0].len = 4;
        }),
        ("more rows", |done| done.requests[0][0].dims = vec![3, 1]),
        ("no rows", |done| done.requests[0][0].dims = vec![]),
        ("past the end", |done| done.requests[0][0].offset = 1),
        ("an offset that overflows", |done| {
            done.requests[0][0].offset = u64::MAX;
        }),
    ];
    for (what, lie) in lies {
        let mut honest = false;
        let device = Liar::new(move |ticket, plan, payload| {
            let answer = if honest {
                changed(ticket, plan, payload, |_| ())
            } else {
                changed(ticket, plan, payload, lie)
            };
            honest = true;
            answer
        });
        let node = Node::start(eight_rows(), vec![device]).await;
        assert_eq!(node.ask(1, &[1.0, 2.0]).await, Err(Error::Device), "{what}");
        let reply = node.ask(1, &[1.0, 2.0]).await.unwrap();
        assert_eq!(values(&reply), [1.0, 2.0], "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_nothing_that_was_asked_is_ignored() {
    let device = Liar::new(|ticket, plan: Rows, payload: Payload| {
        let unasked = changed(Ticket(u64::MAX), plan.clone(), payload.clone(), |_| ());
        let model = plan.model;
        let result = Ok(echo_spec());
        let events = [Event::Loaded { model, result }, Event::Unloaded { model }];
        let models = events.map(|event| Some((event, Payload::empty())));
        let answer = changed(ticket, plan, payload, |_| ());
        // Twice, too.
        [unasked, models.into(), answer.clone(), answer].concat()
    });
    let node = Node::start(eight_rows(), vec![device]).await;
    for value in [1.0, 2.0, 3.0] {
        let reply = node.ask(1, &[value]).await.unwrap();
        assert_eq!(values(&reply), [value]);
    }
    assert_eq!(node.inference.stats().runs, 3);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_claims_all_the_time_in_the_world_breaks_no_sum() {
    let device = Liar::new(|ticket, plan, payload| {
        changed(ticket, plan, payload, |done| done.device_ns = u64::MAX)
    });
    let node = Node::start(eight_rows(), vec![device]).await;
    for _ in 0..3 {
        let (one, two) = tokio::join!(node.ask(1, &[1.0]), node.ask(2, &[2.0, 3.0]));
        let shares = [one, two].map(|reply| reply.unwrap().explanation.device_share_ns);
        assert_eq!(shares, [u64::MAX / 3, u64::MAX / 3 * 2]);
    }
    assert_eq!(node.inference.stats().device_busy_ns, u64::MAX);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_ends_while_it_loads_is_named() {
    let mut device = Liar::new(|_, _, _| Vec::new());
    device.answers.push_back(None);
    let (inference, _engine) = start(eight_rows(), vec![device]);
    let failed = inference.load(source("echo")).await;
    let device = "liar".to_owned();
    assert_eq!(failed, Err(LoadError::DeviceGone { device }));
}

/// Panics in its worker's task when it is given a run.
struct Panics(SimDevice);

enum Either {
    Panics(Panics),
    Sim(AnyDevice),
}

impl Device for Either {
    fn describe(&self) -> DeviceInfo {
        match self {
            Self::Panics(device) => device.0.describe(),
            Self::Sim(device) => device.describe(),
        }
    }

    fn send(&mut self, command: Command, payload: Payload) -> Result<(), DeviceGone> {
        match self {
            Self::Panics(_) if matches!(command, Command::Submit { .. }) => panic!("scripted"),
            Self::Panics(device) => device.0.send(command, payload),
            Self::Sim(device) => device.send(command, payload),
        }
    }

    async fn recv(&mut self) -> Option<Answer> {
        match self {
            Self::Panics(device) => device.0.recv().await,
            Self::Sim(device) => device.recv().await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_panics_is_a_lost_device_and_no_more() {
    let devices = vec![
        Either::Panics(Panics(sim_with(&[]))),
        Either::Sim(sim_with(&[]).into()),
    ];
    let node = Node::start(eight_rows(), devices).await;
    let mut callers = Callers::new();
    for tenant in 0..20 {
        node.spawn_ask(&mut callers, tenant, &[0.0]);
    }
    while let Some(answered) = callers.join_next().await {
        answered.unwrap().unwrap();
    }
    assert_eq!(node.inference.stats().lost_devices, 1);
    assert!(node.inference.is_live());
}
