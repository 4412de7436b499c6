//! Kernels, either declared at deploy or compiled at run time.

use super::error::Result;
use crate::bindings::gannet::gpu::kernel as wit_kernel;

/// A compiled kernel: one entry point of a WGSL module.
///
/// ```
/// # use gannet_sdk::gpu::{self, Buffer, Kernel};
/// fn run(kernel: &Kernel, values: &Buffer<f32>) -> gpu::Result<Vec<f32>> {
///     kernel.dispatch((values,), gpu::grid_1d(1024, kernel.workgroup_size().0))?;
///     values.read()
/// }
/// ```
#[derive(Debug)]
pub struct Kernel(pub(super) wit_kernel::Kernel);

fn constants(values: &[(&str, f64)]) -> Vec<wit_kernel::Constant> {
    values.iter().map(|(name, value)| wit_kernel::Constant { name: (*name).to_owned(), value: *value }).collect()
}

impl Kernel {
    /// Compiles the entry point `entry` of a WGSL source at run time.
    ///
    /// Rejected source is `KernelRejected`, with the compiler's message.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::Kernel;
    /// let kernel = Kernel::compile("@compute @workgroup_size(1) fn main() {}", "main")?;
    /// # Ok::<(), gannet_sdk::gpu::Error>(())
    /// ```
    pub fn compile(wgsl: &str, entry: &str) -> Result<Self> {
        Self::compile_with(wgsl, entry, &[])
    }

    /// Compiles WGSL as [`compile`](Self::compile) does, with values for its `override` constants. Each is given by its
    /// name, or by its `@id` in decimal.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::Kernel;
    /// let wgsl = "override N: u32; @compute @workgroup_size(N) fn main() {}";
    /// let kernel = Kernel::compile_with(wgsl, "main", &[("N", 64.0)])?;
    /// # Ok::<(), gannet_sdk::gpu::Error>(())
    /// ```
    pub fn compile_with(wgsl: &str, entry: &str, values: &[(&str, f64)]) -> Result<Self> {
        Ok(Self(wit_kernel::Kernel::compile(wgsl, entry, &constants(values))?))
    }

    /// Number of invocations of one workgroup along x, y and z.
    ///
    /// ```no_run
    /// # fn f(kernel: &gannet_sdk::gpu::Kernel) {
    /// assert_eq!(kernel.workgroup_size(), (8, 8, 1));
    /// # }
    /// ```
    pub fn workgroup_size(&self) -> (u32, u32, u32) {
        self.0.workgroup_size()
    }
}

/// A kernel that was declared at deploy, by [`kernel!`](crate::gpu::kernel!) or in the manifest.
///
/// ```no_run
/// # use gannet_sdk::gpu::{self, Declared};
/// let horizontal = Declared::new("blur.wgsl").entry("horizontal").constant("RADIUS", 4.0).open()?;
/// # Ok::<(), gpu::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Declared {
    name: &'static str,
    entry: Option<&'static str>,
    constants: Vec<(&'static str, f64)>,
}

impl Declared {
    /// The declared kernel with this name. The name is checked by [`open`](Self::open).
    ///
    /// ```
    /// # use gannet_sdk::gpu::Declared;
    /// let blur = Declared::new("blur.wgsl");
    /// ```
    pub fn new(name: &'static str) -> Self {
        Self { name, entry: None, constants: Vec::new() }
    }

    /// Chooses an entry point, which is needed if the module has several.
    ///
    /// ```
    /// # use gannet_sdk::gpu::Declared;
    /// let vertical = Declared::new("blur.wgsl").entry("vertical");
    /// ```
    pub fn entry(mut self, entry: &'static str) -> Self {
        self.entry = Some(entry);
        self
    }

    /// Sets an `override` constant, given by its name or by its `@id` in decimal.
    ///
    /// ```
    /// # use gannet_sdk::gpu::Declared;
    /// let wide = Declared::new("blur.wgsl").constant("RADIUS", 16.0);
    /// ```
    pub fn constant(mut self, name: &'static str, value: f64) -> Self {
        self.constants.push((name, value));
        self
    }

    /// Opens the kernel. A name that this version did not declare is `NotFound`.
    ///
    /// ```no_run
    /// # use gannet_sdk::gpu::{self, Declared};
    /// let kernel = Declared::new("blur.wgsl").open()?;
    /// # Ok::<(), gpu::Error>(())
    /// ```
    pub fn open(&self) -> Result<Kernel> {
        let name = match self.entry {
            Some(entry) => format!("{}/{entry}", self.name),
            None => self.name.to_owned(),
        };
        Ok(Kernel(wit_kernel::Kernel::open(&name, &constants(&self.constants))?))
    }
}

/// Declares the kernel in a WGSL file, so that the server checks and compiles it at deploy. The path is relative to
/// the source file. The value is the [`Declared`](crate::gpu::Declared) kernel of that name, as in
/// `gpu::kernel!("blur.wgsl").dispatch(…)`.
///
/// ```
/// # use gannet_sdk::gpu;
/// let kernel = gpu::kernel!("example.wgsl");
/// ```
#[macro_export]
#[doc(hidden)]
macro_rules! __kernel {
    ($path:literal) => {{
        const WGSL: &str = include_str!($path);
        const LENGTH: usize = $crate::gpu::__record_length($path, WGSL);
        // The linker makes a custom section of the module out of statics in this link section that have no pointers.
        #[cfg_attr(target_arch = "wasm32", unsafe(link_section = "gannet:kernel"))]
        #[used]
        static RECORD: [u8; LENGTH] = $crate::gpu::__record::<LENGTH>($path, WGSL);
        $crate::gpu::Declared::new($path)
    }};
}

/// The length of a record in bytes. Used by [`kernel!`](crate::gpu::kernel!).
#[doc(hidden)]
pub const fn __record_length(name: &str, wgsl: &str) -> usize {
    8 + name.len() + wgsl.len()
}

/// A kernel's record in the custom section: length and bytes of the name, then length and bytes of the source. Lengths
/// are little-endian `u32`. Used by [`kernel!`](crate::gpu::kernel!) and evaluated at compile time.
#[doc(hidden)]
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]
pub const fn __record<const N: usize>(name: &str, wgsl: &str) -> [u8; N] {
    let mut record = [0; N];
    let mut at = 0;
    let parts = [name.as_bytes(), wgsl.as_bytes()];
    let mut part = 0;
    while part < 2 {
        let bytes = parts[part];
        let length = (bytes.len() as u32).to_le_bytes();
        let mut index = 0;
        while index < 4 {
            record[at] = length[index];
            at += 1;
            index += 1;
        }
        index = 0;
        while index < bytes.len() {
            record[at] = bytes[index];
            at += 1;
            index += 1;
        }
        part += 1;
    }
    record
}
