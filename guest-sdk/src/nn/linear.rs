//! Products with weights, and the gathering of their rows: the operations whose kernel depends on the format of weights, on the
//! device and on the number of tokens.

use super::kernels::MatmulKind;
use super::pass::{ONLY_ENTRY, Pass, check_length, grid};
use super::tensor::{DType, Matrix};
use crate::asset::View;
use crate::gpu::{Buffer, Error, Result, Uniform, uniform};

/// With more tokens than this, weights are read once for several of them.
const FEW_TOKENS: u32 = 3;

/// What a product with weights is done with, and what follows it.
///
/// ```
/// # use gannet_sdk::nn::Linear;
/// let onto_the_residual = Linear { add: true, ..Linear::of(1) };
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Linear<'a> {
    /// How many rows of activations there are.
    pub tokens: u32,
    /// Added to each row.
    pub bias: Option<&'a View>,
    /// Whether GELU is applied then.
    pub gelu: bool,
    /// Whether the result is added to what is there, and not put in its place.
    pub add: bool,
}

impl Linear<'_> {
    /// The product of so many rows.
    ///
    /// ```
    /// # use gannet_sdk::nn::Linear;
    /// assert!(!Linear::of(16).gelu);
    /// ```
    pub fn of(tokens: u32) -> Self {
        Self { tokens, ..Self::default() }
    }
}

/// By rows, by lanes, by lanes in half precision, plain, and the gathering of rows.
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

/// Which entry point multiplies with so many rows of activations, and how many it takes at once.
fn entry_point(kind: MatmulKind, tokens: u32) -> (&'static str, u32) {
    match kind {
        _ if tokens <= FEW_TOKENS => ("vector", 1),
        // Thirty-two take about as long as twice 0.8 times sixteen.
        MatmulKind::Rows if tokens.div_ceil(32) * 8 <= tokens.div_ceil(16) * 5 => ("wide", 32),
        MatmulKind::Rows => ("matrix", 16),
        MatmulKind::Half => (ONLY_ENTRY, 8),
        MatmulKind::Lanes | MatmulKind::Plain => ("matrix", 8),
    }
}

/// What is bound where nothing is needed.
fn no_bias() -> Uniform {
    uniform(&[0u32; 4])
}

impl Pass<'_> {
    /// y = x · Wᵀ: rows of `inner` values become rows of as many values as `weights` has rows.
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
                // Not declared: found out on a GPU only, so it had better work there.
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

    /// y\[t\] = W\[ids\[t\]\], or added to y: the rows of an embedding.
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
