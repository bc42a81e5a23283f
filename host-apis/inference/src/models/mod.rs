//! The catalogue: which models there are, and what each takes and gives. Fixed once every device has loaded every model.

mod inputs;

pub(crate) use inputs::Inputs;

use crate::request::{ModelId, ModelSpec};
use std::collections::HashMap;
use std::sync::Arc;

/// A model that is loaded on every device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Names it in requests.
    pub id: ModelId,
    /// The name grants and guests use.
    pub name: String,
    /// What it takes and gives.
    pub spec: ModelSpec,
    /// Most rows of one request, and of one batch. 1 if the model cannot be batched.
    pub rows_max: u32,
}

/// All models, by id and by name.
#[derive(Debug)]
pub(crate) struct Catalogue {
    models: Vec<Arc<Model>>,
    by_name: HashMap<String, ModelId>,
}

impl Catalogue {
    /// `specs[i]` belongs to `names[i]` and becomes `ModelId(i)`.
    pub(crate) fn new(names: Vec<String>, specs: Vec<ModelSpec>, rows_max: u32) -> Self {
        assert_eq!(names.len(), specs.len(), "every model has its spec");
        let models: Vec<Arc<Model>> = (0..)
            .map(ModelId)
            .zip(names.into_iter().zip(specs))
            .map(|(id, (name, spec))| {
                let rows_max = if spec.batchable { rows_max } else { 1 };
                Arc::new(Model {
                    id,
                    name,
                    spec,
                    rows_max,
                })
            })
            .collect();
        let by_name = models
            .iter()
            .map(|model| (model.name.clone(), model.id))
            .collect();
        Self { models, by_name }
    }

    pub(crate) fn get(&self, id: ModelId) -> Option<&Arc<Model>> {
        self.models.get(id.0 as usize)
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&Arc<Model>> {
        self.get(*self.by_name.get(name)?)
    }

    pub(crate) fn models(&self) -> &[Arc<Model>] {
        &self.models
    }
}
