//! Why a command failed, and its exit code: 0 success, 1 the request or the function failed, 2 wrong usage, 3 the
//! server cannot be reached or is at fault.

use crate::printer;
use std::process::ExitCode;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    what: String,
    causes: Vec<String>,
    hint: Option<String>,
}

/// What a command returns.
pub type Outcome = Result<(), Failure>;

impl Failure {
    fn new(code: u8, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), causes: Vec::new(), hint: None }
    }

    /// Makes a failure of the request or the function (exit code 1).
    pub fn failed(what: impl Into<String>) -> Self {
        Self::new(1, what)
    }

    /// Makes a failure by wrong usage (exit code 2).
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(2, what)
    }

    /// Makes a failure of a server that cannot be reached or is at fault (exit code 3).
    pub fn server(what: impl Into<String>) -> Self {
        Self::new(3, what)
    }

    /// Adds a cause, which is printed below the error.
    #[must_use]
    pub fn because(mut self, cause: impl ToString) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// Says what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Prints the failure, if there is one, and returns the exit code of the process.
pub fn exit_code(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            printer::error(&failure.what, &failure.causes, failure.hint.as_deref());
            ExitCode::from(failure.code)
        }
    }
}
