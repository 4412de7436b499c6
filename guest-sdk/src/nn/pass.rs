//! Recording the operations of a model.

use super::{DType, Kind, Matrix, Nn};
use crate::asset::View;
use crate::gpu::{Batch, Bind, Buffer, Command, Error, Grid, Kernel, Result, Uniform, uniform};
use std::rc::Rc;

/// The entry point of a source that has no other.
const ONLY: &str = "";
/// With more tokens than this, weights are read once for several of them.
const FEW_TOKENS: u32 = 3;

/// Operations that are recorded once and submitted any number of times.
///
/// ```no_run
/// # use gannet_sdk::{asset::View, gpu::{self, Buffer}, nn::Nn};
/// # fn f(weight: &View, x: &Buffer<f32>, y: &Buffer<f32>) -> gpu::Result<()> {
/// let nn = Nn::new();
/// let mut pass = nn.pass();
/// pass.rms_norm(x, weight, 1e-5, 576, 1, y)?;
/// pass.batch().submit()?.wait()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Pass<'a> {
    nn: &'a Nn,
    batch: Batch,
}

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

/// The heads of an attention.
///
/// ```
/// # use gannet_sdk::nn::Attention;
/// let smollm2 = Attention { heads: 9, kv_heads: 3, size: 64, tokens: 1 };
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Heads of the queries.
    pub heads: u32,
    /// Heads of keys and values, a divisor of that.
    pub kv_heads: u32,
    /// Of a head: 4 to 256, a power of two.
    pub size: u32,
    /// How many rows of queries there are.
    pub tokens: u32,
}

/// How queries and keys are rotated.
///
/// ```
/// # use gannet_sdk::nn::Rope;
/// let rope = Rope { base: 100_000.0, halves: false };
/// assert_eq!(rope.angles(64, 0).len(), 32);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Rope {
    /// The base of the frequencies.
    pub base: f64,
    /// Whether the pairs are a half apart, and not adjacent.
    pub halves: bool,
}

impl Rope {
    /// The cosines and sines of a position, for heads of a size.
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

/// By rows, by lanes, by lanes in half precision, plain, and the gathering of rows.
fn names(dtype: DType) -> [&'static str; 5] {
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

/// The largest head whose values fit the lanes of a software driver.
const ROWS_HEAD_MAX: u32 = 64;

fn grid(x: u32, y: u32) -> Grid {
    Grid { x, y, z: 1 }
}

/// Which entry point multiplies with so many rows of activations, and how many it takes at once.
fn share(kind: Kind, tokens: u32) -> (&'static str, u32) {
    match kind {
        _ if tokens <= FEW_TOKENS => ("vector", 1),
        // Thirty-two take about as long as twice 0.8 times sixteen.
        Kind::Rows if tokens.div_ceil(32) * 8 <= tokens.div_ceil(16) * 5 => ("wide", 32),
        Kind::Rows => ("matrix", 16),
        Kind::Half => (ONLY, 8),
        Kind::Lanes | Kind::Plain => ("matrix", 8),
    }
}

/// Refuses a buffer that is too short for what is done with it.
fn fits<T: bytemuck::Pod>(what: &str, buffer: &Buffer<T>, rows: u32, width: u32) -> Result<()> {
    let needed = u64::from(rows) * u64::from(width);
    if (buffer.len() as u64) < needed {
        let has = buffer.len();
        return Err(Error::InvalidArgument(format!("{what} has {has} values; {rows} rows of {width} are {needed}")));
    }
    Ok(())
}

/// What is bound where nothing is needed.
fn nothing() -> Uniform {
    uniform(&[0u32; 4])
}

impl<'a> Pass<'a> {
    pub(super) fn new(nn: &'a Nn) -> Self {
        Self { nn, batch: Batch::new() }
    }

    /// What was recorded: for reads, writes and submissions.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::Pass};
    /// fn logits(pass: &mut Pass, logits: &Buffer<f32>) -> gpu::Result<Vec<f32>> {
    ///     let read = pass.batch().read(logits)?;
    ///     Ok(pass.batch().submit()?.wait()?.take(&read))
    /// }
    /// ```
    pub fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    fn kernel(&self, name: &'static str, entry: &'static str) -> Result<Rc<Kernel>> {
        self.nn.kernel(name, entry)
    }

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
        fits("x", x, tokens, inner)?;
        fits("y", y, tokens, rows)?;
        let flags = u32::from(how.bias.is_some()) | (u32::from(how.gelu) << 1) | (u32::from(how.add) << 2);
        let shape = uniform(&[rows, inner, tokens, inner / 4, rows, flags]);
        let [by_rows, by_lanes, in_half, plain, _] = names(weights.dtype);
        let (entry, tokens_at_once) = share(self.nn.kind, tokens);
        let (kernel, rows_at_once) = match self.nn.kind {
            Kind::Rows => (self.kernel(by_rows, entry)?, 4 * 32),
            Kind::Half if entry == ONLY => match self.kernel(in_half, entry) {
                // Not declared: found out on a GPU only, so it had better work there.
                Err(Error::NotFound(_)) => (self.kernel(by_lanes, "matrix")?, 4),
                kernel => (kernel?, 4),
            },
            Kind::Lanes | Kind::Half => (self.kernel(by_lanes, entry)?, 4),
            Kind::Plain => (self.kernel(plain, entry)?, 4),
        };
        let grid = grid(rows.div_ceil(rows_at_once), tokens.div_ceil(tokens_at_once));
        match how.bias {
            Some(bias) => self.batch.dispatch(&kernel, (&weights.view, x, bias, shape, y), grid)?,
            None => self.batch.dispatch(&kernel, (&weights.view, x, nothing(), shape, y), grid)?,
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
        fits("ids", ids, tokens, 1)?;
        fits("y", y, tokens, inner)?;
        let [.., name] = names(weights.dtype);
        let kernel = self.kernel(name, ONLY)?;
        let shape = uniform(&[rows, inner, tokens, u32::from(add)]);
        let count = u64::from(tokens) * u64::from(inner / 32);
        let groups = u32::try_from(count.div_ceil(64)).unwrap_or(u32::MAX);
        self.batch.dispatch(&kernel, (&weights.view, ids, shape, y), grid(groups, 1))?;
        Ok(())
    }

    /// The RMS norm of rows.
    ///
    /// ```
    /// # use gannet_sdk::{asset::View, gpu::{self, Buffer}, nn::Pass};
    /// fn norm(pass: &mut Pass, weight: &View, x: &Buffer<f32>, y: &Buffer<f32>) -> gpu::Result<()> {
    ///     pass.rms_norm(x, weight, 1e-5, 576, 1, y)
    /// }
    /// ```
    pub fn rms_norm(
        &mut self,
        x: &Buffer<f32>,
        weight: impl Bind,
        epsilon: f32,
        width: u32,
        tokens: u32,
        y: &Buffer<f32>,
    ) -> Result<()> {
        fits("x", x, tokens, width)?;
        fits("y", y, tokens, width)?;
        let shape = uniform(&[width, epsilon.to_bits()]);
        let kernel = self.kernel("nn.norm", "rms")?;
        self.batch.dispatch(&kernel, (x, weight, shape, y), grid(tokens, 1))?;
        Ok(())
    }

    /// The layer norm of rows; `weight` and `bias` are of their width.
    ///
    /// ```
    /// # use gannet_sdk::{asset::View, gpu::{self, Buffer}, nn::Pass};
    /// fn norm(pass: &mut Pass, [weight, bias]: [&View; 2], x: &Buffer<f32>, y: &Buffer<f32>) -> gpu::Result<()> {
    ///     pass.layer_norm(x, weight, bias, 1e-12, 384, 16, y)
    /// }
    /// ```
    #[allow(clippy::too_many_arguments)]
    pub fn layer_norm(
        &mut self,
        x: &Buffer<f32>,
        weight: impl Bind,
        bias: impl Bind,
        epsilon: f32,
        width: u32,
        tokens: u32,
        y: &Buffer<f32>,
    ) -> Result<()> {
        fits("x", x, tokens, width)?;
        fits("y", y, tokens, width)?;
        let shape = uniform(&[width, epsilon.to_bits()]);
        let kernel = self.kernel("nn.norm", "layer")?;
        self.batch.dispatch(&kernel, (x, weight, shape, y, bias), grid(tokens, 1))?;
        Ok(())
    }

    /// Rotates queries in place, and keys on their way into the cache; values go there as they are. `angles` are those of each
    /// token ([`Rope::angles`]), `places` where in the cache it goes.
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
        fits("q", q, tokens, heads.saturating_mul(size))?;
        fits("k", k, tokens, kv_heads.saturating_mul(size))?;
        fits("v", v, tokens, kv_heads.saturating_mul(size))?;
        fits("angles", angles, tokens, size / 2)?;
        fits("places", places, tokens, 1)?;
        let shape = uniform(&[heads, kv_heads, size, tokens, u32::from(rope.halves)]);
        let kernel = self.kernel("nn.rope", ONLY)?;
        let groups = ((heads + kv_heads) * (size / 2)).div_ceil(64);
        self.batch.dispatch(&kernel, (q, k, v, angles, places, shape, keys, values), grid(groups, tokens))?;
        Ok(())
    }

    /// y = softmax(q · Kᵀ / √size) · V, for each token over the keys of its span: the first, and the one behind the last.
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
                "{heads} heads of {size} over {kv_heads}; sizes are powers of two from 4 to 256, and heads a multiple"
            )));
        }
        fits("q", q, tokens, heads.saturating_mul(size))?;
        fits("y", y, tokens, heads.saturating_mul(size))?;
        fits("spans", spans, tokens, 1)?;
        let shape = uniform(&[heads, kv_heads, size, (1.0 / (size as f32).sqrt()).to_bits(), tokens]);
        // Eight queries of the heads that share their keys are one workgroup.
        let by_rows = tokens.saturating_mul(heads / kv_heads).div_ceil(8);
        let (name, grid) = match self.nn.kind {
            Kind::Rows if size <= ROWS_HEAD_MAX => ("nn.attention.rows", grid(kv_heads, by_rows)),
            _ => ("nn.attention", grid(heads, tokens)),
        };
        let kernel = self.kernel(name, ONLY)?;
        self.batch.dispatch(&kernel, (q, keys, values, spans, shape, y), grid)?;
        Ok(())
    }

    /// gate = silu(gate) · up, number by number.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::Pass};
    /// fn middle(pass: &mut Pass, gate: &Buffer<f32>, up: &Buffer<f32>) -> gpu::Result<()> {
    ///     pass.swiglu(gate, up)
    /// }
    /// ```
    pub fn swiglu(&mut self, gate: &Buffer<f32>, up: &Buffer<f32>) -> Result<()> {
        let kernel = self.kernel("nn.activation", "swiglu")?;
        self.batch.dispatch(&kernel, (gate, up), each(gate))?;
        Ok(())
    }

    /// GELU, number by number, in place.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::Pass};
    /// fn middle(pass: &mut Pass, x: &Buffer<f32>) -> gpu::Result<()> {
    ///     pass.gelu(x)
    /// }
    /// ```
    pub fn gelu(&mut self, x: &Buffer<f32>) -> Result<()> {
        let kernel = self.kernel("nn.activation", "gelu")?;
        self.batch.dispatch(&kernel, (x,), each(x))?;
        Ok(())
    }

    /// y = y + x, number by number.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::Pass};
    /// fn residual(pass: &mut Pass, y: &Buffer<f32>, x: &Buffer<f32>) -> gpu::Result<()> {
    ///     pass.add(y, x)
    /// }
    /// ```
    pub fn add(&mut self, y: &Buffer<f32>, x: &Buffer<f32>) -> Result<()> {
        let kernel = self.kernel("nn.activation", "add")?;
        self.batch.dispatch(&kernel, (y, x), each(y))?;
        Ok(())
    }

    /// Softmax of rows, in place.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::Pass};
    /// fn chances(pass: &mut Pass, logits: &Buffer<f32>) -> gpu::Result<()> {
    ///     pass.softmax(logits, 49_152, 1)
    /// }
    /// ```
    pub fn softmax(&mut self, x: &Buffer<f32>, width: u32, rows: u32) -> Result<()> {
        fits("x", x, rows, width)?;
        let kernel = self.kernel("nn.softmax", ONLY)?;
        self.batch.dispatch(&kernel, (x, uniform(&[width])), grid(rows, 1))?;
        Ok(())
    }

    /// The mean of the rows of each span, of length 1 if `normalize`.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::Pass};
    /// fn sentences(pass: &mut Pass, x: &Buffer<f32>, spans: &Buffer<[u32; 2]>, y: &Buffer<f32>) -> gpu::Result<()> {
    ///     pass.mean_pool(x, spans, 384, true, y)
    /// }
    /// ```
    pub fn mean_pool(
        &mut self,
        x: &Buffer<f32>,
        spans: &Buffer<[u32; 2]>,
        width: u32,
        normalize: bool,
        y: &Buffer<f32>,
    ) -> Result<()> {
        let count = u32::try_from(spans.len()).unwrap_or(u32::MAX);
        fits("y", y, count, width)?;
        let kernel = self.kernel("nn.pool", ONLY)?;
        let shape = uniform(&[width, u32::from(normalize)]);
        self.batch.dispatch(&kernel, (x, spans, shape, y), grid(count, 1))?;
        Ok(())
    }

    /// The `count` largest values of each row, the largest first: pairs of an index and the value's bits. With 1 it is argmax.
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer}, nn::Pass};
    /// fn likeliest(pass: &mut Pass, logits: &Buffer<f32>, best: &Buffer<[u32; 2]>) -> gpu::Result<()> {
    ///     pass.top(logits, 49_152, 1, 1, best)
    /// }
    /// ```
    pub fn top(&mut self, x: &Buffer<f32>, width: u32, rows: u32, count: u32, y: &Buffer<[u32; 2]>) -> Result<()> {
        fits("x", x, rows, width)?;
        fits("y", y, rows, count)?;
        if count > width {
            return Err(Error::InvalidArgument(format!("the {count} largest of {width} values")));
        }
        let kernel = self.kernel("nn.top", ONLY)?;
        self.batch.dispatch(&kernel, (x, uniform(&[width, count]), y), grid(rows, 1))?;
        Ok(())
    }

    /// Records the writing of values to the start of a buffer. They can be changed with each submission:
    /// [`Update::write`](crate::gpu::Update::write).
    ///
    /// ```
    /// # use gannet_sdk::{gpu::{self, Buffer, Command}, nn::Pass};
    /// fn token(pass: &mut Pass, ids: &Buffer<u32>) -> gpu::Result<Command> {
    ///     pass.write(ids, &[0])
    /// }
    /// ```
    pub fn write<T: bytemuck::Pod>(&mut self, buffer: &Buffer<T>, values: &[T]) -> Result<Command> {
        self.batch.write(buffer, values)
    }
}

/// A grid with an invocation for each value.
fn each(x: &Buffer<f32>) -> Grid {
    let groups = x.len().div_ceil(64);
    let groups = u32::try_from(groups).unwrap_or(u32::MAX);
    grid(groups, 1)
}
