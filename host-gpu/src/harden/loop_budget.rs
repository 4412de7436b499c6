//! Inserts loop budgets: every loop that is not provably short counts down a budget, and ends when it is used up.
//!
//! ```text
//!  loop {                            loop {
//!    body                   ──▶        if left <= cost { left = 0; break; }
//!    continuing { … }                  left -= cost;
//!  }                                   body
//!                                      continuing { … }
//!                                    }
//! ```
//!
//! If the number of a loop's iterations can be computed before the loop, the loop is charged once, before it runs:
//! [`super::charge_ahead`].
//!
//! Why this is complete and safe:
//!
//! - It covers all loops of the entry point and of every function, wherever they are, also in `continuing` blocks. The
//!   inserted `break` is always directly in a loop's body, never in its `continuing` block.
//! - All divergent loops of an invocation (nested ones, those of callees, and consecutive ones) share one counter. When
//!   a counter is zero, each later loop that uses it ends in its first iteration, or is skipped if it is charged ahead.
//! - Uniform loops, which all invocations of a workgroup run together, share a second counter. It only changes in
//!   uniform control flow, so it is equal in all invocations of the workgroup. They leave such a loop together, and all
//!   of them still reach a barrier in or after it.
//! - A counter is zero only if a loop was ended because of it, because an iteration leaves at least one. So the loop
//!   only changes the counter, and [`super::entry_point`] checks once, at the end, whether to set the flag. (Setting
//!   the flag in the loop cost the software driver 40 % of a blur.)

use super::charge_ahead;
use super::cost::{BudgetUnit, Costs, LoopCost};
use super::globals::Globals;
use super::uniformity::UniformLoops;
use super::unroll;
use naga::{BinaryOperator, Block, Expression, Function, GlobalVariable, Handle, Literal, Module, Span, Statement};

/// Numbers of the counted loops of a module.
#[derive(Debug, Clone, Default)]
pub(super) struct CountedLoops {
    /// Loops that all invocations of a workgroup run together.
    pub uniform: u32,
    /// Loops that each invocation runs for itself.
    pub divergent: u32,
    /// Whether a divergent loop is inside another loop, or in a function, which may be called from such a loop.
    pub divergent_nested: bool,
    /// Where they are in the source.
    pub spans: Vec<Span>,
}

/// Inserts the counting code into all functions and entry points of a module.
pub(super) fn insert(
    module: &mut Module,
    globals: &Globals,
    uniform: &UniformLoops,
    costs: &Costs,
    unit: BudgetUnit,
) -> CountedLoops {
    let mut counted = CountedLoops::default();
    let none = Vec::new();
    let handles: Vec<_> = module.functions.iter().map(|(handle, _)| handle).collect();
    for handle in handles {
        let loops = costs.functions.get(&handle).unwrap_or(&none);
        let uniform = uniform.functions.get(&handle).map_or(&[][..], Vec::as_slice);
        let mut function = std::mem::take(module.functions.get_mut(handle));
        Inserter { module, globals, unit, loops, uniform, next: 0, counted: &mut counted, depth: 1 }.run(&mut function);
        *module.functions.get_mut(handle) = function;
    }
    for index in 0..module.entry_points.len() {
        let Some(entry) = module.entry_points.get_mut(index) else { continue };
        let mut function = std::mem::take(&mut entry.function);
        let (loops, uniform) = (costs.entry.as_slice(), uniform.entry.as_slice());
        Inserter { module, globals, unit, loops, uniform, next: 0, counted: &mut counted, depth: 0 }.run(&mut function);
        if let Some(entry) = module.entry_points.get_mut(index) {
            entry.function = function;
        }
    }
    counted
}

fn add(function: &mut Function, expression: Expression) -> Handle<Expression> {
    function.expressions.append(expression, Span::UNDEFINED)
}

/// Inserts the counting code into one function.
struct Inserter<'a> {
    module: &'a Module,
    globals: &'a Globals,
    unit: BudgetUnit,
    loops: &'a [LoopCost],
    uniform: &'a [bool],
    /// Index of the next loop, in the order in which they begin in the source.
    next: usize,
    counted: &'a mut CountedLoops,
    /// Number of loops around the current statement. Functions begin at 1, since they may be called in a loop.
    depth: u32,
}

impl Inserter<'_> {
    fn run(mut self, function: &mut Function) {
        // Rewrites a copy, because `charge_ahead` must see the function's original body.
        let body = self.block(function, function.body.clone());
        function.body = body;
    }

    fn block(&mut self, function: &mut Function, block: Block) -> Block {
        let mut out = Block::with_capacity(block.len());
        for (statement, span) in block.span_into_iter() {
            match statement {
                Statement::Block(inner) => out.push(Statement::Block(self.block(function, inner)), span),
                Statement::If { condition, accept, reject } => {
                    let accept = self.block(function, accept);
                    let reject = self.block(function, reject);
                    out.push(Statement::If { condition, accept, reject }, span);
                }
                Statement::Switch { selector, mut cases } => {
                    for case in &mut cases {
                        case.body = self.block(function, std::mem::take(&mut case.body));
                    }
                    out.push(Statement::Switch { selector, cases }, span);
                }
                Statement::Loop { body, continuing, break_if } => {
                    out.append(&mut self.looped(function, (body, continuing, break_if), span));
                }
                other => out.push(other, span),
            }
        }
        out
    }

    fn looped(
        &mut self,
        function: &mut Function,
        (body, continuing, break_if): (Block, Block, Option<Handle<Expression>>),
        span: Span,
    ) -> Block {
        let index = self.next;
        self.next += 1;
        // A loop without a cost would be a bug in `cost`: it gets the highest cost.
        let cost = match self.loops.get(index).copied().unwrap_or(LoopCost::Counted(u32::MAX)) {
            LoopCost::Uncounted => None,
            LoopCost::Counted(cost) => Some(cost),
            LoopCost::Unrolled => Some(1),
        };
        if cost.is_some() {
            self.counted.spans.push(span);
        }
        let unrolled = self.loops.get(index) == Some(&LoopCost::Unrolled);
        let uniform = self.uniform.get(index).copied().unwrap_or(false);
        if cost.is_some() && uniform {
            self.counted.uniform += 1;
        } else if cost.is_some() {
            self.counted.divergent += 1;
            self.counted.divergent_nested |= self.depth > 0;
        }
        // A short loop counts too: a loop in it may run often in one invocation and then often in another.
        self.depth += 1;
        let mut body = self.block(function, body);
        let mut continuing = self.block(function, continuing);
        self.depth -= 1;
        let mut out = Block::new();
        if let Some(cost) = cost {
            let counter = if uniform { self.globals.uniform_left } else { self.globals.left };
            if break_if.is_none() {
                let price = charge_ahead::Price { counter, cost, unit: self.unit, unrolled };
                match charge_ahead::charge(self.module, function, price, (body, continuing, span)) {
                    Ok(charged) => return charged,
                    Err(looped) => (body, continuing) = looped,
                }
            } else if self.unit == BudgetUnit::Iterations {
                // Drivers run the `continuing` block at the beginning of the next iteration, so they make one more.
                out = take(function, counter, cost);
            }
            if unrolled && let Some(copies) = unroll::unrolled(function, &body, &continuing) {
                body = copies;
            }
            body.splice(0..0, count_down(function, counter, cost));
        }
        out.push(Statement::Loop { body, continuing, break_if }, span);
        out
    }
}

/// Returns code that leaves the loop if the budget does not cover another iteration, and else takes its cost.
fn count_down(function: &mut Function, counter: Handle<GlobalVariable>, cost: u32) -> Block {
    let (mut block, left, condition) = compare(function, counter, cost);
    let mut leave = store_zero(function, counter);
    leave.push(Statement::Break, Span::UNDEFINED);
    block.push(Statement::If { condition, accept: leave, reject: Block::new() }, Span::UNDEFINED);
    block.append(&mut subtract(function, counter, left, cost));
    block
}

/// Returns code that takes a cost from the budget, or all that is left of it.
fn take(function: &mut Function, counter: Handle<GlobalVariable>, cost: u32) -> Block {
    let (mut block, left, condition) = compare(function, counter, cost);
    let accept = store_zero(function, counter);
    let reject = subtract(function, counter, left, cost);
    block.push(Statement::If { condition, accept, reject }, Span::UNDEFINED);
    block
}

/// Returns code that compares the budget with a cost, the budget, and whether it is at most the cost.
fn compare(
    function: &mut Function,
    counter: Handle<GlobalVariable>,
    cost: u32,
) -> (Block, Handle<Expression>, Handle<Expression>) {
    let pointer = add(function, Expression::GlobalVariable(counter));
    let right = add(function, Expression::Literal(Literal::U32(cost)));
    let from = function.expressions.len();
    let left = add(function, Expression::Load { pointer });
    let condition = add(function, Expression::Binary { op: BinaryOperator::LessEqual, left, right });
    let mut block = Block::new();
    block.push(Statement::Emit(function.expressions.range_from(from)), Span::UNDEFINED);
    (block, left, condition)
}

fn store_zero(function: &mut Function, counter: Handle<GlobalVariable>) -> Block {
    let pointer = add(function, Expression::GlobalVariable(counter));
    let value = add(function, Expression::Literal(Literal::U32(0)));
    let mut block = Block::new();
    block.push(Statement::Store { pointer, value }, Span::UNDEFINED);
    block
}

fn subtract(function: &mut Function, counter: Handle<GlobalVariable>, left: Handle<Expression>, cost: u32) -> Block {
    let pointer = add(function, Expression::GlobalVariable(counter));
    let right = add(function, Expression::Literal(Literal::U32(cost)));
    let from = function.expressions.len();
    let value = add(function, Expression::Binary { op: BinaryOperator::Subtract, left, right });
    let mut block = Block::new();
    block.push(Statement::Emit(function.expressions.range_from(from)), Span::UNDEFINED);
    block.push(Statement::Store { pointer, value }, Span::UNDEFINED);
    block
}
