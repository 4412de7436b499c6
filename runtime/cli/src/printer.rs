//! The one place that prints: data goes to stdout, everything else to stderr.

use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// Prints an error, its causes and a hint.
pub fn error(what: &str, causes: &[String], hint: Option<&str>) {
    note(&format!("error: {what}"));
    for cause in causes {
        note(&format!("  caused by: {cause}"));
    }
    if let Some(hint) = hint {
        note(&format!("hint: {hint}"));
    }
}

/// Prints a line that is not data, on stderr.
pub fn note(text: &str) {
    // If nobody reads it, it is lost. That is no reason to panic.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints a line of data. Ends the process if standard output cannot be written.
pub fn line(text: &str) {
    if let Err(error) = writeln!(io::stdout(), "{text}") {
        stop(&error);
    }
}

/// Ends the process because standard output cannot be written. A reader that closed the pipe has read enough: that is no
/// error. Anything else is, such as a full disk.
fn stop(cause: &io::Error) -> ! {
    if cause.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    error("standard output cannot be written", &[cause.to_string()], None);
    std::process::exit(1)
}

/// Prints data as JSON.
pub fn json<T: Serialize>(value: &T) {
    line(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Writes bytes as they are. Ends the process if standard output cannot be written.
pub fn bytes(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) {
        stop(&error);
    }
}

/// Standard output as a writer. Ends the process if it cannot be written.
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        bytes(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints rows in columns, under their titles.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let print = |cells: &mut dyn Iterator<Item = &str>| {
        let text: Vec<String> =
            cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}", width = *width)).collect();
        line(text.join("  ").trim_end());
    };
    print(&mut head.iter().copied());
    for row in rows {
        print(&mut row.iter().map(String::as_str));
    }
}

/// Makes a progress bar on stderr. It is hidden where stderr is not a terminal.
pub fn progress(length: u64, what: &str) -> indicatif::ProgressBar {
    if !io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let bar = indicatif::ProgressBar::new(length);
    if let Ok(style) = indicatif::ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}

/// Makes a progress bar on stderr that counts. It is hidden where stderr is not a terminal.
pub fn counter(length: u64, what: &str) -> indicatif::ProgressBar {
    let bar = progress(length, what);
    if let Ok(style) = indicatif::ProgressStyle::with_template("[{bar:30}] {pos}/{len} {wide_msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// Makes a line on stderr that says what is waited for, and for how long already. It is hidden where stderr is not a
/// terminal.
pub fn spinner() -> indicatif::ProgressBar {
    if !io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let line = indicatif::ProgressBar::new_spinner();
    if let Ok(style) = indicatif::ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
        line.set_style(style);
    }
    line.enable_steady_tick(Duration::from_millis(100));
    line
}
