//! What calls of the job API need of the server.

use crate::admit::Admit;
use crate::audit::AuditTrail;
use crate::whole_body::BodyBudget;
use std::sync::Arc;

/// What calls of the job API need of the server.
#[derive(Debug, Clone, Copy)]
pub struct JobServices<'a> {
    /// Counts calls against the rates.
    pub admit: &'a Admit,
    /// Bounds the memory for bodies.
    pub bodies: &'a BodyBudget,
    /// Writes the audit log.
    pub trail: &'a Arc<AuditTrail>,
    /// The server's URL, without a slash at its end.
    pub base: &'a str,
}
