//! Who waits for what: the caller of each request, and the parts of those that are larger than a batch.

use crate::error::Error;
use crate::models::{Inputs, Model};
use crate::request::{Explanation, Reply};
use crate::scheduler::{Key, RequestId};
use crate::tensor::Tensor;
use crate::worker::Rows;
use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

/// The parts of a request: most have one.
pub(super) type Parts = SmallVec<[(RequestId, u32); 1]>;

/// Every request that is not answered.
#[derive(Default)]
pub(super) struct Waiting {
    requests: FxHashMap<RequestId, Pending>,
    /// Those of parts, by the id of the first.
    wholes: FxHashMap<RequestId, Whole>,
    last_id: u64,
}

struct Pending {
    /// Kept until the answer, in case the run fails.
    rows: Rows,
    waits: Waits,
}

enum Waits {
    Caller(Caller),
    /// A part of this one.
    Whole(RequestId),
}

/// A request that runs in parts.
struct Whole {
    caller: Caller,
    deadline: Instant,
    parts: Vec<Part>,
    explanation: Option<Explanation>,
}

struct Part {
    id: RequestId,
    outputs: Option<Vec<Tensor>>,
}

/// Who waits, and the place it takes among all requests of the node.
pub(super) struct Caller {
    pub(super) reply: oneshot::Sender<Result<Reply, Error>>,
    pub(super) permit: OwnedSemaphorePermit,
}

impl Caller {
    /// The place is free before the answer is seen: whoever was answered may ask again at once. One that has just left
    /// needs no answer.
    pub(super) fn answer(self, result: Result<Reply, Error>) {
        drop(self.permit);
        drop(self.reply.send(result));
    }
}

impl Waiting {
    /// Takes a request in, in as many parts as batches of `rows_max` rows need; the id of each and its rows.
    pub(super) fn insert(
        &mut self,
        inputs: &Inputs,
        deadline: Instant,
        model: &Model,
        caller: Caller,
    ) -> Parts {
        let tensors = &inputs.tensors;
        let (rows, rows_max) = (inputs.rows, model.rows_max);
        let range = |from: u32| from..rows.min(from.saturating_add(rows_max));
        if rows <= rows_max {
            let id = self.next_id();
            let rows = Rows {
                tensors: tensors.clone(),
                range: model.spec.batchable.then(|| range(0)),
            };
            let waits = Waits::Caller(caller);
            self.requests.insert(id, Pending { rows, waits });
            return smallvec![(id, inputs.rows)];
        }
        let first = RequestId(self.last_id + 1);
        let mut parts = Parts::new();
        for from in (0..rows).step_by(rows_max as usize) {
            let range = range(from);
            parts.push((self.next_id(), range.end - range.start));
            let rows = Rows {
                tensors: tensors.clone(),
                range: Some(range),
            };
            let waits = Waits::Whole(first);
            let id = RequestId(self.last_id);
            self.requests.insert(id, Pending { rows, waits });
        }
        let of = |(id, _): &(RequestId, u32)| Part {
            id: *id,
            outputs: None,
        };
        let whole = Whole {
            caller,
            deadline,
            parts: parts.iter().map(of).collect(),
            explanation: None,
        };
        self.wholes.insert(first, whole);
        parts
    }

    fn next_id(&mut self) -> RequestId {
        self.last_id += 1;
        RequestId(self.last_id)
    }

    /// The inputs of a request in a batch.
    pub(super) fn rows(&self, id: RequestId) -> Rows {
        let pending = self.requests.get(&id);
        let pending = pending.expect("a request in a batch has its caller");
        pending.rows.clone()
    }

    /// Whether nobody waits for this request any more; then it is forgotten.
    pub(super) fn forget_if_gone(&mut self, id: RequestId) -> bool {
        let Some(pending) = self.requests.get(&id) else {
            return true;
        };
        let caller = match &pending.waits {
            Waits::Caller(caller) => Some(caller),
            Waits::Whole(first) => self.wholes.get(first).map(|whole| &whole.caller),
        };
        let is_gone = caller.is_none_or(|caller| caller.reply.is_closed());
        if is_gone {
            self.take(id);
        }
        is_gone
    }

    /// A request has been run. Who has left, or whose deadline has passed meanwhile, is not here any more.
    pub(super) fn answer(
        &mut self,
        id: RequestId,
        model: &Model,
        outputs: Vec<Tensor>,
        explanation: Explanation,
    ) {
        let Some(pending) = self.requests.remove(&id) else {
            return;
        };
        let first = match pending.waits {
            Waits::Caller(caller) => {
                caller.answer(Ok(reply(model, outputs, explanation)));
                return;
            }
            Waits::Whole(first) => first,
        };
        let Some(whole) = self.wholes.get_mut(&first) else {
            return;
        };
        if let Some(part) = whole.parts.iter_mut().find(|part| part.id == id) {
            part.outputs = Some(outputs);
        }
        let all = match whole.explanation {
            Some(before) => before.and(explanation),
            None => explanation,
        };
        whole.explanation = Some(all);
        if whole.parts.iter().all(|part| part.outputs.is_some())
            && let Some(whole) = self.wholes.remove(&first)
        {
            let parts = whole.parts.into_iter().filter_map(|part| part.outputs);
            let result = match joined(parts.collect()) {
                Some(outputs) => Ok(reply(model, outputs, all)),
                None => Err(Error::Device),
            };
            whole.caller.answer(result);
        }
    }

    /// A request will not be run, nor any other part of what it is a part of. The parts that are left to withdraw, if there
    /// was anybody to tell.
    pub(super) fn give_up(&mut self, id: RequestId, error: Error) -> Option<Vec<Key>> {
        let (caller, others) = self.take(id)?;
        caller.answer(Err(error));
        Some(others)
    }

    /// Takes a request out, with all parts of what it is a part of.
    fn take(&mut self, id: RequestId) -> Option<(Caller, Vec<Key>)> {
        let first = match self.requests.remove(&id)?.waits {
            Waits::Caller(caller) => return Some((caller, Vec::new())),
            Waits::Whole(first) => first,
        };
        let whole = self.wholes.remove(&first)?;
        let others = whole.parts.iter().map(|part| part.id);
        let others = others.filter(|other| *other != id);
        let others: Vec<Key> = others.map(|other| (whole.deadline, other)).collect();
        for (_, other) in &others {
            self.requests.remove(other);
        }
        Some((whole.caller, others))
    }
}

fn reply(model: &Model, outputs: Vec<Tensor>, explanation: Explanation) -> Reply {
    let names = model.spec.outputs.iter().map(|port| port.name.clone());
    Reply {
        outputs: names.zip(outputs).collect(),
        explanation,
    }
}

/// The rows of each output, one part after the other. `None`: they do not fit together, which a device may do to a model that
/// leaves sizes of its outputs open.
fn joined(parts: Vec<Vec<Tensor>>) -> Option<Vec<Tensor>> {
    let outputs = parts.first()?.len();
    let mut joined = Vec::with_capacity(outputs);
    for at in 0..outputs {
        let first = parts.first()?.get(at)?;
        let mut dims = first.dims().to_vec();
        let mut data = Vec::with_capacity(first.data().len() * parts.len());
        *dims.first_mut()? = 0;
        for part in &parts {
            let tensor = part.get(at)?;
            let (rows, rest) = tensor.dims().split_first()?;
            if dims.get(1..) != Some(rest) || tensor.dtype() != first.dtype() {
                return None;
            }
            dims[0] = dims[0].checked_add(*rows)?;
            data.extend_from_slice(tensor.data());
        }
        joined.push(Tensor::new(first.dtype(), dims, data).ok()?);
    }
    Some(joined)
}
