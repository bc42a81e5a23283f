//! Which models there are: the one writer of the catalogue. What devices are told of it is `changes`' business.

use super::Running;
use crate::cost::CostCurve;
use crate::engine::changes::{Answer, Loaded};
use crate::engine::workers::Workers;
use crate::engine::{LoadOrder, Order};
use crate::error::{Error, LoadError, UnloadError};
use crate::models::Model;
use crate::request::ModelId;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A model that has gone from the catalogue, while a run of it may still be on a device.
pub(super) struct Leaving {
    model: ModelId,
    reply: oneshot::Sender<Result<(), UnloadError>>,
}

impl Running<'_> {
    pub(super) fn follow(&mut self, workers: &Workers, order: Order) {
        match order {
            Order::Load(order) => self.load(workers, order),
            Order::Unload { name, reply } => self.unload(workers, &name, reply),
            Order::Terms { tenant, terms } => self.scheduler.set_terms(tenant, terms),
        }
    }

    fn load(&mut self, workers: &Workers, order: LoadOrder) {
        let catalogue = self.shared.catalogue.load();
        let limit = self.shared.config.models_max;
        // The handle has looked as well, but the order may have waited for a load of the same name.
        if catalogue.by_name(&order.source.name).is_some() {
            let model = order.source.name.clone();
            order.answer(Err(LoadError::Duplicate { model }));
        } else if catalogue.len() >= limit {
            order.answer(Err(LoadError::TooMany { limit }));
        } else {
            self.changes.load(workers, order);
        }
    }

    fn unload(
        &mut self,
        workers: &Workers,
        name: &str,
        reply: oneshot::Sender<Result<(), UnloadError>>,
    ) {
        let catalogue = self.shared.catalogue.load();
        let Some(model) = catalogue.by_name(name) else {
            drop(reply.send(Err(UnloadError::NotLoaded(name.to_owned()))));
            return;
        };
        self.shared
            .catalogue
            .store(Arc::new(catalogue.without(model)));
        let given_back = self.scheduler.remove_model(model.id);
        self.give_up_all(given_back, &Error::NotLoaded);
        let model = model.id;
        self.leaving.push(Leaving { model, reply });
        self.see_off(workers);
    }

    /// Has the devices let go of every model that has left the catalogue and of which no run is left.
    pub(super) fn see_off(&mut self, workers: &Workers) {
        let is_running = |leaving: &mut Leaving| self.scheduler.is_running(leaving.model);
        let gone: Vec<Leaving> = self
            .leaving
            .extract_if(.., |leaving| !is_running(leaving))
            .collect();
        for Leaving { model, reply } in gone {
            self.models.remove(&model);
            self.changes.unload(workers, model, reply);
        }
    }

    /// What a device says to the change under way.
    pub(super) fn change(&mut self, workers: &Workers, device: usize, answer: Answer) {
        if let Some(loaded) = self.changes.take_in(workers, device, answer) {
            self.add_model(workers, loaded);
        }
    }

    /// Every device has the model: from here on it can be asked for.
    fn add_model(&mut self, workers: &Workers, loaded: Loaded) {
        let Loaded {
            id,
            spec,
            encoder,
            order,
        } = loaded;
        let rows_max = match spec.batchable {
            true => self.shared.config.rows_max,
            false => 1,
        };
        let model = Arc::new(Model {
            id,
            name: order.source.name.clone(),
            spec,
            rows_max,
            encoder,
        });
        let curve = CostCurve::of_dry_runs(order.source.dry_runs.iter().copied());
        let devices = workers.live();
        self.scheduler.add_model(id, rows_max, devices, &curve);
        self.models.insert(id, Arc::clone(&model));
        let catalogue = self.shared.catalogue.load().with(&model);
        self.shared.catalogue.store(Arc::new(catalogue));
        order.answer(Ok(model));
    }
}
