//! Attention: rotary position embedding with the writing of the cache, and attention over the cache.

use super::kernels::MatmulKind;
use super::pass::{ONLY_ENTRY, Pass, check_length, grid};
use crate::gpu::{Buffer, Error, Result, uniform};

/// The largest head size of `nn.attention.rows`. Larger heads do not fit the lanes of a software driver.
const ROWS_HEAD_MAX: u32 = 64;

/// The shape of an attention.
///
/// ```
/// # use gannet_sdk::nn::Attention;
/// let smollm2 = Attention { heads: 9, kv_heads: 3, size: 64, tokens: 1 };
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Number of query heads.
    pub heads: u32,
    /// Number of key and value heads, a divisor of `heads`. Groups of `heads / kv_heads` query heads share one.
    pub kv_heads: u32,
    /// Values of a head: a power of two from 4 to 256.
    pub size: u32,
    /// Number of rows of queries, one for each token.
    pub tokens: u32,
}

/// A rotary position embedding (Su et al., 2021).
///
/// ```
/// # use gannet_sdk::nn::Rope;
/// let rope = Rope { base: 100_000.0, halves: false };
/// assert_eq!(rope.angles(64, 0).len(), 32);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Rope {
    /// The base θ of the frequencies θ^(−2 i / size), as in GGUF's `rope.freq_base`.
    pub base: f64,
    /// Which values of a head are rotated as a pair: i and i + size / 2 if true, 2 i and 2 i + 1 if false.
    pub halves: bool,
}

impl Rope {
    /// Returns the cosine and sine of the angle of each pair at a position, for heads of `size` values. There are half
    /// as many pairs as values.
    ///
    /// ```
    /// # use gannet_sdk::nn::Rope;
    /// let angles = Rope { base: 10_000.0, halves: false }.angles(4, 1);
    /// assert_eq!(angles[0], [1.0f64.cos() as f32, 1.0f64.sin() as f32]);
    /// ```
    #[allow(clippy::cast_possible_truncation)]
    pub fn angles(&self, size: u32, position: u32) -> Vec<[f32; 2]> {
        let pairs = 0..size / 2;
        let angle = |pair: u32| f64::from(position) * self.base.powf(-2.0 * f64::from(pair) / f64::from(size));
        pairs.map(|pair| [angle(pair).cos() as f32, angle(pair).sin() as f32]).collect()
    }
}

impl Pass<'_> {
    /// Records the rotation of queries, in place, and of keys, into the cache. Values are copied into the cache.
    ///
    /// `q` has `tokens` rows of `heads` × `size` values, `k` and `v` have `tokens` rows of `kv_heads` × `size`.
    /// `angles` has those of each token ([`Rope::angles`]), and `places` the row of each token in the cache. The last
    /// argument is the cache: keys and values, in rows of `kv_heads` × `size` values. A buffer that is too short is
    /// `InvalidArgument`; the length of the cache is not checked.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::{Attention, Pass, Rope}};
    /// # struct Step { q: Buffer<f32>, k: Buffer<f32>, v: Buffer<f32>, angles: Buffer<[f32; 2]>, places: Buffer<u32> }
    /// fn rotate(pass: &mut Pass, rope: Rope, step: &Step, cache: [&Buffer<f32>; 2]) -> gpu::Result<()> {
    ///     let heads = Attention { heads: 9, kv_heads: 3, size: 64, tokens: 1 };
    ///     pass.rope(rope, heads, [&step.q, &step.k, &step.v], &step.angles, &step.places, cache)
    /// }
    /// ```
    pub fn rope(
        &mut self,
        rope: Rope,
        heads: Attention,
        [q, k, v]: [&Buffer<f32>; 3],
        angles: &Buffer<[f32; 2]>,
        places: &Buffer<u32>,
        [keys, values]: [&Buffer<f32>; 2],
    ) -> Result<()> {
        let Attention { heads, kv_heads, size, tokens } = heads;
        check_length("q", q, tokens, heads.saturating_mul(size))?;
        check_length("k", k, tokens, kv_heads.saturating_mul(size))?;
        check_length("v", v, tokens, kv_heads.saturating_mul(size))?;
        check_length("angles", angles, tokens, size / 2)?;
        check_length("places", places, tokens, 1)?;
        let shape = uniform(&[heads, kv_heads, size, tokens, u32::from(rope.halves)]);
        let kernel = self.kernel("nn.rope", ONLY_ENTRY)?;
        let groups = ((heads + kv_heads) * (size / 2)).div_ceil(64);
        self.batch.dispatch(&kernel, (q, k, v, angles, places, shape, keys, values), grid(groups, tokens))?;
        Ok(())
    }

    /// Records y = softmax(q · Kᵀ / √size) · V, for each token over the cache rows of its span.
    ///
    /// `q` and `y` have `tokens` rows of `heads` × `size` values. The cache, keys and values, has rows of `kv_heads` ×
    /// `size`. A span is the first row and the row after the last. A shape outside the limits of [`Attention`] or a
    /// buffer that is too short is `InvalidArgument`; the length of the cache is not checked.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::{Attention, Pass}};
    /// # type Spans = Buffer<[u32; 2]>;
    /// fn attend(pass: &mut Pass, q: &Buffer<f32>, cache: [&Buffer<f32>; 2], spans: &Spans, y: &Buffer<f32>) -> gpu::Result<()> {
    ///     pass.attention(Attention { heads: 9, kv_heads: 3, size: 64, tokens: 1 }, q, cache, spans, y)
    /// }
    /// ```
    #[allow(clippy::cast_precision_loss)]
    pub fn attention(
        &mut self,
        heads: Attention,
        q: &Buffer<f32>,
        [keys, values]: [&Buffer<f32>; 2],
        spans: &Buffer<[u32; 2]>,
        y: &Buffer<f32>,
    ) -> Result<()> {
        let Attention { heads, kv_heads, size, tokens } = heads;
        if !(4..=256).contains(&size) || !size.is_power_of_two() || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(Error::InvalidArgument(format!(
                "{heads} heads of {size} values over {kv_heads} key heads; sizes are powers of two from 4 to 256, \
                 and heads a multiple of key heads"
            )));
        }
        check_length("q", q, tokens, heads.saturating_mul(size))?;
        check_length("y", y, tokens, heads.saturating_mul(size))?;
        check_length("spans", spans, tokens, 1)?;
        let shape = uniform(&[heads, kv_heads, size, (1.0 / (size as f32).sqrt()).to_bits(), tokens]);
        // `nn.attention.rows` has a workgroup for eight queries of the heads that share their keys.
        let by_rows = tokens.saturating_mul(heads / kv_heads).div_ceil(8);
        let (name, grid) = match self.nn.matmul {
            MatmulKind::Rows if size <= ROWS_HEAD_MAX => ("nn.attention.rows", grid(kv_heads, by_rows)),
            _ => ("nn.attention", grid(heads, tokens)),
        };
        let kernel = self.kernel(name, ONLY_ENTRY)?;
        self.batch.dispatch(&kernel, (q, keys, values, spans, shape, y), grid)?;
        Ok(())
    }
}
