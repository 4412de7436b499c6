//! The end of a function's `init`, which runs once, at deploy, before its memory becomes a snapshot.

use crate::gpu;
use std::any::Any;
use std::fmt;

/// Ends an `init`: what it answers, as the export says it. The C library has copied the environment when it was first asked for
/// a variable; an instance is to see its own, with secrets, so that copy is forgotten.
#[doc(hidden)]
pub fn initialized(answered: impl IntoInit) -> std::result::Result<(), String> {
    #[cfg(target_os = "wasi")]
    {
        unsafe extern "C" {
            fn __wasilibc_deinitialize_environ();
        }
        // SAFETY: wasi-libc's own function for this (`wasi/libc-environ.h`). A component has one thread, and nothing
        // holds a pointer into the environment: Rust copies what it reads.
        unsafe { __wasilibc_deinitialize_environ() };
    }
    answered.into_init()
}

/// What an `init` may answer.
#[doc(hidden)]
pub trait IntoInit {
    /// As the export says it.
    fn into_init(self) -> std::result::Result<(), String>;
}

impl IntoInit for () {
    fn into_init(self) -> std::result::Result<(), String> {
        Ok(())
    }
}

impl<E: fmt::Display + 'static> IntoInit for std::result::Result<(), E> {
    fn into_init(self) -> std::result::Result<(), String> {
        // The GPU's errors would be shown as they are written in Rust.
        self.map_err(|error| match (&error as &dyn Any).downcast_ref::<gpu::Error>() {
            Some(gpu) => gpu.message().to_owned(),
            None => error.to_string(),
        })
    }
}
