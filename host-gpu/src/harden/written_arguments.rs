//! Finds the pointer arguments through which functions write.

use naga::{Block, Expression, Function, Handle, Module, Statement};
use std::collections::HashMap;

/// For each function, whether it, or a function that it calls, may write through each of its arguments.
pub(super) type WrittenArguments = HashMap<Handle<Function>, Vec<bool>>;

/// A function only calls earlier ones, so one pass is enough.
pub(super) fn find(module: &Module) -> WrittenArguments {
    let mut known = WrittenArguments::new();
    for (handle, function) in module.functions.iter() {
        let mut written = vec![false; function.arguments.len()];
        collect(function, &function.body, &known, &mut written);
        known.insert(handle, written);
    }
    known
}

/// Returns the variable or argument that a pointer points into.
pub(super) fn root(function: &Function, mut pointer: Handle<Expression>) -> &Expression {
    loop {
        match &function.expressions[pointer] {
            Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => pointer = *base,
            other => return other,
        }
    }
}

fn collect(function: &Function, block: &Block, known: &WrittenArguments, written: &mut [bool]) {
    for statement in block.iter() {
        match statement {
            Statement::Store { pointer, .. } | Statement::Atomic { pointer, .. } => mark(function, *pointer, written),
            Statement::Call { function: callee, arguments, .. } => {
                let through = known.get(callee).map(Vec::as_slice).unwrap_or_default();
                let through = arguments.iter().zip(through.iter().chain(std::iter::repeat(&true)));
                for (argument, _) in through.filter(|(_, writes)| **writes) {
                    mark(function, *argument, written);
                }
            }
            Statement::Block(inner) => collect(function, inner, known, written),
            Statement::If { accept, reject, .. } => {
                collect(function, accept, known, written);
                collect(function, reject, known, written);
            }
            Statement::Switch { cases, .. } => {
                cases.iter().for_each(|case| collect(function, &case.body, known, written));
            }
            Statement::Loop { body, continuing, .. } => {
                collect(function, body, known, written);
                collect(function, continuing, known, written);
            }
            _ => {}
        }
    }
}

fn mark(function: &Function, pointer: Handle<Expression>, written: &mut [bool]) {
    if let Expression::FunctionArgument(index) = root(function, pointer)
        && let Some(argument) = written.get_mut(*index as usize)
    {
        *argument = true;
    }
}
