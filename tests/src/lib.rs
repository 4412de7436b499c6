//! Integration tests only; see `suite/`.
