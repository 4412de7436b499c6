//! Asks the person at the terminal for what must not be in the shell's history.

use crate::failure::Failure;
use crate::printer;
use std::io::{IsTerminal, Read};

/// Reads standard input to its end. `what` names what is wanted, for a person who types it.
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
