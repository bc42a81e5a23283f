//! Answers the host calls of one invocation: its identity, grants and deadline are bound in here, so that nothing a guest
//! passes can name a tenant.

use crate::http::Record;
use crate::sandbox::Function;
use shoal_host::nn::{BoxFuture, Infer, OpenError, Outcomes};
use shoal_inference::{
    EmbedRequest, Error, Inference, Model, ModelId, ModelSpec, NamedTensor, Request, Tensor,
};
use std::sync::Arc;
use tokio::time::Instant;

/// One invocation's door to inference.
pub(crate) struct Host {
    pub(crate) function: Arc<Function>,
    pub(crate) inference: Inference,
    pub(crate) deadline: Instant,
    pub(crate) record: Arc<Record>,
}

impl Host {
    /// Again, and here: a sandbox in another process could name a model that it never opened.
    fn check(&self, model: ModelId) -> Result<Arc<Model>, Error> {
        match self.inference.model_of(model) {
            None => Err(Error::NotLoaded),
            Some(model) if !self.function.grants.models.contains(&model.name) => {
                Err(Error::Invalid(OpenError::NotGranted.to_string()))
            }
            Some(model) => Ok(model),
        }
    }

    fn request(&self, model: ModelId, inputs: Vec<NamedTensor>) -> Request {
        Request {
            tenant: self.function.tenant.id,
            model,
            class: self.function.grants.class,
            deadline: self.deadline,
            inputs,
        }
    }
}

impl Infer for Host {
    fn open(&self, name: String) -> BoxFuture<Result<ModelId, OpenError>> {
        let opened = match self.inference.model(&name) {
            None => Err(OpenError::Unknown),
            Some(_) if !self.function.grants.models.contains(&name) => Err(OpenError::NotGranted),
            Some(model) => Ok(model.id),
        };
        Box::pin(std::future::ready(opened))
    }

    fn describe(&self, model: ModelId) -> BoxFuture<Result<ModelSpec, Error>> {
        let described = self.check(model).map(|model| model.spec.clone());
        Box::pin(std::future::ready(described))
    }

    fn infer(
        &self,
        model: ModelId,
        inputs: Vec<NamedTensor>,
    ) -> BoxFuture<Result<Vec<NamedTensor>, Error>> {
        if let Err(refused) = self.check(model) {
            return Box::pin(std::future::ready(Err(refused)));
        }
        let request = self.request(model, inputs);
        let (inference, record) = (self.inference.clone(), self.record.clone());
        Box::pin(async move {
            let reply = inference.submit(request).await?;
            record.inferred(&reply.explanation);
            Ok(reply.outputs)
        })
    }

    fn infer_many(&self, model: ModelId, requests: Vec<Vec<NamedTensor>>) -> BoxFuture<Outcomes> {
        if let Err(refused) = self.check(model) {
            let all = requests.iter().map(|_| Err(refused.clone()));
            return Box::pin(std::future::ready(all.collect()));
        }
        let requests = requests.into_iter();
        let requests = requests.map(|inputs| self.request(model, inputs)).collect();
        let (inference, record) = (self.inference.clone(), self.record.clone());
        Box::pin(async move {
            let replies = inference.submit_many(requests).await.into_iter();
            let outcomes = replies.map(|reply| {
                let reply = reply?;
                record.inferred(&reply.explanation);
                Ok(reply.outputs)
            });
            outcomes.collect()
        })
    }

    fn embed(&self, model: ModelId, texts: Vec<String>) -> BoxFuture<Result<Tensor, Error>> {
        if let Err(refused) = self.check(model) {
            return Box::pin(std::future::ready(Err(refused)));
        }
        let request = EmbedRequest {
            tenant: self.function.tenant.id,
            model,
            class: self.function.grants.class,
            deadline: self.deadline,
            texts,
        };
        let (inference, record) = (self.inference.clone(), self.record.clone());
        Box::pin(async move {
            let reply = inference.embed(request).await?;
            for explanation in &reply.explanations {
                record.inferred(explanation);
            }
            Ok(reply.vectors)
        })
    }
}
