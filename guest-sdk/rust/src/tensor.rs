//! Tensors as plain values: checked when they are made, so that what reaches a model is whole.

use std::fmt;

pub use crate::bindings::wasi::nn::tensor::TensorType;

/// Numbers in row-major order with their dimensions.
///
/// ```
/// # use shoal_sdk::{Tensor, TensorError};
/// let image = Tensor::f32([1, 2, 2], [0.0, 0.5, 0.5, 1.0])?;
/// assert_eq!(image.dims(), [1, 2, 2]);
/// # Ok::<(), TensorError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    dims: Vec<u32>,
    ty: TensorType,
    data: Vec<u8>,
}

/// Why a tensor cannot be made, or not be read as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TensorError {
    /// The data is not as long as the dimensions and the type say; lengths in bytes.
    Length {
        /// The dimensions given.
        dims: Vec<u32>,
        /// The type of the elements.
        ty: TensorType,
        /// What they take; `None` where that is more than can be addressed.
        expected_bytes: Option<usize>,
        /// What came.
        found_bytes: usize,
    },
    /// Values of one type were read as another.
    Type {
        /// What was asked for.
        expected: TensorType,
        /// What the tensor holds.
        found: TensorType,
    },
}

/// A Rust type that tensors are made of.
pub trait Element: Copy + sealed::Bytes {
    /// Its name in `wasi:nn`.
    const TYPE: TensorType;
}

impl Tensor {
    /// A tensor of `dims`, whose product must be the number of `values`.
    ///
    /// # Errors
    /// [`TensorError::Length`] where it is not.
    pub fn new<T: Element>(dims: impl Into<Vec<u32>>, values: &[T]) -> Result<Self, TensorError> {
        let mut data = Vec::with_capacity(size_of_val(values));
        for value in values {
            value.append_to(&mut data);
        }
        Self::from_bytes(dims, T::TYPE, data)
    }

    /// A tensor of any type, its elements little-endian: the way for `fp16` and `bf16`.
    ///
    /// # Errors
    /// [`TensorError::Length`] where `data` is not the product of `dims` times the size of `ty`.
    pub fn from_bytes(
        dims: impl Into<Vec<u32>>,
        ty: TensorType,
        data: Vec<u8>,
    ) -> Result<Self, TensorError> {
        let dims = dims.into();
        let expected_bytes = byte_len(&dims, ty);
        if expected_bytes != Some(data.len()) {
            return Err(TensorError::Length {
                dims,
                ty,
                expected_bytes,
                found_bytes: data.len(),
            });
        }
        Ok(Self { dims, ty, data })
    }

    /// The size of each dimension, the outermost first.
    pub fn dims(&self) -> &[u32] {
        &self.dims
    }

    /// The type of the elements.
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// The elements, little-endian, in row-major order.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The elements as Rust values.
    ///
    /// # Errors
    /// [`TensorError::Type`] where the tensor holds another type.
    pub fn values<T: Element>(&self) -> Result<Vec<T>, TensorError> {
        if self.ty != T::TYPE {
            return Err(TensorError::Type {
                expected: T::TYPE,
                found: self.ty,
            });
        }
        Ok(self
            .data
            .chunks_exact(size_of::<T>())
            .map(T::from_chunk)
            .collect())
    }
}

/// `None` where the length is more than can be addressed.
fn byte_len(dims: &[u32], ty: TensorType) -> Option<usize> {
    dims.iter()
        .try_fold(element_bytes(ty), |bytes: usize, &dim| {
            bytes.checked_mul(usize::try_from(dim).ok()?)
        })
}

const fn element_bytes(ty: TensorType) -> usize {
    match ty {
        TensorType::U8 => 1,
        TensorType::Fp16 | TensorType::Bf16 => 2,
        TensorType::Fp32 | TensorType::I32 => 4,
        TensorType::Fp64 | TensorType::I64 => 8,
    }
}

mod sealed {
    pub trait Bytes {
        fn append_to(self, data: &mut Vec<u8>);
        /// `chunk` is exactly one element long.
        fn from_chunk(chunk: &[u8]) -> Self;
    }
}

macro_rules! elements {
    ($($element:ident: $ty:ident),*) => {
        $(
            impl Element for $element {
                const TYPE: TensorType = TensorType::$ty;
            }

            impl sealed::Bytes for $element {
                fn append_to(self, data: &mut Vec<u8>) {
                    data.extend_from_slice(&self.to_le_bytes());
                }

                fn from_chunk(chunk: &[u8]) -> Self {
                    Self::from_le_bytes(chunk.try_into().expect("chunks_exact yields whole elements"))
                }
            }
        )*

        impl Tensor {
            $(
                #[doc = concat!("A tensor of `", stringify!($element), "`; see [`Tensor::new`].")]
                ///
                /// # Errors
                /// [`TensorError::Length`] where the product of `dims` is not the number of `values`.
                pub fn $element(dims: impl Into<Vec<u32>>, values: impl AsRef<[$element]>) -> Result<Self, TensorError> {
                    Self::new(dims, values.as_ref())
                }
            )*
        }

        impl crate::Outputs {
            $(
                #[doc = concat!("The values of the output `name`, which must be `", stringify!($element), "`.")]
                ///
                /// # Errors
                /// [`ModelError::NoOutput`](crate::ModelError::NoOutput) or [`TensorError::Type`].
                pub fn $element(&self, name: &str) -> Result<Vec<$element>, crate::ModelError> {
                    Ok(self.tensor(name)?.values()?)
                }
            )*
        }
    };
}

elements!(f32: Fp32, f64: Fp64, u8: U8, i32: I32, i64: I64);

impl std::error::Error for TensorError {}

impl fmt::Display for TensorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length {
                dims,
                ty,
                expected_bytes: Some(expected),
                found_bytes,
            } => {
                // In what people count, where that came out even.
                let (size, unit) = match element_bytes(*ty) {
                    size if found_bytes % size == 0 => (size, "elements"),
                    _ => (1, "bytes"),
                };
                let (expected, found) = (expected / size, found_bytes / size);
                write!(
                    f,
                    "tensor of dimensions {dims:?} takes {expected} {unit}, got {found}"
                )
            }
            Self::Length {
                dims,
                expected_bytes: None,
                ..
            } => {
                write!(
                    f,
                    "tensor of dimensions {dims:?} is larger than memory can be"
                )
            }
            Self::Type { expected, found } => {
                write!(f, "expected a tensor of {expected:?}, got {found:?}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_round_trip_in_every_type() {
        assert_eq!(
            Tensor::f32([2], [1.5, -2.0])
                .unwrap()
                .values::<f32>()
                .unwrap(),
            [1.5, -2.0]
        );
        assert_eq!(
            Tensor::f64([1], [f64::MIN])
                .unwrap()
                .values::<f64>()
                .unwrap(),
            [f64::MIN]
        );
        assert_eq!(
            Tensor::u8([3], [0, 1, 255])
                .unwrap()
                .values::<u8>()
                .unwrap(),
            [0, 1, 255]
        );
        assert_eq!(
            Tensor::i32([1], [i32::MIN])
                .unwrap()
                .values::<i32>()
                .unwrap(),
            [i32::MIN]
        );
        assert_eq!(
            Tensor::i64([1], [i64::MIN])
                .unwrap()
                .values::<i64>()
                .unwrap(),
            [i64::MIN]
        );
    }

    #[test]
    fn elements_are_little_endian() {
        assert_eq!(Tensor::i32([1], [1]).unwrap().data(), [1, 0, 0, 0]);
    }

    #[test]
    fn one_value_too_few_or_too_many_is_refused() {
        for found in [63, 65] {
            let error = Tensor::f32([1, 64], vec![0.0; found]).unwrap_err();
            let expected = TensorError::Length {
                dims: vec![1, 64],
                ty: TensorType::Fp32,
                expected_bytes: Some(256),
                found_bytes: found * 4,
            };
            assert_eq!(error, expected);
            let words = format!("dimensions [1, 64] takes 64 elements, got {found}");
            assert!(error.to_string().contains(&words), "{error}");
        }
        let error = Tensor::from_bytes([2], TensorType::I64, vec![0; 15]).unwrap_err();
        assert!(
            error.to_string().contains("takes 16 bytes, got 15"),
            "{error}"
        );
    }

    #[test]
    fn dimensions_that_overflow_are_refused() {
        let error = Tensor::u8([u32::MAX; 3], []).unwrap_err();
        assert!(
            matches!(
                error,
                TensorError::Length {
                    expected_bytes: None,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_dimension_of_zero_takes_no_values_and_none_takes_one() {
        assert!(Tensor::f32([0, 64], []).is_ok());
        assert!(Tensor::f32([], [1.0]).is_ok());
        assert!(Tensor::f32([], []).is_err());
    }

    #[test]
    fn values_are_not_read_as_another_type_of_the_same_size() {
        let error = Tensor::i32([1], [1]).unwrap().values::<f32>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected a tensor of TensorType::Fp32, got TensorType::I32"
        );
    }
}
