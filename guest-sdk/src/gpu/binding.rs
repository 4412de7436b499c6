//! Bindings of a kernel's variables: types that implement [`Bind`], in a tuple or with explicit groups and indices
//! ([`At`]).

use crate::bindings::gannet::gpu::binding as wit_binding;
use bytemuck::Pod;
use std::fmt;

/// Bytes for a small uniform or read-only storage variable, recorded with the dispatch: at most 4096. Made by
/// [`uniform()`].
///
/// ```
/// # use gannet_sdk::gpu::uniform;
/// let size = uniform(&[640u32, 480]);
/// ```
#[derive(Debug, Clone)]
pub struct Uniform(pub(super) Vec<u8>);

/// Makes a [`Uniform`] from values, whose memory layout must be that of the WGSL variable. Zeros are added up to a
/// multiple of 4 bytes.
///
/// ```
/// # use gannet_sdk::gpu;
/// let scale = gpu::uniform(&[0.5f32]);
/// ```
pub fn uniform<T: Pod>(values: &[T]) -> Uniform {
    let mut bytes = bytemuck::cast_slice(values).to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Uniform(bytes)
}

/// A type that can be bound to a kernel's variable.
///
/// ```
/// # use gannet_sdk::gpu::{self, Bind, Buffer, Source};
/// struct Layer<'a> {
///     weights: &'a Buffer<f32>,
/// }
/// impl Bind for Layer<'_> {
///     fn source(&self) -> Source<'_> {
///         self.weights.source()
///     }
/// }
/// ```
pub trait Bind {
    /// Returns the data to bind.
    ///
    /// ```
    /// # use gannet_sdk::gpu::{self, Bind};
    /// println!("{:?}", gpu::uniform(&[1u32]).source());
    /// ```
    fn source(&self) -> Source<'_>;
}

/// The data that is bound to a variable: a range of a buffer or of an asset, or inline bytes.
///
/// ```
/// # use gannet_sdk::gpu::{Bind, Source, uniform};
/// let scale = uniform(&[0.5f32]);
/// let source: Source = scale.source();
/// ```
#[derive(Debug)]
pub struct Source<'a>(pub(crate) wit_binding::Source<'a>);

impl Bind for Uniform {
    fn source(&self) -> Source<'_> {
        Source(wit_binding::Source::Inline(self.0.clone()))
    }
}

impl Bind for &Uniform {
    fn source(&self) -> Source<'_> {
        Source(wit_binding::Source::Inline(self.0.clone()))
    }
}

/// Bindings of a dispatch. A tuple of one to eight values binds `@group(0) @binding(0)`, `@binding(1)` and so on.
///
/// ```
/// # use gannet_sdk::gpu::{self, Bindings, Kernel};
/// fn run(kernel: &Kernel, bindings: impl Bindings) -> gpu::Result<()> {
///     kernel.dispatch(bindings, gpu::grid_1d(1024, 64))?;
///     Ok(())
/// }
/// ```
pub trait Bindings {
    /// Calls `with` with the list of bindings, and returns its result.
    ///
    /// ```
    /// # use gannet_sdk::gpu::{self, Bindings};
    /// let count = (gpu::uniform(&[1u32]), gpu::uniform(&[2u32])).list(|bindings| bindings.len());
    /// assert_eq!(count, 2);
    /// ```
    fn list<R>(&self, with: impl FnOnce(Vec<wit_binding::Binding<'_>>) -> R) -> R;
}

/// Bindings with explicit numbers: a list of `(group, index, value)`.
///
/// ```no_run
/// # use gannet_sdk::gpu::{self, At, Bind, Buffer};
/// # fn f(kernel: &gpu::Kernel, a: &Buffer<f32>, b: &Buffer<f32>) -> gpu::Result<()> {
/// kernel.dispatch(At(&[(0, 3, &a), (1, 0, &b)]), gpu::grid_1d(64, 64))?;
/// # Ok(())
/// # }
/// ```
pub struct At<'a>(pub &'a [(u32, u32, &'a dyn Bind)]);

impl fmt::Debug for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(group, index, _)| (group, index))).finish()
    }
}

impl Bindings for At<'_> {
    fn list<R>(&self, with: impl FnOnce(Vec<wit_binding::Binding<'_>>) -> R) -> R {
        let list = self.0.iter().map(|(group, index, bound)| wit_binding::Binding {
            group: *group,
            index: *index,
            source: bound.source().0,
        });
        with(list.collect())
    }
}

macro_rules! tuple {
    ($($name:ident $index:tt),+) => {
        impl<$($name: Bind),+> Bindings for ($($name,)+) {
            fn list<R>(&self, with: impl FnOnce(Vec<wit_binding::Binding<'_>>) -> R) -> R {
                with(vec![$(wit_binding::Binding { group: 0, index: $index, source: self.$index.source().0 }),+])
            }
        }
    };
}
tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
