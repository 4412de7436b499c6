//! The kernels of a function: which of them suit the device, and each opened once.

use crate::gpu::{self, Declared, Kernel, Result};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The class that software drivers have, unless the operator calls them otherwise.
const SOFTWARE: &str = "software";

/// Which kernels of a matrix product suit the device: how their invocations share its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MatmulKind {
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
    pub(super) matmul: MatmulKind,
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
        let matmul = match (device.features.subgroups, device.class == SOFTWARE) {
            (true, true) => MatmulKind::Rows,
            (true, false) => MatmulKind::Lanes,
            (false, _) => MatmulKind::Plain,
        };
        Self { matmul, kernels: RefCell::default() }
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
        let matmul = if exact.matmul == MatmulKind::Lanes && gpu::device().features.f16 {
            MatmulKind::Half
        } else {
            exact.matmul
        };
        Self { matmul, ..exact }
    }

    /// A kernel by its name and entry point, opened when it is first used.
    pub(super) fn kernel(&self, name: &'static str, entry: &'static str) -> Result<Rc<Kernel>> {
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
