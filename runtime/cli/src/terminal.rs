//! Reads keys and secrets from standard input, because they must not be in the shell's history.

use crate::failure::Failure;
use crate::printer;
use std::io::{IsTerminal, Read};

/// Reads standard input to its end. On a terminal, prints `what` as a prompt first.
pub fn read_secret(what: &str) -> Result<String, Failure> {
    if std::io::stdin().is_terminal() {
        printer::note(&format!("{what}, then Enter and Ctrl-D:"));
    }
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage("cannot read standard input").because(error))?;
    Ok(text)
}
