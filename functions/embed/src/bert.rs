//! The forward pass of BERT (Devlin et al., 2018), with the mean of its last layer as the embedding of a text (Reimers and
//! Gurevych, 2019). One pass reads several texts, and each token attends only to the tokens of its own text.

use gannet_sdk::asset::{Asset, View};
use gannet_sdk::gpu::{Buffer, Error, Result};
use gannet_sdk::nn::{Attention, DType, Linear, Matrix, Nn, SafeTensors, Tensor};

const WIDTH: u32 = 384;
const HEADS: u32 = 12;
const LAYERS: u32 = 6;
const MIDDLE: u32 = 1536;
const POSITIONS: u32 = 512;
const TYPES: u32 = 2;
const EPSILON: f32 = 1e-12;
/// Limit on the tokens of one pass. More texts take several passes.
const TOKENS_AT_ONCE: usize = 1024;

struct Norm<V> {
    weight: V,
    bias: V,
}

struct Dense<M, V> {
    weights: M,
    bias: V,
}

struct Layer<M, V> {
    q: Dense<M, V>,
    k: Dense<M, V>,
    v: Dense<M, V>,
    out: Dense<M, V>,
    attention_norm: Norm<V>,
    up: Dense<M, V>,
    down: Dense<M, V>,
    norm: Norm<V>,
}

/// The weights: as tensors of a file, or on the GPU.
struct Weights<M, V> {
    words: M,
    positions: M,
    types: M,
    norm: Norm<V>,
    layers: Vec<Layer<M, V>>,
}

/// The model as its file describes it. All tensors are there and have the right shapes.
pub struct Plan {
    vocabulary: u32,
    weights: Weights<Tensor, Tensor>,
}

/// The model on the GPU.
pub struct Bert {
    weights: Weights<Matrix, View>,
    nn: Nn,
}

impl<V> Norm<V> {
    fn map<W>(&self, vector: impl Fn(&V) -> Result<W>) -> Result<Norm<W>> {
        Ok(Norm { weight: vector(&self.weight)?, bias: vector(&self.bias)? })
    }
}

impl Plan {
    /// Checks that a header describes this model, and that each tensor has the right shape.
    pub fn read(tensors: &SafeTensors) -> Result<Self> {
        let norm = |name: &str| {
            let vector = |part| tensors.vector(&format!("{name}.{part}"), WIDTH);
            Ok(Norm { weight: vector("weight")?, bias: vector("bias")? })
        };
        let matrix = |name: &str, rows, inner| {
            let tensor = tensors.matrix(name, rows, inner)?;
            if tensor.dtype != DType::F32 {
                return Err(Error::Unsupported(format!(
                    "{name}: {:?}; this function has kernels for F32",
                    tensor.dtype
                )));
            }
            Ok(tensor)
        };
        let dense = |name: &str, rows, inner| {
            let weights = matrix(&format!("{name}.weight"), rows, inner)?;
            Ok(Dense { weights, bias: tensors.vector(&format!("{name}.bias"), rows)? })
        };
        let layer = |n: u32| {
            let of = |name: &str| format!("encoder.layer.{n}.{name}");
            Ok(Layer {
                q: dense(&of("attention.self.query"), WIDTH, WIDTH)?,
                k: dense(&of("attention.self.key"), WIDTH, WIDTH)?,
                v: dense(&of("attention.self.value"), WIDTH, WIDTH)?,
                out: dense(&of("attention.output.dense"), WIDTH, WIDTH)?,
                attention_norm: norm(&of("attention.output.LayerNorm"))?,
                up: dense(&of("intermediate.dense"), MIDDLE, WIDTH)?,
                down: dense(&of("output.dense"), WIDTH, MIDDLE)?,
                norm: norm(&of("output.LayerNorm"))?,
            })
        };
        let words = "embeddings.word_embeddings.weight";
        let vocabulary = tensors.tensor(words)?.shape.first().and_then(|rows| u32::try_from(*rows).ok()).unwrap_or(0);
        let weights = Weights {
            words: matrix(words, vocabulary, WIDTH)?,
            positions: matrix("embeddings.position_embeddings.weight", POSITIONS, WIDTH)?,
            types: matrix("embeddings.token_type_embeddings.weight", TYPES, WIDTH)?,
            norm: norm("embeddings.LayerNorm")?,
            layers: (0..LAYERS).map(layer).collect::<Result<_>>()?,
        };
        Ok(Self { vocabulary, weights })
    }

    /// Number of values of an embedding.
    pub fn width(&self) -> u32 {
        WIDTH
    }

    /// Number of tokens in the vocabulary.
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// Opens the model on the GPU.
    pub fn open(&self, asset: &Asset) -> Result<Bert> {
        let matrix = |tensor: &Tensor| tensor.matrix(asset);
        let vector = |length: u32| move |tensor: &Tensor| tensor.vector(asset, length);
        let norm = |norm: &Norm<Tensor>| norm.map(vector(WIDTH));
        let dense = |dense: &Dense<Tensor, Tensor>| {
            let weights = matrix(&dense.weights)?;
            Ok::<_, Error>(Dense { bias: dense.bias.vector(asset, weights.rows())?, weights })
        };
        let layer = |layer: &Layer<Tensor, Tensor>| {
            Ok(Layer {
                q: dense(&layer.q)?,
                k: dense(&layer.k)?,
                v: dense(&layer.v)?,
                out: dense(&layer.out)?,
                attention_norm: norm(&layer.attention_norm)?,
                up: dense(&layer.up)?,
                down: dense(&layer.down)?,
                norm: norm(&layer.norm)?,
            })
        };
        let Weights { words, positions, types, norm: first, layers } = &self.weights;
        let weights = Weights {
            words: matrix(words)?,
            positions: matrix(positions)?,
            types: matrix(types)?,
            norm: norm(first)?,
            layers: layers.iter().map(layer).collect::<Result<_>>()?,
        };
        Ok(Bert { weights, nn: Nn::half() })
    }
}

impl Bert {
    /// Returns the embeddings of texts, as vectors of length 1.
    pub fn embed(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let mut all = Vec::with_capacity(texts.len());
        let mut rest = texts;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = rest.iter().take_while(|text| {
                tokens += text.len();
                tokens <= TOKENS_AT_ONCE
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            all.extend(self.read(now)?);
            rest = later;
        }
        Ok(all)
    }

    fn read(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let ids: Vec<u32> = texts.concat();
        let positions: Vec<u32> = texts.iter().flat_map(|text| (0u32..).take(text.len())).collect();
        let mut ends = 0u32;
        let spans: Vec<[u32; 2]> = texts
            .iter()
            .map(|text| {
                let start = ends;
                ends += u32::try_from(text.len()).unwrap_or(u32::MAX);
                [start, ends]
            })
            .collect();
        let seen: Vec<[u32; 2]> =
            texts.iter().zip(&spans).flat_map(|(text, span)| std::iter::repeat_n(*span, text.len())).collect();
        let tokens = ends;
        let values = |width: u32| Buffer::<f32>::zeroed(tokens as usize * width as usize);

        let (x, sum) = (values(WIDTH)?, values(WIDTH)?);
        let (q, k, v, found) = (values(WIDTH)?, values(WIDTH)?, values(WIDTH)?, values(WIDTH)?);
        let middle = values(MIDDLE)?;
        let pooled = Buffer::<f32>::zeroed(texts.len() * WIDTH as usize)?;
        let (id, position, kind) =
            (Buffer::from_slice(&ids)?, Buffer::from_slice(&positions)?, Buffer::<u32>::zeroed(ids.len())?);
        let (seen, spans) = (Buffer::from_slice(&seen)?, Buffer::from_slice(&spans)?);

        let mut pass = self.nn.pass();
        let heads = Attention { heads: HEADS, kv_heads: HEADS, size: WIDTH / HEADS, tokens };
        pass.gather(&self.weights.words, &id, tokens, &sum, false)?;
        pass.gather(&self.weights.types, &kind, tokens, &sum, true)?;
        pass.gather(&self.weights.positions, &position, tokens, &sum, true)?;
        pass.layer_norm(&sum, &self.weights.norm.weight, &self.weights.norm.bias, EPSILON, WIDTH, tokens, &x)?;
        for layer in &self.weights.layers {
            for (dense, y) in [(&layer.q, &q), (&layer.k, &k), (&layer.v, &v)] {
                pass.linear(&dense.weights, &x, y, Linear { bias: Some(&dense.bias), ..Linear::of(tokens) })?;
            }
            pass.attention(heads, &q, [&k, &v], &seen, &found)?;
            let onto = |dense| Linear { bias: Some(dense), add: true, ..Linear::of(tokens) };
            pass.linear(&layer.out.weights, &found, &x, onto(&layer.out.bias))?;
            let Norm { weight, bias } = &layer.attention_norm;
            pass.layer_norm(&x, weight, bias, EPSILON, WIDTH, tokens, &sum)?;
            let up = Linear { bias: Some(&layer.up.bias), gelu: true, ..Linear::of(tokens) };
            pass.linear(&layer.up.weights, &sum, &middle, up)?;
            pass.linear(&layer.down.weights, &middle, &sum, onto(&layer.down.bias))?;
            let Norm { weight, bias } = &layer.norm;
            pass.layer_norm(&sum, weight, bias, EPSILON, WIDTH, tokens, &x)?;
        }
        pass.mean_pool(&x, &spans, WIDTH, true, &pooled)?;
        let read = pass.batch().read(&pooled)?;
        let values = pass.batch().submit()?.wait()?.take(&read);
        Ok(values.chunks(WIDTH as usize).map(<[f32]>::to_vec).collect())
    }
}
