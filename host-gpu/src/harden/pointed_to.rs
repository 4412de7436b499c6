//! Copies what a pointer argument points to, if it is a part of a variable, such as `&a[i]` or `&s.b`. naga's SPIR-V writer
//! can only pass pointers to whole variables.
//!
//! ```text
//!  f(&a[i]);    ──▶    copy = a[i];  f(&copy);  a[i] = copy;
//! ```
//!
//! The variable belongs to one invocation, since naga refuses pointers to any other as arguments. WGSL does not allow a
//! function that writes through a pointer to reach the same variable on another way, so nobody can tell the copy from the
//! original. It is not written back if the function only reads.

use super::written_arguments::{self, WrittenArguments};
use naga::{
    AddressSpace, Block, Expression, Function, GlobalVariable, Handle, LocalVariable, Module, Span, Statement, Type,
    TypeInner,
};
use std::collections::HashMap;

/// Changes all functions of a module.
pub(crate) fn copy_pointed_to(module: &mut Module) {
    let written = written_arguments::find(module);
    let handles: Vec<_> = module.functions.iter().map(|(handle, _)| handle).collect();
    for handle in handles {
        let mut function = std::mem::take(module.functions.get_mut(handle));
        change(module, &written, &mut function);
        *module.functions.get_mut(handle) = function;
    }
    for index in 0..module.entry_points.len() {
        let Some(entry) = module.entry_points.get_mut(index) else { continue };
        let mut function = std::mem::take(&mut entry.function);
        change(module, &written, &mut function);
        if let Some(entry) = module.entry_points.get_mut(index) {
            entry.function = function;
        }
    }
}

/// The copies of one function, by what they are for. A call is over before the next one uses the same copy.
type Copies = HashMap<(Handle<Type>, bool, usize), Handle<Expression>>;

fn change(module: &mut Module, written: &WrittenArguments, function: &mut Function) {
    let body = std::mem::take(&mut function.body);
    function.body = block(module, written, function, &mut Copies::new(), body);
}

fn block(
    module: &mut Module,
    written: &WrittenArguments,
    function: &mut Function,
    copies: &mut Copies,
    old: Block,
) -> Block {
    let mut out = Block::with_capacity(old.len());
    for (statement, span) in old.span_into_iter() {
        match statement {
            Statement::Block(inner) => {
                out.push(Statement::Block(block(module, written, function, copies, inner)), span)
            }
            Statement::If { condition, accept, reject } => {
                let accept = block(module, written, function, copies, accept);
                let reject = block(module, written, function, copies, reject);
                out.push(Statement::If { condition, accept, reject }, span);
            }
            Statement::Switch { selector, mut cases } => {
                for case in &mut cases {
                    case.body = block(module, written, function, copies, std::mem::take(&mut case.body));
                }
                out.push(Statement::Switch { selector, cases }, span);
            }
            Statement::Loop { body, continuing, break_if } => {
                let body = block(module, written, function, copies, body);
                let continuing = block(module, written, function, copies, continuing);
                out.push(Statement::Loop { body, continuing, break_if }, span);
            }
            Statement::Call { function: callee, mut arguments, result } => {
                let mut after = Block::new();
                for (index, argument) in arguments.iter_mut().enumerate() {
                    let is_part = matches!(
                        function.expressions[*argument],
                        Expression::Access { .. } | Expression::AccessIndex { .. }
                    );
                    let declared = module.functions.try_get(callee).ok().and_then(|callee| callee.arguments.get(index));
                    let Some((ty, space)) = declared.and_then(|declared| pointed_to(module, declared.ty)) else {
                        continue;
                    };
                    if !is_part {
                        continue;
                    }
                    let is_written = written.get(&callee).and_then(|all| all.get(index)).copied().unwrap_or(true);
                    let key = (ty, space == AddressSpace::Function, index);
                    let copy = copies.get(&key).copied().unwrap_or_else(|| {
                        let copy = variable(module, function, ty, space, span);
                        function.expressions.append(copy, span)
                    });
                    copies.insert(key, copy);
                    copy_value(function, &mut out, *argument, copy, span);
                    if is_written {
                        copy_value(function, &mut after, copy, *argument, span);
                    }
                    *argument = copy;
                }
                out.push(Statement::Call { function: callee, arguments, result }, span);
                out.append(&mut after);
            }
            other => out.push(other, span),
        }
    }
    out
}

/// Returns the type that a pointer type points to, and its address space.
fn pointed_to(module: &Module, pointer: Handle<Type>) -> Option<(Handle<Type>, AddressSpace)> {
    match module.types[pointer].inner {
        TypeInner::Pointer { base, space } => Some((base, space)),
        // The other kind of pointer has no written type, so no argument is declared with it.
        _ => None,
    }
}

/// Adds a variable for a copy: the pointer to it must be of the declared address space.
fn variable(
    module: &mut Module,
    function: &mut Function,
    ty: Handle<Type>,
    space: AddressSpace,
    span: Span,
) -> Expression {
    let name = Some("copy".into());
    if space == AddressSpace::Function {
        return Expression::LocalVariable(
            function.local_variables.append(LocalVariable { name, ty, init: None }, span),
        );
    }
    let memory_decorations = naga::MemoryDecorations::empty();
    let global = GlobalVariable { name, space, binding: None, ty, init: None, memory_decorations };
    Expression::GlobalVariable(module.global_variables.append(global, span))
}

fn copy_value(
    function: &mut Function,
    block: &mut Block,
    from: Handle<Expression>,
    to: Handle<Expression>,
    span: Span,
) {
    let before = function.expressions.len();
    let value = function.expressions.append(Expression::Load { pointer: from }, span);
    block.push(Statement::Emit(function.expressions.range_from(before)), span);
    block.push(Statement::Store { pointer: to, value }, span);
}
