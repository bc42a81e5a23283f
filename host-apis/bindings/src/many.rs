//! `shoal:inference/many`: many requests to one model in one call, over the handles of `wasi:nn`. They are submitted together,
//! so that they can share batches; each has its own answer.

use crate::nn::{Answer, ErrorCode, ExecutionContext, HasNn, NnError, NnView, WithNn};
use shoal_inference::Error;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_nn::Tensor;

/// Requests of one call. Each takes some of the guest's handles.
const REQUESTS_MAX: usize = 256;

pub(crate) mod bindings {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        reason = "generated code: its documentation is the WIT"
    )]
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "shoal:inference/imports",
        require_store_data_send: true,
        imports: {
            "shoal:inference/many.infer-many": async | trappable,
            "shoal:inference/embeddings.embed": async | trappable,
            default: trappable,
        },
        with: {
            "wasi:nn/tensor": crate::nn::bindings::wasi::nn::tensor,
            "wasi:nn/errors": crate::nn::bindings::wasi::nn::errors,
            "wasi:nn/inference": crate::nn::bindings::wasi::nn::inference,
        },
    });
}
use bindings::shoal::inference::many;

/// Links the interface.
///
/// # Errors
/// If it is linked already.
pub fn add_to_linker<T: WithNn>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    many::add_to_linker::<T, HasNn>(linker, T::nn)
}

type Named = Vec<(String, Resource<Tensor>)>;
type Answers = Vec<Result<Named, Resource<NnError>>>;

impl many::Host for NnView<'_> {
    async fn infer_many(
        &mut self,
        context: Resource<ExecutionContext>,
        requests: Vec<Named>,
    ) -> Answer<Answers> {
        let count = requests.len();
        let mut taken = Vec::with_capacity(count);
        for inputs in requests {
            taken.push(self.take_inputs(inputs)?);
        }
        if count > REQUESTS_MAX {
            let why = format!("{count} requests in one call, at most {REQUESTS_MAX} are allowed");
            return self.refuse(ErrorCode::TooLarge, why);
        }
        let mut asked = Vec::with_capacity(count);
        let mut refused = Vec::with_capacity(count);
        for inputs in taken {
            refused.push(match inputs {
                Ok(inputs) => {
                    asked.push(inputs);
                    None
                }
                Err(why) => Some(why),
            });
        }
        let mut outcomes = self.ask_many(&context, asked)?.await.into_iter();
        let mut answers = Vec::with_capacity(count);
        for refused in refused {
            let outcome = match refused {
                Some(why) => Err(why.into()),
                None => outcomes.next().unwrap_or(Err(Error::Stopped)),
            };
            answers.push(self.answer(outcome)?);
        }
        Ok(Ok(answers))
    }
}
