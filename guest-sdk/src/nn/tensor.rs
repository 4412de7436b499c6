//! Weights in an asset: their format, shape and byte range.

use crate::asset::{Asset, View};
use crate::gpu::{Error, Result};
use std::ops::Range;

/// A format of weights, as GGUF names them.
///
/// ```
/// # use gannet_sdk::nn::DType;
/// assert_eq!(DType::Q4_1.bytes(576), Some(360));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum DType {
    /// Single precision, 4 bytes a weight.
    F32,
    /// Half precision, 2 bytes a weight.
    F16,
    /// Blocks of 32 weights in 18 bytes: a scale, and 4 bits for each weight.
    Q4_0,
    /// Blocks of 32 weights in 20 bytes: a scale, a minimum, and 4 bits for each weight.
    Q4_1,
    /// Blocks of 32 weights in 34 bytes: a scale, and 8 bits for each weight.
    Q8_0,
    /// Blocks of 256 weights in 144 bytes: scales and minima that are scaled themselves, and 4 bits for each weight.
    Q4_K,
    /// Blocks of 256 weights in 210 bytes: scales that are scaled themselves, and 6 bits for each weight.
    Q6_K,
}

impl DType {
    /// Number of weights and of bytes in a block.
    fn block(self) -> (u64, u64) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q8_0 => (32, 34),
            Self::Q4_K => (256, 144),
            Self::Q6_K => (256, 210),
        }
    }

    /// Size of `weights` weights in bytes; `None` if they are not whole blocks, or too many.
    ///
    /// ```
    /// # use gannet_sdk::nn::DType;
    /// assert_eq!(DType::Q8_0.bytes(64), Some(68));
    /// assert_eq!(DType::Q8_0.bytes(33), None);
    /// ```
    pub fn bytes(self, weights: u64) -> Option<u64> {
        let (of, bytes) = self.block();
        weights.is_multiple_of(of).then(|| (weights / of).checked_mul(bytes)).flatten()
    }
}

/// Weights in an asset, as a file's header describes them.
///
/// ```
/// # use gannet_sdk::nn::{DType, Tensor};
/// let tensor = Tensor { dtype: DType::F32, shape: vec![2, 32], range: 64..320 };
/// assert!(tensor.check(320).is_ok());
/// assert!(tensor.check(319).is_err(), "it passes the end");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The format of the weights.
    pub dtype: DType,
    /// Dimensions, the innermost last: `[rows, weights of a row]`, or `[length]`.
    pub shape: Vec<u64>,
    /// Byte range in the asset.
    pub range: Range<u64>,
}

/// A matrix of weights on the GPU.
///
/// ```no_run
/// # use gannet_sdk::{asset::Asset, nn::{DType, Matrix, Tensor}};
/// let asset = Asset::open("weights")?;
/// let tensor = Tensor { dtype: DType::F32, shape: vec![384, 384], range: 0..589_824 };
/// let matrix: Matrix = tensor.matrix(&asset)?;
/// assert_eq!((matrix.rows(), matrix.inner()), (384, 384));
/// # Ok::<(), gannet_sdk::gpu::Error>(())
/// ```
#[derive(Debug)]
pub struct Matrix {
    pub(super) view: View,
    pub(super) dtype: DType,
    rows: u32,
    inner: u32,
}

impl Matrix {
    /// Number of rows: the width of a product with this matrix.
    ///
    /// ```
    /// # use gannet_sdk::nn::Matrix;
    /// fn width(matrix: &Matrix) -> u32 {
    ///     matrix.rows()
    /// }
    /// ```
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Number of weights in a row: the width of the activations that it is multiplied with.
    ///
    /// ```
    /// # use gannet_sdk::nn::Matrix;
    /// fn takes(matrix: &Matrix) -> u32 {
    ///     matrix.inner()
    /// }
    /// ```
    pub fn inner(&self) -> u32 {
        self.inner
    }
}

fn invalid(text: String) -> Error {
    Error::InvalidArgument(text)
}

impl Tensor {
    /// Checks that the byte range fits format and shape, and is inside an asset of `asset_bytes` bytes. The error is
    /// `InvalidArgument`.
    ///
    /// ```
    /// # use gannet_sdk::nn::{DType, Tensor};
    /// let tensor = Tensor { dtype: DType::Q4_1, shape: vec![2, 64], range: 0..80 };
    /// assert!(tensor.check(80).is_ok());
    /// let short = Tensor { range: 0..79, ..tensor };
    /// assert!(short.check(80).unwrap_err().message().contains("has 79 bytes; its shape [2, 64] as Q4_1 has 80"));
    /// ```
    pub fn check(&self, asset_bytes: u64) -> Result<()> {
        let Self { dtype, shape, range } = self;
        let count = shape.iter().try_fold(1u64, |product, n| product.checked_mul(*n));
        let inner = shape.last().copied().unwrap_or(0);
        let bytes = count.filter(|_| dtype.bytes(inner).is_some()).and_then(|count| dtype.bytes(count));
        let bytes =
            bytes.ok_or_else(|| invalid(format!("a tensor of shape {shape:?} has no whole blocks of {dtype:?}")))?;
        let has = range.end.saturating_sub(range.start);
        if has != bytes {
            return Err(invalid(format!("a tensor has {has} bytes; its shape {shape:?} as {dtype:?} has {bytes}")));
        }
        if range.end > asset_bytes {
            let end = range.end;
            return Err(invalid(format!("a tensor ends at byte {end}, beyond the {asset_bytes} bytes of the asset")));
        }
        Ok(())
    }

    /// Returns a copy of the tensor if `check` succeeds, and otherwise its error, with `name` in front.
    pub(super) fn checked(&self, name: &str, check: impl FnOnce(&Self) -> Result<()>) -> Result<Self> {
        match check(self) {
            Ok(()) => Ok(self.clone()),
            Err(error) => Err(invalid(format!("{name}: {}", error.message()))),
        }
    }

    fn view(&self, asset: &Asset) -> Result<View> {
        self.check(asset.len())?;
        asset.view(self.range.start, self.range.end - self.range.start)
    }

    /// Number of rows, and of weights in a row, of a tensor that is a matrix. The last dimension is that of a row, and
    /// must be a multiple of 32; the others are multiplied.
    fn sides(&self) -> Result<(u32, u32)> {
        let [rows @ .., inner] = self.shape.as_slice() else {
            return Err(invalid("a tensor without dimensions is no matrix".into()));
        };
        let rows = rows.iter().try_fold(1u64, |product, n| product.checked_mul(*n)).and_then(|n| u32::try_from(n).ok());
        let inner = u32::try_from(*inner).ok().filter(|inner| *inner > 0 && inner.is_multiple_of(32));
        let (Some(rows), Some(inner)) = (rows.filter(|rows| *rows > 0), inner) else {
            let shape = &self.shape;
            return Err(invalid(format!("a matrix of shape {shape:?}; rows have a multiple of 32 weights")));
        };
        Ok((rows, inner))
    }

    /// Checks, without a GPU, that the tensor is a matrix of `rows` rows of `inner` weights. The error is
    /// `InvalidArgument`.
    ///
    /// ```
    /// # use gannet_sdk::nn::{DType, Tensor};
    /// let tensor = Tensor { dtype: DType::Q8_0, shape: vec![2, 64], range: 0..136 };
    /// assert!(tensor.check_matrix(2, 64).is_ok());
    /// assert!(tensor.check_matrix(64, 2).unwrap_err().message().contains("is 2 × 64, and should be 64 × 2"));
    /// ```
    pub fn check_matrix(&self, rows: u32, inner: u32) -> Result<()> {
        match self.sides()? {
            found if found == (rows, inner) => Ok(()),
            (has_rows, has_inner) => {
                Err(invalid(format!("a tensor is {has_rows} × {has_inner}, and should be {rows} × {inner}")))
            }
        }
    }

    /// Checks, without a GPU, that the tensor has `length` values of F32. The error is `InvalidArgument`.
    ///
    /// ```
    /// # use gannet_sdk::nn::{DType, Tensor};
    /// let tensor = Tensor { dtype: DType::F16, shape: vec![64], range: 0..128 };
    /// assert!(tensor.check_vector(64).unwrap_err().message().contains("64 values of F32 are needed"));
    /// ```
    pub fn check_vector(&self, length: u32) -> Result<()> {
        let Self { dtype, shape, .. } = self;
        let count = shape.iter().try_fold(1u64, |product, n| product.checked_mul(*n));
        if *dtype != DType::F32 || count != Some(u64::from(length)) {
            return Err(invalid(format!("a tensor of {dtype:?} {shape:?}; {length} values of F32 are needed")));
        }
        Ok(())
    }

    /// Opens the tensor as a matrix. Its last dimension is that of a row, and must be a multiple of 32; the others are
    /// multiplied to the number of rows. A tensor that is no matrix or does not fit the asset is `InvalidArgument`.
    ///
    /// ```
    /// # use gannet_sdk::{asset::Asset, gpu, nn::{Matrix, Tensor}};
    /// fn output(asset: &Asset, tensor: &Tensor) -> gpu::Result<Matrix> {
    ///     tensor.matrix(asset)
    /// }
    /// ```
    pub fn matrix(&self, asset: &Asset) -> Result<Matrix> {
        let (rows, inner) = self.sides()?;
        Ok(Matrix { view: self.view(asset)?, dtype: self.dtype, rows, inner })
    }

    /// Opens the tensor as a vector of `length` values of F32. Any other length or format is `InvalidArgument`.
    ///
    /// ```
    /// # use gannet_sdk::{asset::{Asset, View}, gpu, nn::Tensor};
    /// fn norm(asset: &Asset, tensor: &Tensor) -> gpu::Result<View> {
    ///     tensor.vector(asset, 576)
    /// }
    /// ```
    pub fn vector(&self, asset: &Asset, length: u32) -> Result<View> {
        self.check_vector(length)?;
        self.view(asset)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_told_with_its_numbers() {
        let tensor = |dtype, shape: &[u64], range| Tensor { dtype, shape: shape.to_vec(), range };
        for (tensor, part) in [
            (tensor(DType::Q4_1, &[2, 33], 0..80), "no whole blocks of Q4_1"),
            (tensor(DType::F32, &[u64::MAX, 4], 0..80), "no whole blocks"),
            (tensor(DType::F32, &[4], 8..8), "has 0 bytes"),
            (tensor(DType::F32, &[4], 96..112), "beyond the 100 bytes"),
        ] {
            let told = tensor.check(100).unwrap_err();
            assert!(told.message().contains(part), "{told:?}");
        }
    }
}
