//! The code that runs after a function's `init`, before the instance's memory becomes a snapshot.

use crate::gpu;
use std::any::Any;
use std::fmt;

/// Discards the C library's copy of the environment, and converts the result of an `init` to that of the export.
///
/// The C library copies the environment when a variable is first looked up. That copy would become part of the
/// snapshot, and instances would not see their own environment, which includes the secrets.
#[doc(hidden)]
pub fn initialized(answered: impl IntoInit) -> std::result::Result<(), String> {
    #[cfg(target_os = "wasi")]
    {
        unsafe extern "C" {
            fn __wasilibc_deinitialize_environ();
        }
        // SAFETY: wasi-libc's own function for this (`wasi/libc-environ.h`). A component has one thread, and nothing
        // holds a pointer into the environment, because Rust copies what it reads.
        unsafe { __wasilibc_deinitialize_environ() };
    }
    answered.into_init()
}

/// A result that an `init` may have: nothing, or a `Result` whose error can be shown.
#[doc(hidden)]
pub trait IntoInit {
    /// Converts it to the result of the export.
    fn into_init(self) -> std::result::Result<(), String>;
}

impl IntoInit for () {
    fn into_init(self) -> std::result::Result<(), String> {
        Ok(())
    }
}

impl<E: fmt::Display + 'static> IntoInit for std::result::Result<(), E> {
    fn into_init(self) -> std::result::Result<(), String> {
        // `Display` of the generated error type prints it as Rust code.
        self.map_err(|error| match (&error as &dyn Any).downcast_ref::<gpu::Error>() {
            Some(gpu) => gpu.message().to_owned(),
            None => error.to_string(),
        })
    }
}
