//! Neural networks on the GPU: weights in assets, and a small set of operations that compose.
//!
//! A model opens its weights as [`Matrix`] and [`View`], and records its operations into a [`Pass`] once; each token is then
//! one submission with a few bytes changed. All activations are rows of f32.
//!
//! ```no_run
//! use gannet_sdk::{asset::Asset, gpu::{self, Buffer}, nn::{self, DType, Linear, Nn, Tensor}};
//!
//! // The kernels that this function uses, so that the server checks and compiles them at deploy.
//! nn::declare!(f32);
//!
//! fn project(row: &[f32]) -> gpu::Result<Vec<f32>> {
//!     let asset = Asset::open("weights")?;
//!     let weights = Tensor { dtype: DType::F32, shape: vec![64, 384], range: 0..98_304 }.matrix(&asset)?;
//!     let (x, y) = (Buffer::from_slice(row)?, Buffer::zeroed(64)?);
//!     let nn = Nn::new();
//!     let mut pass = nn.pass();
//!     pass.linear(&weights, &x, &y, Linear::of(1))?;
//!     let read = pass.batch().read(&y)?;
//!     Ok(pass.batch().submit()?.wait()?.take(&read))
//! }
//! ```

mod gguf;
mod pass;
mod safetensors;
mod tensor;
#[doc(hidden)]
pub mod wgsl;

#[doc(inline)]
pub use crate::__nn_declare as declare;
pub use gguf::{Gguf, Value};
pub use pass::{Attention, Linear, Pass, Rope};
pub use safetensors::SafeTensors;
pub use tensor::{DType, Matrix, Tensor};

use crate::gpu::{self, Declared, Kernel, Result};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The class that software drivers have, unless the operator calls them otherwise.
const SOFTWARE: &str = "software";

/// How the invocations of a product share its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Each has rows to itself, and subgroups hand activations around: for drivers whose lanes share a core.
    Rows,
    /// Sixteen share a row, and subgroups add up what they find.
    Lanes,
    /// The same, and where weights are read once for several tokens, in half precision.
    Half,
    /// The same without subgroups.
    Plain,
}

/// The kernels of a function, opened as they are used, in the kind that suits the device.
///
/// ```no_run
/// # use gannet_sdk::nn::Nn;
/// let nn = Nn::new();
/// let mut pass = nn.pass();
/// ```
#[derive(Debug)]
pub struct Nn {
    kind: Kind,
    kernels: RefCell<HashMap<(&'static str, &'static str), Rc<Kernel>>>,
}

impl Default for Nn {
    fn default() -> Self {
        Self::new()
    }
}

impl Nn {
    /// Looks at the device. Everything is computed in single precision.
    ///
    /// ```no_run
    /// # use gannet_sdk::nn::Nn;
    /// let nn = Nn::new();
    /// ```
    pub fn new() -> Self {
        let device = gpu::device();
        let kind = match (device.features.subgroups, device.class == SOFTWARE) {
            (true, true) => Kind::Rows,
            (true, false) => Kind::Lanes,
            (false, _) => Kind::Plain,
        };
        Self { kind, kernels: RefCell::default() }
    }

    /// The same, but GPUs that multiply in half precision (`f16`) do so where weights are read once for several tokens: prompts and
    /// texts. Results are off by about a thousandth of the largest. Embeddings do not mind (a cosine of 0.999999 against f32); of the
    /// likeliest tokens of a small language model one in fifty became another. The formats are declared with `_half` too;
    /// those that are not are multiplied in single precision.
    ///
    /// ```no_run
    /// # use gannet_sdk::nn::{self, Nn};
    /// nn::declare!(f32, f32_half);
    /// # fn f() {
    /// let nn = Nn::half();
    /// # }
    /// ```
    pub fn half() -> Self {
        let exact = Self::new();
        let kind = if exact.kind == Kind::Lanes && gpu::device().features.f16 { Kind::Half } else { exact.kind };
        Self { kind, ..exact }
    }

    /// A pass without operations.
    ///
    /// ```no_run
    /// # use gannet_sdk::nn::Nn;
    /// let nn = Nn::new();
    /// let mut pass = nn.pass();
    /// ```
    pub fn pass(&self) -> Pass<'_> {
        Pass::new(self)
    }

    fn kernel(&self, name: &'static str, entry: &'static str) -> Result<Rc<Kernel>> {
        if let Some(kernel) = self.kernels.borrow().get(&(name, entry)) {
            return Ok(Rc::clone(kernel));
        }
        // A source with one entry point is named without it.
        let declared = Declared::new(name);
        let declared = if entry.is_empty() { declared } else { declared.entry(entry) };
        let kernel = Rc::new(declared.open()?);
        self.kernels.borrow_mut().insert((name, entry), Rc::clone(&kernel));
        Ok(kernel)
    }
}

/// Declares kernels of [`nn`](crate::nn) for a function, so that the server checks and compiles them at deploy: the formats of
/// its weights (`f32`, `f16`, `q8_0`, `q4_0`, `q4_1`, `q4_k`, `q6_k`; with `_half` behind it for [`Nn::half`]) and the operations it uses (`norm`, `rope`, `attention`,
/// `activation`, `pool`, `top`, `softmax`).
///
/// ```
/// gannet_sdk::nn::declare!(q8_0, norm, attention);
/// ```
#[macro_export]
#[doc(hidden)]
macro_rules! __nn_declare {
    ($($name:ident),+ $(,)?) => { $( $crate::__nn_one!($name); )+ };
}

/// For [`declare!`](crate::nn::declare!).
#[macro_export]
#[doc(hidden)]
macro_rules! __nn_one {
    (f32) => { $crate::__nn_record!("nn.f32.rows" F32_ROWS, "nn.f32.lanes" F32_LANES, "nn.f32.plain" F32_PLAIN, "nn.f32.gather" F32_GATHER); };
    (f16) => { $crate::__nn_record!("nn.f16.rows" F16_ROWS, "nn.f16.lanes" F16_LANES, "nn.f16.plain" F16_PLAIN, "nn.f16.gather" F16_GATHER); };
    (q8_0) => { $crate::__nn_record!("nn.q8_0.rows" Q8_0_ROWS, "nn.q8_0.lanes" Q8_0_LANES, "nn.q8_0.plain" Q8_0_PLAIN, "nn.q8_0.gather" Q8_0_GATHER); };
    (q4_0) => { $crate::__nn_record!("nn.q4_0.rows" Q4_0_ROWS, "nn.q4_0.lanes" Q4_0_LANES, "nn.q4_0.plain" Q4_0_PLAIN, "nn.q4_0.gather" Q4_0_GATHER); };
    (q4_1) => { $crate::__nn_record!("nn.q4_1.rows" Q4_1_ROWS, "nn.q4_1.lanes" Q4_1_LANES, "nn.q4_1.plain" Q4_1_PLAIN, "nn.q4_1.gather" Q4_1_GATHER); };
    (q4_k) => { $crate::__nn_record!("nn.q4_k.rows" Q4_K_ROWS, "nn.q4_k.lanes" Q4_K_LANES, "nn.q4_k.plain" Q4_K_PLAIN, "nn.q4_k.gather" Q4_K_GATHER); };
    (q6_k) => { $crate::__nn_record!("nn.q6_k.rows" Q6_K_ROWS, "nn.q6_k.lanes" Q6_K_LANES, "nn.q6_k.plain" Q6_K_PLAIN, "nn.q6_k.gather" Q6_K_GATHER); };
    (f32_half) => { $crate::__nn_record!("nn.f32.half" F32_HALF); };
    (f16_half) => { $crate::__nn_record!("nn.f16.half" F16_HALF); };
    (q8_0_half) => { $crate::__nn_record!("nn.q8_0.half" Q8_0_HALF); };
    (q4_0_half) => { $crate::__nn_record!("nn.q4_0.half" Q4_0_HALF); };
    (q4_1_half) => { $crate::__nn_record!("nn.q4_1.half" Q4_1_HALF); };
    (q4_k_half) => { $crate::__nn_record!("nn.q4_k.half" Q4_K_HALF); };
    (q6_k_half) => { $crate::__nn_record!("nn.q6_k.half" Q6_K_HALF); };
    (norm) => { $crate::__nn_record!("nn.norm" NORM); };
    (rope) => { $crate::__nn_record!("nn.rope" ROPE); };
    (attention) => { $crate::__nn_record!("nn.attention" ATTENTION, "nn.attention.rows" ATTENTION_ROWS); };
    (activation) => { $crate::__nn_record!("nn.activation" ACTIVATION); };
    (pool) => { $crate::__nn_record!("nn.pool" POOL); };
    (top) => { $crate::__nn_record!("nn.top" TOP); };
    (softmax) => { $crate::__nn_record!("nn.softmax" SOFTMAX); };
}

/// For [`declare!`](crate::nn::declare!).
#[macro_export]
#[doc(hidden)]
macro_rules! __nn_record {
    ($($name:literal $source:ident),+) => { $(
        const _: () = {
            const WGSL: &str = $crate::nn::wgsl::$source;
            const LENGTH: usize = $crate::gpu::__record_length($name, WGSL);
            #[cfg_attr(target_arch = "wasm32", unsafe(link_section = "gannet:kernel"))]
            #[used]
            static RECORD: [u8; LENGTH] = $crate::gpu::__record::<LENGTH>($name, WGSL);
        };
    )+ };
}
