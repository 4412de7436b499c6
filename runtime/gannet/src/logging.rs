//! The setup of logging, for the server and its children: log lines go to stderr.

use std::io::{self, IsTerminal};

/// Starts to write log lines to stderr. `GANNET_LOG` selects the lines, for example `gannet=debug`. There, `gannet`
/// means all crates whose names begin with it.
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("GANNET_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("gannet=info,gannet_host_gpu=info,error"));
    let ansi = io::stderr().is_terminal();
    // A second call in one process changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(ansi)
        .with_target(false)
        .try_init();
}
