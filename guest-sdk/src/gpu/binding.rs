//! What is bound to a kernel's variables: anything that is [`Bind`], in a tuple or with groups and indices of its own.

use crate::bindings::gannet::gpu::binding as wit_binding;
use bytemuck::Pod;
use std::fmt;

/// Bytes for a small uniform or read-only variable, sent along with the dispatch.
///
/// ```
/// # use gannet_sdk::gpu::uniform;
/// let size = uniform(&[640u32, 480]);
/// ```
#[derive(Debug, Clone)]
pub struct Uniform(pub(super) Vec<u8>);

/// Makes a [`Uniform`] of values; the layout is that of the WGSL variable.
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

/// Anything that can be bound to a kernel's variable.
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
    /// What is bound.
    ///
    /// ```
    /// # use gannet_sdk::gpu::{self, Bind};
    /// println!("{:?}", gpu::uniform(&[1u32]).source());
    /// ```
    fn source(&self) -> Source<'_>;
}

/// What is bound to a variable.
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

/// Bindings of a dispatch: a tuple binds `@group(0) @binding(0)`, `@binding(1)` and so on.
///
/// ```
/// # use gannet_sdk::gpu::{self, Bindings, Kernel};
/// fn run(kernel: &Kernel, bindings: impl Bindings) -> gpu::Result<()> {
///     kernel.dispatch(bindings, gpu::grid_1d(1024, 64))?;
///     Ok(())
/// }
/// ```
pub trait Bindings {
    /// Calls `with` with the list of bindings.
    ///
    /// ```
    /// # use gannet_sdk::gpu::{self, Bindings};
    /// let count = (gpu::uniform(&[1u32]), gpu::uniform(&[2u32])).list(|bindings| bindings.len());
    /// assert_eq!(count, 2);
    /// ```
    fn list<R>(&self, with: impl FnOnce(Vec<wit_binding::Binding<'_>>) -> R) -> R;
}

/// Any bindings, each with its group and index.
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
