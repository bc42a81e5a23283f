//! Models that come and go: what the devices are told, and what they say to it. One change at a time, so that a device holds
//! at most one beside its runs, and whatever follows a change finds it done. Knows no requests (`running`).

use super::LoadOrder;
use super::workers::Workers;
use crate::error::{LoadError, UnloadError};
use crate::request::{ModelId, ModelSource, ModelSpec};
use crate::text::Encoder;
use crate::worker::Work;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Owned by the engine's task. Waiting is bounded: at most one load is in the engine, and an unload for each model.
#[derive(Debug, Default)]
pub(super) struct Changes {
    last_id: u32,
    waiting: VecDeque<Change>,
    active: Option<Active>,
}

#[derive(Debug)]
enum Change {
    Load(ModelId, LoadOrder),
    /// With who is told when it is done.
    Unload(ModelId, Option<oneshot::Sender<Result<(), UnloadError>>>),
}

/// What the devices have been told last.
#[derive(Debug)]
struct Active {
    change: Change,
    /// Devices that have not answered.
    unheard: HashSet<usize>,
    /// What the first device found in the file.
    found: Option<ModelSpec>,
    /// The first thing that went wrong.
    failure: Option<LoadError>,
}

/// What a device says to a change.
#[derive(Debug)]
pub(super) enum Answer {
    /// What the model takes and gives, or why it cannot be loaded.
    Loaded(Result<ModelSpec, String>),
    Unloaded,
    /// It will not answer any more.
    Left,
}

/// A model that every device has loaded.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) id: ModelId,
    pub(super) spec: ModelSpec,
    pub(super) encoder: Option<Arc<Encoder>>,
    pub(super) order: LoadOrder,
}

impl Changes {
    /// A model is to be loaded, under an id that was never used before.
    pub(super) fn load(&mut self, workers: &Workers, order: LoadOrder) {
        self.last_id = self
            .last_id
            .checked_add(1)
            .expect("a node loads fewer than 4,294,967,295 models");
        let id = ModelId(self.last_id);
        self.waiting.push_back(Change::Load(id, order));
        self.advance(workers);
    }

    /// No run of the model is on a device any more, nor will be.
    pub(super) fn unload(
        &mut self,
        workers: &Workers,
        model: ModelId,
        reply: oneshot::Sender<Result<(), UnloadError>>,
    ) {
        self.waiting.push_back(Change::Unload(model, Some(reply)));
        self.advance(workers);
    }

    /// A device has answered, or is gone. A model that is loaded everywhere now, and that somebody still waits for; one that
    /// is not is taken from the devices again, and who waits for it is told why.
    pub(super) fn take_in(
        &mut self,
        workers: &Workers,
        device: usize,
        answer: Answer,
    ) -> Option<Loaded> {
        let active = self.active.as_mut()?;
        if !active.unheard.remove(&device) {
            return None;
        }
        active.note(workers.name(device), answer);
        if !active.unheard.is_empty() {
            return None;
        }
        let done = self.active.take().and_then(|active| self.finish(active));
        self.advance(workers);
        done
    }

    fn finish(&mut self, active: Active) -> Option<Loaded> {
        let (id, order) = match active.change {
            Change::Load(id, order) => (id, order),
            Change::Unload(_, reply) => {
                if let Some(reply) = reply {
                    // Who has left needs no answer.
                    drop(reply.send(Ok(())));
                }
                return None;
            }
        };
        let failure = match (active.found, active.failure) {
            (Some(spec), None) if !order.reply.is_closed() => match encoder(&order.source, &spec) {
                Ok(encoder) => {
                    return Some(Loaded {
                        id,
                        spec,
                        encoder,
                        order,
                    });
                }
                Err(failure) => {
                    self.waiting.push_front(Change::Unload(id, None));
                    Some(failure)
                }
            },
            (Some(_), failure) => {
                // Before any other change: who is refused may at once try again, and finds the devices as they were.
                self.waiting.push_front(Change::Unload(id, None));
                failure
            }
            (None, failure) => failure,
        };
        order.answer(Err(failure.unwrap_or(LoadError::Stopped)));
        None
    }

    /// Tells the devices of the next change, if none is under way.
    fn advance(&mut self, workers: &Workers) {
        if self.active.is_some() {
            return;
        }
        let Some(change) = self.waiting.pop_front() else {
            return;
        };
        let unheard: HashSet<usize> = workers.live().collect();
        for device in &unheard {
            let work = match &change {
                Change::Load(model, order) => Work::Load(*model, Arc::clone(&order.source.onnx)),
                Change::Unload(model, _) => Work::Unload(*model),
            };
            workers.submit(*device, work);
        }
        self.active = Some(Active {
            change,
            unheard,
            found: None,
            failure: None,
        });
    }
}

/// Reads a model's tokenizer, if it has one. Takes tens of milliseconds: as loading, while requests wait.
fn encoder(source: &ModelSource, spec: &ModelSpec) -> Result<Option<Arc<Encoder>>, LoadError> {
    let Some(tokenizer) = &source.tokenizer else {
        return Ok(None);
    };
    let encoder = Encoder::new(tokenizer, spec).map_err(|reason| LoadError::Tokenizer {
        model: source.name.clone(),
        reason,
    })?;
    Ok(Some(encoder))
}

impl Active {
    fn note(&mut self, device: &str, answer: Answer) {
        let Change::Load(_, order) = &self.change else {
            return;
        };
        let model = order.source.name.clone();
        let device = device.to_owned();
        let failure = match answer {
            Answer::Loaded(Ok(spec)) => match &self.found {
                Some(found) if *found != spec => LoadError::Disagreement { model },
                Some(_) => return,
                None => {
                    self.found = Some(spec);
                    return;
                }
            },
            Answer::Loaded(Err(reason)) => LoadError::Model {
                model,
                device,
                reason,
            },
            Answer::Left | Answer::Unloaded => LoadError::DeviceGone { device },
        };
        self.failure.get_or_insert(failure);
    }
}
