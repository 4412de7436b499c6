//! The value of `-d`: a text, `@FILE` for the contents of a file, or `@-` for standard input.

use crate::failure::Failure;
use std::io::Read;

/// Reads the bytes that the value of `-d` names.
pub fn read_data(data: &str) -> Result<Vec<u8>, Failure> {
    match data.strip_prefix('@') {
        None => Ok(data.as_bytes().to_vec()),
        Some("-") => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .read_to_end(&mut bytes)
                .map_err(|error| Failure::usage("cannot read standard input").because(error))?;
            Ok(bytes)
        }
        Some(path) => std::fs::read(path).map_err(|error| Failure::usage(format!("cannot read {path}")).because(error)),
    }
}
