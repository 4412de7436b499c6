//! The forward pass of BERT (Devlin et al., 2018), with the mean of its last layer as the embedding of a text (Reimers and
//! Gurevych, 2019). Texts are read together: each token sees those of its own text.

use gannet_sdk::asset::{Asset, View};
use gannet_sdk::gpu::{Buffer, Error, Result};
use gannet_sdk::nn::{Attention, Linear, Matrix, Nn, SafeTensors};

const WIDTH: u32 = 384;
const HEADS: u32 = 12;
const LAYERS: u32 = 6;
const MIDDLE: u32 = 1536;
const EPSILON: f32 = 1e-12;
/// Tokens that are read at once: more texts are read one part after the other.
const TOKENS_AT_ONCE: usize = 1024;

struct Norm {
    weight: View,
    bias: View,
}

struct Dense {
    weights: Matrix,
    bias: View,
}

struct Layer {
    q: Dense,
    k: Dense,
    v: Dense,
    out: Dense,
    attention_norm: Norm,
    up: Dense,
    down: Dense,
    norm: Norm,
}

/// The weights.
pub struct Bert {
    words: Matrix,
    positions: Matrix,
    types: Matrix,
    norm: Norm,
    layers: Vec<Layer>,
    nn: Nn,
}

impl Bert {
    /// Opens the weights that a header describes.
    pub fn open(tensors: &SafeTensors, asset: &Asset) -> Result<Self> {
        let matrix = |name: &str, rows: Option<u32>, inner: u32| {
            let matrix = tensors.tensor(name)?.matrix(asset)?;
            if matrix.inner() != inner || rows.is_some_and(|rows| rows != matrix.rows()) {
                let (rows, inner) = (matrix.rows(), matrix.inner());
                return Err(Error::InvalidArgument(format!("{name} is {rows} × {inner}, which is not this model's")));
            }
            Ok(matrix)
        };
        let vector = |name: &str, length| tensors.tensor(name)?.vector(asset, length);
        let norm = |name: &str| {
            Ok(Norm {
                weight: vector(&format!("{name}.weight"), WIDTH)?,
                bias: vector(&format!("{name}.bias"), WIDTH)?,
            })
        };
        let dense = |name: &str, rows, inner| {
            let weights = matrix(&format!("{name}.weight"), Some(rows), inner)?;
            Ok(Dense { weights, bias: vector(&format!("{name}.bias"), rows)? })
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
        Ok(Self {
            words: matrix("embeddings.word_embeddings.weight", None, WIDTH)?,
            positions: matrix("embeddings.position_embeddings.weight", None, WIDTH)?,
            types: matrix("embeddings.token_type_embeddings.weight", None, WIDTH)?,
            norm: norm("embeddings.LayerNorm")?,
            layers: (0..LAYERS).map(layer).collect::<Result<_>>()?,
            nn: Nn::new(),
        })
    }

    /// Numbers of an embedding.
    pub fn width(&self) -> u32 {
        WIDTH
    }

    /// How many tokens there are.
    pub fn vocabulary(&self) -> u32 {
        self.words.rows()
    }

    /// The embeddings of texts, each of length 1.
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
        pass.gather(&self.words, &id, tokens, &sum, false)?;
        pass.gather(&self.types, &kind, tokens, &sum, true)?;
        pass.gather(&self.positions, &position, tokens, &sum, true)?;
        pass.layer_norm(&sum, &self.norm.weight, &self.norm.bias, EPSILON, WIDTH, tokens, &x)?;
        for layer in &self.layers {
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
