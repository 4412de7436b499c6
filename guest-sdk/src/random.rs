//! Random numbers that differ between the instances of a snapshot.

/// Returns a generator with a random seed from the host. `fastrand` itself would take its seed from what the snapshot
/// contains, which is the same in all instances.
pub(crate) fn generator() -> fastrand::Rng {
    #[cfg(target_os = "wasi")]
    return fastrand::Rng::with_seed(crate::bindings::wasi::random::random::get_random_u64());
    #[cfg(not(target_os = "wasi"))]
    fastrand::Rng::new()
}
