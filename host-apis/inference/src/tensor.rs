//! A tensor as every caller hands it in: element type, dimensions, bytes. Checked once, when it is made, so that nothing
//! behind this file ever sees a length that does not match.

use serde::{Deserialize, Serialize};

/// Element types that models may use; all little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DType {
    /// IEEE 754 half precision.
    F16,
    /// bfloat16.
    BF16,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
    /// Unsigned byte.
    U8,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::U8 => 1,
            DType::F16 | DType::BF16 => 2,
            DType::F32 | DType::I32 => 4,
            DType::F64 | DType::I64 => 8,
        }
    }
}

/// Most dimensions a tensor may have.
pub const RANK_MAX: usize = 8;

/// Why bytes are not a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// More dimensions than [`RANK_MAX`].
    #[error("tensor has {rank} dimensions, at most {RANK_MAX} are allowed")]
    Rank {
        /// Dimensions given.
        rank: usize,
    },
    /// The product of the dimensions and the element size does not fit in 64 bits.
    #[error("tensor dimensions {dims:?} overflow")]
    Overflow {
        /// Dimensions given.
        dims: Vec<u32>,
    },
    /// The data is not as long as the dimensions say.
    #[error("tensor dimensions ask for {expected} bytes, data has {actual}")]
    Length {
        /// Product of the dimensions times the element size.
        expected: u64,
        /// Length of the data.
        actual: u64,
    },
    /// More bytes than the limit.
    #[error("tensor has {bytes} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Length of the data.
        bytes: u64,
        /// The configured limit (`tensor_bytes_max`).
        limit: u64,
    },
}

/// Dimensions, element type and row-major little-endian data whose length always matches.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    dtype: DType,
    dims: Vec<u32>,
    data: Vec<u8>,
}

impl Tensor {
    /// Checks `data` against `dims` and `dtype`. The total validation of everything a guest hands in.
    ///
    /// # Errors
    /// Rank over [`RANK_MAX`], an overflowing product, or data of another length.
    pub fn new(dtype: DType, dims: Vec<u32>, data: Vec<u8>) -> Result<Self, TensorError> {
        let expected = byte_len(dtype, &dims)?;
        let actual = data.len() as u64;
        if expected != actual {
            return Err(TensorError::Length { expected, actual });
        }
        Ok(Self { dtype, dims, data })
    }

    /// A tensor of f32 values.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn f32(dims: Vec<u32>, values: &[f32]) -> Result<Self, TensorError> {
        Self::new(
            DType::F32,
            dims,
            values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        )
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions, outermost first. Empty for a scalar.
    pub fn dims(&self) -> &[u32] {
        &self.dims
    }

    /// Row-major little-endian bytes.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The values, if this is an f32 tensor.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        (self.dtype == DType::F32).then(|| {
            let (values, _) = self.data.as_chunks::<4>();
            values.iter().copied().map(f32::from_le_bytes).collect()
        })
    }

    /// Takes the tensor apart.
    pub fn into_parts(self) -> (DType, Vec<u32>, Vec<u8>) {
        (self.dtype, self.dims, self.data)
    }
}

/// Bytes that a tensor of these dimensions must have.
///
/// # Errors
/// Rank over [`RANK_MAX`] or an overflowing product.
pub fn byte_len(dtype: DType, dims: &[u32]) -> Result<u64, TensorError> {
    if dims.len() > RANK_MAX {
        return Err(TensorError::Rank { rank: dims.len() });
    }
    dims.iter()
        .try_fold(dtype.size() as u64, |bytes, dim| {
            bytes.checked_mul(u64::from(*dim))
        })
        .ok_or_else(|| TensorError::Overflow {
            dims: dims.to_vec(),
        })
}
