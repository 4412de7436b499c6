//! Random numbers.

/// Random numbers that no other instance has: the library would seed itself from what a snapshot holds.
pub(crate) fn generator() -> fastrand::Rng {
    #[cfg(target_os = "wasi")]
    return fastrand::Rng::with_seed(crate::bindings::wasi::random::random::get_random_u64());
    #[cfg(not(target_os = "wasi"))]
    fastrand::Rng::new()
}
