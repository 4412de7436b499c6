//! The forward pass of models with the architecture of Llama (Touvron et al., 2023) from GGUF files: RMS norms, rotated
//! heads that share keys and values, SwiGLU. The pass for one token is recorded once and submitted for each token.

use gannet_sdk::asset::{Asset, View};
use gannet_sdk::gpu::{Buffer, Command, Error, Read, Result, Update};
use gannet_sdk::llm::Model;
use gannet_sdk::nn::{Attention, DType, Gguf, Linear, Matrix, Nn, Pass, Rope, Tensor, Value};

/// Number of tokens that one pass reads, so that each weight is loaded once for all of them.
const CHUNK: u32 = 64;
/// The same if the logits of each token are wanted. It is smaller because a token has many logits.
const CHUNK_WITH_LOGITS: u32 = 16;
/// The cache grows in steps of this many tokens.
const ROOM: u32 = 64;

/// Sizes and constants of a model. `size` is the width of a head, `middle` that of the feed-forward layer.
#[derive(Debug, Clone)]
struct Shape {
    layers: u32,
    width: u32,
    heads: u32,
    kv_heads: u32,
    size: u32,
    middle: u32,
    vocabulary: u32,
    context: u32,
    epsilon: f32,
    rope: Rope,
}

struct Layer<M, V> {
    attention_norm: V,
    q: M,
    k: M,
    v: M,
    out: M,
    middle_norm: V,
    gate: M,
    up: M,
    down: M,
}

/// The weights of a model: as tensors of a file, or on the GPU.
struct Weights<M, V> {
    embedding: M,
    layers: Vec<Layer<M, V>>,
    norm: V,
    /// None if the embedding is used for the output too.
    output: Option<M>,
}

/// A model as its file describes it. All tensors are there and have the right shapes.
pub struct Plan {
    shape: Shape,
    weights: Weights<Tensor, Tensor>,
}

/// A model on the GPU.
pub struct Llama {
    shape: Shape,
    weights: Weights<Matrix, View>,
    nn: Nn,
}

/// Keys and values of each layer, with room for `room` tokens.
struct Cache {
    layers: Vec<[Buffer<f32>; 2]>,
    room: u32,
}

/// A recorded pass for `tokens` tokens, and the commands whose data changes with each submission.
struct Recorded<'a> {
    pass: Pass<'a>,
    tokens: u32,
    ids: Command,
    angles: Command,
    places: Command,
    spans: Command,
    logits: Read<f32>,
    /// Kept alive, because the recorded commands use them.
    _buffers: Vec<Buffer<f32>>,
}

/// A model that has read some tokens.
pub struct Reader<'a> {
    model: &'a Llama,
    cache: Cache,
    read: u32,
    one: Option<Recorded<'a>>,
}

#[allow(clippy::cast_possible_truncation)]
fn shape(gguf: &Gguf) -> Result<Shape> {
    let architecture = gguf.get("general.architecture").and_then(Value::text).unwrap_or_default();
    if architecture != "llama" {
        return Err(Error::Unsupported(format!("the architecture {architecture:?}; this function runs \"llama\"")));
    }
    // Scaled rotations stretch positions beyond the context that the model was trained with.
    let scaling = gguf.get("llama.rope.scaling.type").and_then(Value::text).unwrap_or("none");
    if scaling != "none" || gguf.tensor("rope_freqs.weight").is_ok() {
        return Err(Error::Unsupported(format!(
            "rotations scaled ({scaling:?}, rope_freqs.weight); this function scales none"
        )));
    }
    let (width, heads) = (gguf.integer("llama.embedding_length")?, gguf.integer("llama.attention.head_count")?);
    let kv_heads = match gguf.get("llama.attention.head_count_kv") {
        Some(_) => gguf.integer("llama.attention.head_count_kv")?,
        None => heads,
    };
    let float = |name: &str| gguf.get(name).and_then(Value::float);
    let vocabulary = gguf.tensor("token_embd.weight")?.shape.first().copied().unwrap_or(0);
    let shape = Shape {
        layers: gguf.integer("llama.block_count")?,
        width,
        heads,
        kv_heads,
        size: width / heads,
        middle: gguf.integer("llama.feed_forward_length")?,
        vocabulary: u32::try_from(vocabulary).unwrap_or(0),
        context: gguf.integer("llama.context_length")?,
        epsilon: float("llama.attention.layer_norm_rms_epsilon").unwrap_or(1e-5) as f32,
        rope: Rope { base: float("llama.rope.freq_base").unwrap_or(10_000.0), halves: false },
    };
    for name in ["llama.rope.dimension_count", "llama.attention.key_length", "llama.attention.value_length"] {
        if gguf.get(name).is_some() && gguf.integer(name)? != shape.size {
            let told = format!("{name} is {}; heads of this function have {} values", gguf.integer(name)?, shape.size);
            return Err(Error::Unsupported(told));
        }
    }
    let Shape { layers, kv_heads, size, middle, vocabulary, context, .. } = shape;
    // These bounds keep products of the sizes below 2³².
    let sound = width.is_multiple_of(heads) && heads.is_multiple_of(kv_heads) && size.is_power_of_two() && size <= 256;
    if !sound || layers > 1000 || width > 1 << 16 || middle > 1 << 18 || vocabulary > 1 << 20 || context > 1 << 20 {
        return Err(Error::Unsupported(format!(
            "{layers} layers, a width of {width} in {heads} heads over {kv_heads}, {middle} between, {vocabulary} tokens, a context of {context}"
        )));
    }
    Ok(shape)
}

impl Plan {
    /// Checks that a header describes a supported model, and that each tensor has the right shape and a format that has
    /// kernels.
    pub fn read(gguf: &Gguf, formats: &[DType]) -> Result<Self> {
        let shape = shape(gguf)?;
        let Shape { layers, width, middle, vocabulary, .. } = shape;
        let (q, kv) = (shape.heads * shape.size, shape.kv_heads * shape.size);
        let matrix = |name: &str, rows, inner| {
            let tensor = gguf.matrix(name, rows, inner)?;
            if !formats.contains(&tensor.dtype) {
                return Err(Error::Unsupported(format!(
                    "{name}: {:?}; this function has kernels for {formats:?}",
                    tensor.dtype
                )));
            }
            Ok(tensor)
        };
        let layer = |n: u32| {
            let matrix = |name: &str, rows, inner| matrix(&format!("blk.{n}.{name}.weight"), rows, inner);
            let norm = |name: &str| gguf.vector(&format!("blk.{n}.{name}.weight"), width);
            Ok(Layer {
                attention_norm: norm("attn_norm")?,
                q: matrix("attn_q", q, width)?,
                k: matrix("attn_k", kv, width)?,
                v: matrix("attn_v", kv, width)?,
                out: matrix("attn_output", width, q)?,
                middle_norm: norm("ffn_norm")?,
                gate: matrix("ffn_gate", middle, width)?,
                up: matrix("ffn_up", middle, width)?,
                down: matrix("ffn_down", width, middle)?,
            })
        };
        let own_output = gguf.tensor("output.weight").is_ok();
        let weights = Weights {
            embedding: matrix("token_embd.weight", vocabulary, width)?,
            layers: (0..layers).map(layer).collect::<Result<_>>()?,
            norm: gguf.vector("output_norm.weight", width)?,
            output: own_output.then(|| matrix("output.weight", vocabulary, width)).transpose()?,
        };
        Ok(Self { shape, weights })
    }

    /// Opens the model on the GPU.
    pub fn open(&self, asset: &Asset) -> Result<Llama> {
        let matrix = |tensor: &Tensor| tensor.matrix(asset);
        let norm = |tensor: &Tensor| tensor.vector(asset, self.shape.width);
        let layer = |layer: &Layer<Tensor, Tensor>| {
            Ok(Layer {
                attention_norm: norm(&layer.attention_norm)?,
                q: matrix(&layer.q)?,
                k: matrix(&layer.k)?,
                v: matrix(&layer.v)?,
                out: matrix(&layer.out)?,
                middle_norm: norm(&layer.middle_norm)?,
                gate: matrix(&layer.gate)?,
                up: matrix(&layer.up)?,
                down: matrix(&layer.down)?,
            })
        };
        let weights = &self.weights;
        let weights = Weights {
            embedding: matrix(&weights.embedding)?,
            layers: weights.layers.iter().map(layer).collect::<Result<_>>()?,
            norm: norm(&weights.norm)?,
            output: weights.output.as_ref().map(matrix).transpose()?,
        };
        Ok(Llama { shape: self.shape.clone(), weights, nn: Nn::new() })
    }
}

impl Llama {
    /// Returns a reader that has not read any token.
    pub fn reader(&self) -> Reader<'_> {
        Reader { model: self, cache: Cache { layers: Vec::new(), room: 0 }, read: 0, one: None }
    }

    /// Records a pass over `tokens` tokens. It computes the logits of the last token, or of each.
    fn record(&self, cache: &Cache, tokens: u32, each: bool) -> Result<Recorded<'_>> {
        let Shape { width, heads, kv_heads, size, middle, vocabulary, epsilon, rope, .. } = self.shape;
        let values = |width: u32| Buffer::<f32>::zeroed(tokens as usize * width as usize);
        let (x, normed) = (values(width)?, values(width)?);
        let (q, k, v, found) =
            (values(heads * size)?, values(kv_heads * size)?, values(kv_heads * size)?, values(heads * size)?);
        let (gate, up) = (values(middle)?, values(middle)?);
        let last = if each { tokens } else { 1 };
        let (last_x, logits) = (
            Buffer::<f32>::zeroed(last as usize * width as usize)?,
            Buffer::<f32>::zeroed(last as usize * vocabulary as usize)?,
        );
        let count = tokens as usize;
        let ids = Buffer::<u32>::zeroed(count)?;
        let places = Buffer::<u32>::zeroed(count)?;
        let angles = Buffer::<[f32; 2]>::zeroed(count * (size / 2) as usize)?;
        let spans = Buffer::<[u32; 2]>::zeroed(count)?;

        let mut pass = self.nn.pass();
        let written = (
            pass.write(&ids, &vec![0; count])?,
            pass.write(&angles, &vec![[0.0; 2]; angles.len()])?,
            pass.write(&places, &vec![0; count])?,
            pass.write(&spans, &vec![[0; 2]; count])?,
        );
        let plain = Linear::of(tokens);
        let onto = Linear { add: true, ..plain };
        let attention = Attention { heads, kv_heads, size, tokens };
        pass.gather(&self.weights.embedding, &ids, tokens, &x, false)?;
        for (layer, [keys, kept]) in self.weights.layers.iter().zip(&cache.layers) {
            pass.rms_norm(&x, &layer.attention_norm, epsilon, width, tokens, &normed)?;
            pass.linear(&layer.q, &normed, &q, plain)?;
            pass.linear(&layer.k, &normed, &k, plain)?;
            pass.linear(&layer.v, &normed, &v, plain)?;
            pass.rope(rope, attention, [&q, &k, &v], &angles, &places, [keys, kept])?;
            pass.attention(attention, &q, [keys, kept], &spans, &found)?;
            pass.linear(&layer.out, &found, &x, onto)?;
            pass.rms_norm(&x, &layer.middle_norm, epsilon, width, tokens, &normed)?;
            pass.linear(&layer.gate, &normed, &gate, plain)?;
            pass.linear(&layer.up, &normed, &up, plain)?;
            pass.swiglu(&gate, &up)?;
            pass.linear(&layer.down, &gate, &x, onto)?;
        }
        let first = (tokens - last) as usize * width as usize;
        pass.batch().copy_part(&x, first, last_x.len(), &last_x)?;
        pass.rms_norm(&last_x, &self.weights.norm, epsilon, width, last, &normed)?;
        pass.linear(
            self.weights.output.as_ref().unwrap_or(&self.weights.embedding),
            &normed,
            &logits,
            Linear::of(last),
        )?;
        let read = pass.batch().read(&logits)?;
        let (ids, angles, places, spans) = written;
        let buffers = vec![x, normed, q, k, v, found, gate, up, last_x, logits];
        Ok(Recorded { pass, tokens, ids, angles, places, spans, logits: read, _buffers: buffers })
    }
}

impl Recorded<'_> {
    /// Reads tokens that follow the `read` tokens in the cache, and returns the logits.
    fn run(&mut self, shape: &Shape, read: u32, tokens: &[u32]) -> Result<Vec<f32>> {
        debug_assert_eq!(tokens.len(), self.tokens as usize);
        let positions = read..read + self.tokens;
        let angles: Vec<[f32; 2]> = positions.clone().flat_map(|at| shape.rope.angles(shape.size, at)).collect();
        let spans: Vec<[u32; 2]> = positions.clone().map(|at| [0, at + 1]).collect();
        let updates = vec![
            Update::write(self.ids, tokens),
            Update::write(self.angles, &angles),
            Update::write(self.places, &positions.collect::<Vec<u32>>()),
            Update::write(self.spans, &spans),
        ];
        Ok(self.pass.batch().submit_with(updates)?.wait()?.take(&self.logits))
    }
}

impl<'a> Reader<'a> {
    fn read_some(&mut self, tokens: &[u32], each: bool) -> Result<Vec<f32>> {
        let count = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        if self.cache.room - self.read < count {
            let (read, room) = (self.read, self.cache.room);
            return Err(Error::InvalidArgument(format!("{count} tokens behind {read}; there is room for {room}")));
        }
        let shape = &self.model.shape;
        let logits = if count == 1 {
            let one = match self.one.take() {
                Some(one) => one,
                None => self.model.record(&self.cache, 1, false)?,
            };
            self.one.insert(one).run(shape, self.read, tokens)?
        } else {
            self.model.record(&self.cache, count, each)?.run(shape, self.read, tokens)?
        };
        self.read += count;
        Ok(logits)
    }
}

impl Model for Reader<'_> {
    fn context(&self) -> u32 {
        self.model.shape.context
    }

    fn vocabulary(&self) -> u32 {
        self.model.shape.vocabulary
    }

    fn begin(&mut self, tokens: u32) -> Result<()> {
        let room = tokens.next_multiple_of(ROOM).min(self.model.shape.context);
        if room > self.cache.room {
            let Shape { layers, kv_heads, size, .. } = self.model.shape;
            let values = room as usize * kv_heads as usize * size as usize;
            self.one = None;
            self.cache.layers.clear();
            for _ in 0..layers {
                self.cache.layers.push([Buffer::zeroed(values)?, Buffer::zeroed(values)?]);
            }
            self.cache.room = room;
        }
        self.read = 0;
        Ok(())
    }

    fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut logits = Vec::new();
        for chunk in tokens.chunks(CHUNK as usize) {
            logits = self.read_some(chunk, false)?;
        }
        Ok(logits)
    }

    fn read_each(&mut self, tokens: &[u32], with: &mut dyn FnMut(&[f32])) -> Result<()> {
        for chunk in tokens.chunks(CHUNK_WITH_LOGITS as usize) {
            let logits = self.read_some(chunk, true)?;
            logits.chunks(self.vocabulary() as usize).for_each(&mut *with);
        }
        Ok(())
    }
}
