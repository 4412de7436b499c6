//! Reads keys and secrets from standard input, because they must not be in the shell's history, and asks before what
//! cannot be undone.

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

/// Says what will happen, and asks whether it shall. Returns None if nobody can answer: standard input is no terminal.
pub fn confirm(what: &str) -> Result<Option<bool>, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(None);
    }
    printer::note(&format!("{what}; go on? [y/N]"));
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|error| Failure::usage("cannot read standard input").because(error))?;
    Ok(Some(matches!(line.trim(), "y" | "Y" | "yes")))
}
