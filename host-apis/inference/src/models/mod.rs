//! The catalogue: which models there are, and what each takes and gives. Changed by the engine's task alone, as a whole: who
//! reads it sees every model that every device has loaded, or the list before that.

mod inputs;

pub(crate) use inputs::{InputLimits, Inputs};

use crate::request::{ModelId, ModelSpec};
use crate::text::Encoder;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A model that is loaded on every device.
#[derive(Clone, Debug)]
pub struct Model {
    /// Names it in requests. A model that is loaded again has another.
    pub id: ModelId,
    /// The name grants and guests use.
    pub name: String,
    /// What it takes and gives.
    pub spec: ModelSpec,
    /// Most rows of one batch. 1 if the model cannot be batched.
    pub rows_max: u32,
    /// How texts are put to it, if they can be.
    pub encoder: Option<Arc<Encoder>>,
}

/// Its encoder comes from the file that the id stands for.
impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        let all = |model: &Self| (model.id, model.rows_max);
        all(self) == all(other) && self.name == other.name && self.spec == other.spec
    }
}

/// All models, by id and by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalogue {
    by_id: BTreeMap<ModelId, Arc<Model>>,
    by_name: HashMap<String, ModelId>,
}

impl Catalogue {
    pub(crate) fn get(&self, id: ModelId) -> Option<&Arc<Model>> {
        self.by_id.get(&id)
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&Arc<Model>> {
        self.get(*self.by_name.get(name)?)
    }

    /// In the order in which they were loaded.
    pub(crate) fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.by_id.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn with(&self, model: &Arc<Model>) -> Self {
        let mut changed = self.clone();
        changed.by_name.insert(model.name.clone(), model.id);
        changed.by_id.insert(model.id, Arc::clone(model));
        changed
    }

    pub(crate) fn without(&self, model: &Model) -> Self {
        let mut changed = self.clone();
        changed.by_name.remove(&model.name);
        changed.by_id.remove(&model.id);
        changed
    }
}
