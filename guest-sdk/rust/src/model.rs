//! Models, by name, over `wasi:nn`. Which names a function may open is granted when it is deployed.

use std::fmt;

use crate::bindings::shoal::inference::many::infer_many;
pub use crate::bindings::wasi::nn::errors::ErrorCode;
use crate::bindings::wasi::nn::{errors, graph, inference, tensor as raw};
use crate::{Tensor, TensorError};

/// What the host takes in one call.
const REQUESTS_MAX: usize = 256;

/// A model that is ready to run.
///
/// ```no_run
/// use shoal_sdk::{Error, Model, Tensor};
///
/// # fn classify(pixels: Vec<f32>) -> Result<Vec<f32>, Error> {
/// let model = Model::open("digits")?;
/// let outputs = model.run([("image", Tensor::f32([1, 64], pixels)?)])?;
/// Ok(outputs.f32("probabilities")?)
/// # }
/// ```
pub struct Model {
    // Before the graph it belongs to: fields are dropped in this order.
    context: inference::GraphExecutionContext,
    _graph: graph::Graph,
}

/// What a model answered: tensors by name.
#[derive(Clone, Debug)]
pub struct Outputs {
    tensors: Vec<(String, Tensor)>,
}

/// Why a model did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelError {
    /// The host refused the call or failed at it.
    Host {
        /// Which kind of failure, as `wasi:nn` has them. A full queue and a passed deadline are [`ErrorCode::Timeout`].
        code: ErrorCode,
        /// What the host says about it.
        message: String,
    },
    /// The model has no output of that name.
    NoOutput {
        /// The name asked for.
        name: String,
    },
    /// A tensor has the wrong length or type.
    Tensor(TensorError),
}

impl Model {
    /// Opens the model that the node knows by that name.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] where there is none, [`ErrorCode::Security`] where this function was not granted it.
    pub fn open(name: &str) -> Result<Self, ModelError> {
        let graph = graph::load_by_name(name)?;
        let context = graph.init_execution_context()?;
        Ok(Self {
            context,
            _graph: graph,
        })
    }

    /// Runs the model once on named inputs. Waiting for it takes no CPU time; requests of other functions that wait
    /// for the same model run in the same batch.
    ///
    /// # Errors
    /// [`ErrorCode::Timeout`] when the model has too much to do: try again later. [`ErrorCode::InvalidArgument`] where
    /// the inputs are not the model's, [`ErrorCode::TooLarge`] where they are over a limit.
    pub fn run<'a>(
        &self,
        inputs: impl IntoIterator<Item = (&'a str, Tensor)>,
    ) -> Result<Outputs, ModelError> {
        Outputs::of(self.context.compute(to_host(inputs))?)
    }

    /// Runs the model on many requests at once, each by itself: they can share batches, with each other and with those of
    /// other functions, and one that fails keeps no other from its answer. The answers are in the order of the requests.
    ///
    /// Where every request has the same inputs, one [`Model::run`] with more rows costs less.
    ///
    /// ```no_run
    /// # use shoal_sdk::{Error, Model, Tensor};
    /// # fn classify(pictures: Vec<Vec<f32>>) -> Result<(), Error> {
    /// let tensors: Vec<Tensor> = pictures
    ///     .into_iter()
    ///     .map(|pixels| Tensor::f32([1, 64], pixels))
    ///     .collect::<Result<_, _>>()?;
    /// let requests = tensors.into_iter().map(|tensor| [("image", tensor)]);
    /// for answer in Model::open("digits")?.run_many(requests)? {
    ///     match answer {
    ///         Ok(outputs) => println!("{:?}", outputs.f32("probabilities")?),
    ///         Err(error) => println!("{error}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// None of the whole but what the host cannot do at all; each request has an outcome as [`Model::run`] has.
    pub fn run_many<'a, I>(
        &self,
        requests: impl IntoIterator<Item = I>,
    ) -> Result<Vec<Result<Outputs, ModelError>>, ModelError>
    where
        I: IntoIterator<Item = (&'a str, Tensor)>,
    {
        let mut requests = requests.into_iter().map(to_host);
        let mut answers = Vec::new();
        loop {
            let some: Vec<_> = requests.by_ref().take(REQUESTS_MAX).collect();
            if some.is_empty() {
                return Ok(answers);
            }
            let outcomes = infer_many(&self.context, some)?.into_iter();
            answers.extend(outcomes.map(|outcome| Outputs::of(outcome?)));
        }
    }
}

impl Outputs {
    fn of(outputs: Vec<(String, raw::Tensor)>) -> Result<Self, ModelError> {
        let tensors = outputs
            .into_iter()
            .map(|(name, tensor)| Ok((name, from_raw(&tensor)?)));
        Ok(Self {
            tensors: tensors.collect::<Result<_, TensorError>>()?,
        })
    }

    /// The output of that name.
    ///
    /// # Errors
    /// [`ModelError::NoOutput`] where the model has none.
    pub fn tensor(&self, name: &str) -> Result<&Tensor, ModelError> {
        let found = self.tensors.iter().find(|(known, _)| known == name);
        found
            .map(|(_, tensor)| tensor)
            .ok_or_else(|| ModelError::NoOutput {
                name: name.to_owned(),
            })
    }

    /// Every output with its name, in the model's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }
}

fn to_host<'a>(inputs: impl IntoIterator<Item = (&'a str, Tensor)>) -> Vec<(String, raw::Tensor)> {
    let inputs = inputs.into_iter();
    inputs
        .map(|(name, tensor)| (name.to_owned(), to_raw(&tensor)))
        .collect()
}

fn to_raw(tensor: &Tensor) -> raw::Tensor {
    raw::Tensor::new(tensor.dims(), tensor.ty(), tensor.data())
}

fn from_raw(tensor: &raw::Tensor) -> Result<Tensor, TensorError> {
    Tensor::from_bytes(tensor.dimensions(), tensor.ty(), tensor.data())
}

/// The `code` of the error's HTTP answer, and its name in logs.
pub(crate) fn code_name(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::InvalidArgument => "model_invalid_argument",
        ErrorCode::InvalidEncoding => "model_invalid_encoding",
        ErrorCode::Timeout => "model_timeout",
        ErrorCode::RuntimeError => "model_runtime_error",
        ErrorCode::UnsupportedOperation => "model_unsupported_operation",
        ErrorCode::TooLarge => "model_too_large",
        ErrorCode::NotFound => "model_not_found",
        ErrorCode::Security => "model_not_granted",
        ErrorCode::Unknown => "model_unknown",
    }
}

impl std::error::Error for ModelError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Tensor(error) => Some(error),
            Self::Host { .. } | Self::NoOutput { .. } => None,
        }
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { code, message } => write!(f, "{}: {message}", code_name(*code)),
            Self::NoOutput { name } => write!(f, "model has no output \"{name}\""),
            Self::Tensor(error) => error.fmt(f),
        }
    }
}

impl From<errors::Error> for ModelError {
    fn from(error: errors::Error) -> Self {
        Self::Host {
            code: error.code(),
            message: error.data(),
        }
    }
}

impl From<TensorError> for ModelError {
    fn from(error: TensorError) -> Self {
        Self::Tensor(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs() -> Outputs {
        let probabilities = Tensor::f32([1, 2], [0.25, 0.75]).expect("2 values");
        Outputs {
            tensors: vec![("probabilities".to_owned(), probabilities)],
        }
    }

    #[test]
    fn an_output_is_read_by_name() {
        assert_eq!(outputs().f32("probabilities"), Ok(vec![0.25, 0.75]));
        assert_eq!(
            outputs()
                .iter()
                .next()
                .map(|(name, tensor)| (name, tensor.dims())),
            Some(("probabilities", &[1, 2][..]))
        );
    }

    #[test]
    fn an_output_the_model_does_not_have_is_named_in_the_error() {
        let error = outputs().f32("label").expect_err("there is no such output");
        assert_eq!(error.to_string(), "model has no output \"label\"");
    }

    #[test]
    fn an_output_of_another_type_is_not_read() {
        let error = outputs()
            .i32("probabilities")
            .expect_err("the output is f32");
        assert!(
            matches!(error, ModelError::Tensor(TensorError::Type { .. })),
            "{error}"
        );
    }
}
