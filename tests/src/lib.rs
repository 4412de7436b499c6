//! Empty: this package has only integration tests, in `suite/`.
