//! The total validation of everything a guest hands in.

use crate::support::seed::cases;
use proptest::prelude::*;
use shoal_inference::{DType, RANK_MAX, Tensor, TensorError, byte_len};

const DTYPES: [DType; 7] = [
    DType::F16,
    DType::BF16,
    DType::F32,
    DType::F64,
    DType::U8,
    DType::I32,
    DType::I64,
];

#[test]
fn element_sizes_are_those_of_the_formats() {
    assert_eq!(DTYPES.map(DType::size), [2, 2, 4, 8, 1, 4, 8]);
}

#[test]
fn a_scalar_and_an_empty_tensor_are_tensors() {
    assert!(Tensor::new(DType::F32, vec![], vec![0; 4]).is_ok());
    assert!(Tensor::new(DType::F32, vec![0, 9], vec![]).is_ok());
    assert!(Tensor::new(DType::F32, vec![0, 9], vec![0]).is_err());
}

#[test]
fn the_rank_at_one_over_and_far_over_the_limit() {
    assert_eq!(byte_len(DType::U8, &[1; RANK_MAX]), Ok(1));
    for rank in [RANK_MAX + 1, 1_000_000] {
        let dims = vec![1; rank];
        assert_eq!(byte_len(DType::U8, &dims), Err(TensorError::Rank { rank }));
    }
}

#[test]
fn a_product_that_overflows_is_refused_and_one_that_just_fits_is_not() {
    let dims = vec![u32::MAX, u32::MAX];
    assert_eq!(byte_len(DType::U8, &dims), Ok(u64::from(u32::MAX).pow(2)));
    for dims in [vec![u32::MAX, u32::MAX, 2], vec![u32::MAX; RANK_MAX]] {
        let overflow = TensorError::Overflow { dims: dims.clone() };
        assert_eq!(byte_len(DType::U8, &dims), Err(overflow));
    }
    // A zero anywhere makes it empty only if nothing before it overflows: refusing more is safe, panicking is not.
    let _ = byte_len(DType::F64, &[u32::MAX, u32::MAX, u32::MAX, 0]);
}

#[test]
fn values_come_back_as_they_were_given() {
    let values = [1.5, -0.0, f32::INFINITY, f32::MIN_POSITIVE / 2.0];
    let tensor = Tensor::f32(vec![2, 2], &values).unwrap();
    assert_eq!(tensor.to_f32().unwrap(), values);
    let (dtype, dims, data) = tensor.into_parts();
    assert_eq!(
        (dtype, dims.as_slice(), data.len()),
        (DType::F32, [2, 2].as_slice(), 16)
    );
    let bytes = Tensor::new(DType::U8, vec![1], vec![1]).unwrap();
    assert_eq!(bytes.to_f32(), None);
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn any_dimensions_and_any_data_are_a_tensor_or_an_error(
        dtype in prop::sample::select(DTYPES.to_vec()),
        dims in prop::collection::vec(prop_oneof![0..5_u32, any::<u32>()], 0..12),
        len in 0..300_usize,
    ) {
        let product = dims.iter().try_fold(1_u128, |all, dim| all.checked_mul(u128::from(*dim)));
        let bytes = product.and_then(|all| all.checked_mul(dtype.size() as u128));
        let made = Tensor::new(dtype, dims.clone(), vec![0; len]);
        match &made {
            Ok(tensor) => {
                prop_assert_eq!(bytes, Some(len as u128));
                prop_assert_eq!(tensor.dims(), dims.as_slice());
            }
            Err(TensorError::Rank { rank }) => {
                prop_assert!(*rank == dims.len() && *rank > RANK_MAX);
            }
            Err(TensorError::Overflow { .. }) => {
                let largest = dims.iter().copied().filter(|dim| *dim > 0);
                let without_zeros: f64 = largest.map(f64::from).product();
                prop_assert!(without_zeros * dtype.size() as f64 >= 1.8e19);
            }
            Err(TensorError::Length { expected, actual }) => {
                prop_assert_eq!(Some(u128::from(*expected)), bytes);
                prop_assert!(*actual == len as u64 && actual != expected);
            }
            Err(TensorError::TooLarge { .. }) => prop_assert!(false, "has no limit here"),
        }
    }
}
