//! Lets an innermost loop make several iterations in each one that a software driver counts.
//!
//! ```text
//!  loop {                            loop {
//!    body                   ──▶        { body  continuing }    three times
//!    continuing { … }                  body
//!  }                                   continuing { … }
//!                                    }
//! ```
//!
//! The driver ends all loops of an invocation after 65,535 iterations, so kernels with more could not run there at all.
//! The guard of a copy leaves the loop as it did before. Each copy has expressions of its own, because naga's writers
//! evaluate an expression only once.
//!
//! A loop with a `continue` is left alone: in a copy it would skip the others. So is a loop that decides in its
//! `continuing` block; one that contains or calls loops; a long one, because its copies must be compiled; and one with a
//! barrier or a subgroup operation, which costs the driver more than the rest of an iteration, also when it runs in vain.

use super::copy_code::CodeCopier;
use naga::{Block, Function, Span, Statement};

/// Iterations of a loop in each one that the driver counts. The more it is, the more iterations are run in vain at the
/// end of each loop: the driver skips no code.
pub(super) const COPIES: u32 = 4;
/// Limit on the statements and expressions of a loop.
pub(super) const SIZE_MAX: u64 = 400;
/// Limit on the calls in a loop: a driver inlines them, which takes long.
pub(super) const CALLS_MAX: u64 = 4;

/// Returns a body for the loop that makes [`COPIES`] iterations. None if it cannot be copied.
pub(super) fn unrolled(function: &mut Function, body: &Block, continuing: &Block) -> Option<Block> {
    let mut out = Block::new();
    for _ in 1..COPIES {
        let mut copier = CodeCopier::new(function);
        let mut copy = copier.block(body)?;
        copy.append(&mut copier.block(continuing)?);
        out.push(Statement::Block(copy), Span::UNDEFINED);
    }
    out.append(&mut body.clone());
    Some(out)
}

/// Returns whether the statements of a loop can be copied. Its expressions are only known when they are.
pub(super) fn is_possible(body: &Block) -> bool {
    body.iter().all(|statement| match statement {
        Statement::Continue
        | Statement::Loop { .. }
        | Statement::ControlBarrier(_)
        | Statement::WorkGroupUniformLoad { .. }
        | Statement::SubgroupBallot { .. }
        | Statement::SubgroupGather { .. }
        | Statement::SubgroupCollectiveOperation { .. } => false,
        Statement::Block(inner) => is_possible(inner),
        Statement::If { accept, reject, .. } => is_possible(accept) && is_possible(reject),
        Statement::Switch { cases, .. } => cases.iter().all(|case| is_possible(&case.body)),
        _ => true,
    })
}
