//! Products with weights, and the gathering of rows of weights. The kernels of these operations depend on the format of
//! the weights; that of a product also depends on the device and on the number of tokens.

use super::kernels::MatmulKind;
use super::pass::{ONLY_ENTRY, Pass, check_length, grid};
use super::tensor::{DType, Matrix};
use crate::asset::View;
use crate::gpu::{Buffer, Error, Result, Uniform, uniform};

/// Up to this many tokens, weights are read again for each token. With more, they are read once for several.
const FEW_TOKENS: u32 = 3;

/// The parameters of a product with weights. After the product come the bias, GELU, and the addition, in this order.
///
/// ```
/// # use gannet_sdk::nn::Linear;
/// let onto_the_residual = Linear { add: true, ..Linear::of(1) };
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Linear<'a> {
    /// Number of rows of activations, one for each token.
    pub tokens: u32,
    /// A vector of `f32`, one for each row of the weights, that is added to each row of the product.
    pub bias: Option<&'a View>,
    /// Whether the exact GELU (Hendrycks and Gimpel, 2016) is applied to each value.
    pub gelu: bool,
    /// Whether the result is added to the previous values of the output, instead of replacing them.
    pub add: bool,
}

impl Linear<'_> {
    /// A plain product for `tokens` rows of activations.
    ///
    /// ```
    /// # use gannet_sdk::nn::Linear;
    /// assert!(!Linear::of(16).gelu);
    /// ```
    pub fn of(tokens: u32) -> Self {
        Self { tokens, ..Self::default() }
    }
}

/// Names of the kernels for a format: the four of [`MatmulKind`] in the order rows, lanes, half and plain, then
/// `gather`.
fn kernel_names(dtype: DType) -> [&'static str; 5] {
    match dtype {
        DType::F32 => ["nn.f32.rows", "nn.f32.lanes", "nn.f32.half", "nn.f32.plain", "nn.f32.gather"],
        DType::F16 => ["nn.f16.rows", "nn.f16.lanes", "nn.f16.half", "nn.f16.plain", "nn.f16.gather"],
        DType::Q4_0 => ["nn.q4_0.rows", "nn.q4_0.lanes", "nn.q4_0.half", "nn.q4_0.plain", "nn.q4_0.gather"],
        DType::Q4_1 => ["nn.q4_1.rows", "nn.q4_1.lanes", "nn.q4_1.half", "nn.q4_1.plain", "nn.q4_1.gather"],
        DType::Q8_0 => ["nn.q8_0.rows", "nn.q8_0.lanes", "nn.q8_0.half", "nn.q8_0.plain", "nn.q8_0.gather"],
        DType::Q4_K => ["nn.q4_k.rows", "nn.q4_k.lanes", "nn.q4_k.half", "nn.q4_k.plain", "nn.q4_k.gather"],
        DType::Q6_K => ["nn.q6_k.rows", "nn.q6_k.lanes", "nn.q6_k.half", "nn.q6_k.plain", "nn.q6_k.gather"],
    }
}

/// Returns the entry point for a product with `tokens` rows of activations, and how many rows it processes at once.
fn entry_point(kind: MatmulKind, tokens: u32) -> (&'static str, u32) {
    match kind {
        _ if tokens <= FEW_TOKENS => ("vector", 1),
        // `wide` takes 1.6 times as long for 32 tokens as `matrix` for 16.
        MatmulKind::Rows if tokens.div_ceil(32) * 8 <= tokens.div_ceil(16) * 5 => ("wide", 32),
        MatmulKind::Rows => ("matrix", 16),
        MatmulKind::Half => (ONLY_ENTRY, 8),
        MatmulKind::Lanes | MatmulKind::Plain => ("matrix", 8),
    }
}

/// Bound to the bias variable if there is no bias.
fn no_bias() -> Uniform {
    uniform(&[0u32; 4])
}

impl Pass<'_> {
    /// Records y = x · Wᵀ, followed by the steps that `how` asks for.
    ///
    /// `x` has `how.tokens` rows of `weights.inner()` values, `y` has `how.tokens` rows of `weights.rows()` values. A
    /// buffer that is too short is `InvalidArgument`; a format that was not declared
    /// ([`declare!`](crate::nn::declare!)) is `NotFound`.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::{Linear, Matrix, Pass}};
    /// fn up(pass: &mut Pass, up: &Matrix, x: &Buffer<f32>, y: &Buffer<f32>) -> gpu::Result<()> {
    ///     pass.linear(up, x, y, Linear::of(1))
    /// }
    /// ```
    pub fn linear(&mut self, weights: &Matrix, x: &Buffer<f32>, y: &Buffer<f32>, how: Linear<'_>) -> Result<()> {
        let (rows, inner, tokens) = (weights.rows(), weights.inner(), how.tokens);
        check_length("x", x, tokens, inner)?;
        check_length("y", y, tokens, rows)?;
        let flags = u32::from(how.bias.is_some()) | (u32::from(how.gelu) << 1) | (u32::from(how.add) << 2);
        let shape = uniform(&[rows, inner, tokens, inner / 4, rows, flags]);
        let [by_rows, by_lanes, in_half, plain, _] = kernel_names(weights.dtype);
        let (entry, tokens_at_once) = entry_point(self.nn.matmul, tokens);
        let (kernel, rows_at_once) = match self.nn.matmul {
            MatmulKind::Rows => (self.kernel(by_rows, entry)?, 4 * 32),
            MatmulKind::Half if entry == ONLY_ENTRY => match self.kernel(in_half, entry) {
                // The half-precision kernel was not declared. Only GPUs want it, so this would be found out late: use
                // single precision.
                Err(Error::NotFound(_)) => (self.kernel(by_lanes, "matrix")?, 4),
                kernel => (kernel?, 4),
            },
            MatmulKind::Lanes | MatmulKind::Half => (self.kernel(by_lanes, entry)?, 4),
            MatmulKind::Plain => (self.kernel(plain, entry)?, 4),
        };
        let grid = grid(rows.div_ceil(rows_at_once), tokens.div_ceil(tokens_at_once));
        match how.bias {
            Some(bias) => self.batch.dispatch(&kernel, (&weights.view, x, bias, shape, y), grid)?,
            None => self.batch.dispatch(&kernel, (&weights.view, x, no_bias(), shape, y), grid)?,
        };
        Ok(())
    }

    /// Records y\[t\] = W\[ids\[t\]\], the lookup of an embedding. With `add`, the rows are added to `y` instead.
    ///
    /// `ids` has `tokens` indices of rows of `weights`, and `y` has `tokens` rows of `weights.inner()` values. An index
    /// past the last row takes the last row. A buffer that is too short is `InvalidArgument`.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::{Matrix, Pass}};
    /// fn embed(pass: &mut Pass, words: &Matrix, ids: &Buffer<u32>, y: &Buffer<f32>) -> gpu::Result<()> {
    ///     pass.gather(words, ids, 1, y, false)
    /// }
    /// ```
    pub fn gather(
        &mut self,
        weights: &Matrix,
        ids: &Buffer<u32>,
        tokens: u32,
        y: &Buffer<f32>,
        add: bool,
    ) -> Result<()> {
        let (rows, inner) = (weights.rows(), weights.inner());
        check_length("ids", ids, tokens, 1)?;
        check_length("y", y, tokens, inner)?;
        let [.., name] = kernel_names(weights.dtype);
        let kernel = self.kernel(name, ONLY_ENTRY)?;
        let shape = uniform(&[rows, inner, tokens, u32::from(add)]);
        let count = u64::from(tokens) * u64::from(inner / 32);
        let groups = u32::try_from(count.div_ceil(64)).unwrap_or(u32::MAX);
        self.batch.dispatch(&kernel, (&weights.view, ids, shape, y), grid(groups, 1))?;
        Ok(())
    }
}
