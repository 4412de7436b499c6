//! The kernels of a function: chooses those that suit the device, and opens each once.

use crate::gpu::{self, Declared, Kernel, Result};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The class of a software driver, unless the operator configured another.
const SOFTWARE: &str = "software";

/// The kind of matrix kernel that suits the device. Kinds differ in how invocations share the rows of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MatmulKind {
    /// Each invocation has its own rows, and subgroups broadcast activations. For drivers whose lanes share a core.
    Rows,
    /// Sixteen invocations share a row, and subgroups add up their sums. For GPUs with subgroups.
    Lanes,
    /// As `Lanes`, but in half precision where weights are read once for several tokens.
    Half,
    /// As `Lanes`, but without subgroups: sums are added up in workgroup memory.
    Plain,
}

/// The kernels of a function, in the kind that suits the device. Each is opened at its first use.
///
/// ```no_run
/// # use gannet_sdk::nn::Nn;
/// let nn = Nn::new();
/// let mut pass = nn.pass();
/// ```
#[derive(Debug)]
pub struct Nn {
    pub(super) matmul: MatmulKind,
    kernels: RefCell<HashMap<(&'static str, &'static str), Rc<Kernel>>>,
}

impl Default for Nn {
    fn default() -> Self {
        Self::new()
    }
}

impl Nn {
    /// Chooses the kernels for this function's device. Everything is computed in single precision.
    ///
    /// ```no_run
    /// # use gannet_sdk::nn::Nn;
    /// let nn = Nn::new();
    /// ```
    pub fn new() -> Self {
        let device = gpu::device();
        let matmul = match (device.features.subgroups, device.class == SOFTWARE) {
            (true, true) => MatmulKind::Rows,
            (true, false) => MatmulKind::Lanes,
            (false, _) => MatmulKind::Plain,
        };
        Self { matmul, kernels: RefCell::default() }
    }

    /// As [`new`](Self::new), but GPUs with `f16` multiply in half precision where weights are read once for several
    /// tokens: in prompts and texts. Errors are about a thousandth of the largest result. Embeddings keep a cosine of
    /// 0.999999 against f32; one in fifty of a small language model's likeliest tokens changed. Declare each format
    /// with `_half` too ([`declare!`](crate::nn::declare!)); others are multiplied in single precision.
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
        let matmul = if exact.matmul == MatmulKind::Lanes && gpu::device().features.f16 {
            MatmulKind::Half
        } else {
            exact.matmul
        };
        Self { matmul, ..exact }
    }

    /// Returns a kernel by its name and entry point, and opens it at its first use.
    pub(super) fn kernel(&self, name: &'static str, entry: &'static str) -> Result<Rc<Kernel>> {
        if let Some(kernel) = self.kernels.borrow().get(&(name, entry)) {
            return Ok(Rc::clone(kernel));
        }
        // The kernel of a source with a single entry point has the source's name alone.
        let declared = Declared::new(name);
        let declared = if entry.is_empty() { declared } else { declared.entry(entry) };
        let kernel = Rc::new(declared.open()?);
        self.kernels.borrow_mut().insert((name, entry), Rc::clone(&kernel));
        Ok(kernel)
    }
}
