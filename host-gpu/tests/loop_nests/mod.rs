//! Random nests of loops: their WGSL, and what each invocation must count.
//!
//! The numbers of iterations come from buffers and are often near the number after which the software driver ends
//! loops without an error.

use std::fmt::Write;

/// Most invocations of a workgroup.
pub const LANES: u32 = 16;
/// Sizes of workgroups. The software driver runs eight invocations in step, and the missing ones too.
const SIZES: [[u32; 2]; 6] = [[16, 1], [1, 1], [5, 1], [12, 1], [4, 4], [3, 3]];
/// Bounds of loops that are the same for all invocations.
const SHARED: u32 = 8;
/// Bounds of loops for each invocation.
const OWN: u32 = 8;
/// Bounds in the buffer.
const BOUNDS: u32 = SHARED + LANES * OWN;
/// More iterations than any device allows one invocation in these tests.
const STEPS_MAX: u32 = 400_000;

#[derive(Clone, Copy)]
enum Bound {
    Constant(u32),
    Shared(u32),
    Own(u32),
}

enum Node {
    Count,
    For(Bound, Vec<Node>),
    /// Runs at least once, and decides in `continuing`.
    Until(Bound, Vec<Node>),
    /// Decides in the middle of its body.
    Middle(Bound, Vec<Node>, Vec<Node>),
    /// Even iterations continue early.
    Continue(Bound, Vec<Node>),
    If(Bound, Vec<Node>),
    Call(usize),
}

/// A kernel with the contents of its buffer of bounds.
pub struct Nest {
    functions: Vec<Vec<Node>>,
    main: Vec<Node>,
    size: [u32; 2],
    pub bounds: Vec<u32>,
}

/// Pseudo-random numbers, the same for the same seed.
struct Dice {
    state: u64,
    /// Whether all bounds are the same for all invocations.
    only_shared: bool,
}

impl Dice {
    fn below(&mut self, limit: u32) -> u32 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((self.state >> 33) % u64::from(limit)).unwrap()
    }
}

/// Makes the nest of a seed.
pub fn nest(seed: u64) -> Nest {
    // Two of three have only loops that all invocations run together, which have the whole budget.
    let mut dice = Dice { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), only_shared: !seed.is_multiple_of(3) };
    let functions = vec![block(&mut dice, 1, 0), block(&mut dice, 1, 1)];
    let main = block(&mut dice, 3, 2);
    let mut nest = Nest { functions, main, size: SIZES[dice.below(6) as usize], bounds: Vec::new() };
    // Three of four have about as many iterations as the driver allows.
    for _ in 0..if seed.is_multiple_of(4) { 1 } else { 60 } {
        let choices = [0, 0, 1, 1, 2, 3, 7, 40, 200, 1000, 5000, 11_000, 22_000, 33_000, 66_000, 150_000];
        let largest = 6 + dice.below(11);
        nest.bounds = (0..BOUNDS).map(|_| choices[dice.below(largest) as usize]).collect();
        if (0..nest.lanes()).any(|lane| (15_000..250_000).contains(&nest.run(lane).steps)) {
            break;
        }
    }
    nest
}

fn bound(dice: &mut Dice) -> Bound {
    match dice.below(6) {
        0 => Bound::Constant(dice.below(6)),
        value if value < 4 || dice.only_shared => Bound::Shared(dice.below(SHARED)),
        _ => Bound::Own(dice.below(OWN)),
    }
}

/// Makes a block with loops up to `depth` levels deep, that calls only functions before number `callable`.
fn block(dice: &mut Dice, depth: u32, callable: u32) -> Vec<Node> {
    (0..=dice.below(3))
        .map(|_| match dice.below(if depth == 0 { 2 } else { 9 }) {
            0 => Node::Count,
            1 if callable > 0 => Node::Call(dice.below(callable) as usize),
            1 => Node::Count,
            2..5 => Node::For(bound(dice), block(dice, depth - 1, callable)),
            5 => Node::Until(bound(dice), block(dice, depth - 1, callable)),
            6 => Node::Middle(bound(dice), block(dice, depth - 1, callable), block(dice, depth - 1, callable)),
            7 => Node::Continue(bound(dice), block(dice, depth - 1, callable)),
            _ => Node::If(bound(dice), block(dice, depth - 1, callable)),
        })
        .collect()
}

impl Bound {
    fn wgsl(self) -> String {
        match self {
            Self::Constant(value) => format!("{value}u"),
            Self::Shared(index) => format!("bounds[{index}]"),
            Self::Own(index) => format!("bounds[{SHARED}u + lane * {OWN}u + {index}u]"),
        }
    }
}

impl Nest {
    /// Returns the kernel's source.
    pub fn wgsl(&self) -> String {
        let mut text = String::from(
            "@group(0) @binding(0) var<storage, read> bounds: array<u32>;\n\
             @group(0) @binding(1) var<storage, read_write> counted: array<u32>;\n",
        );
        for (number, body) in self.functions.iter().enumerate() {
            let body = write(body, &mut 0);
            let _ = writeln!(text, "fn f{number}(lane: u32) -> u32 {{ var n = 0u; {body} return n; }}");
        }
        let body = write(&self.main, &mut 0);
        let _ = writeln!(
            text,
            "@compute @workgroup_size({}, {}) fn main(@builtin(local_invocation_index) lane: u32) {{\n\
             var n = 0u;\n{body}counted[lane] = n; }}",
            self.size[0], self.size[1]
        );
        text
    }

    /// Returns what each invocation counts. None if one would make too many iterations.
    pub fn counted(&self) -> Option<Vec<u32>> {
        (0..self.lanes())
            .map(|lane| Some(self.run(lane)).filter(|run| run.steps < STEPS_MAX).map(|run| run.counted))
            .collect()
    }

    fn lanes(&self) -> u32 {
        self.size[0] * self.size[1]
    }

    fn run(&self, lane: u32) -> Run<'_> {
        let mut run = Run { nest: self, lane, counted: 0, steps: 0 };
        let _ = run.block(&self.main);
        run
    }
}

fn write(block: &[Node], names: &mut u32) -> String {
    let mut text = String::new();
    for node in block {
        *names += 1;
        let i = format!("i{names}");
        let _ = match node {
            Node::Count => writeln!(text, "n++;"),
            Node::Call(number) => writeln!(text, "n += f{number}(lane);"),
            Node::If(bound, body) => {
                writeln!(text, "if {} > 2u {{\n{}}}", bound.wgsl(), write(body, names))
            }
            Node::For(bound, body) => {
                writeln!(text, "for (var {i} = 0u; {i} < {}; {i}++) {{\n{}}}", bound.wgsl(), write(body, names))
            }
            Node::Until(bound, body) => {
                let body = write(body, names);
                writeln!(
                    text,
                    "var {i} = 0u; loop {{\n{body}continuing {{ {i}++; break if {i} >= {}; }} }}",
                    bound.wgsl()
                )
            }
            Node::Middle(bound, first, second) => {
                let (first, second) = (write(first, names), write(second, names));
                writeln!(
                    text,
                    "var {i} = 0u; loop {{\n{first}if {i} >= {} {{ break; }}\n{i}++;\n{second}}}",
                    bound.wgsl()
                )
            }
            Node::Continue(bound, body) => {
                let body = write(body, names);
                writeln!(
                    text,
                    "for (var {i} = 0u; {i} < {}; {i}++) {{ if {i} % 2u == 0u {{ continue; }}\n{body}}}",
                    bound.wgsl()
                )
            }
        };
    }
    text
}

/// Computes what one invocation counts.
struct Run<'a> {
    nest: &'a Nest,
    lane: u32,
    counted: u32,
    steps: u32,
}

impl Run<'_> {
    fn bound(&self, bound: Bound) -> u32 {
        match bound {
            Bound::Constant(value) => value,
            Bound::Shared(index) => self.nest.bounds[index as usize],
            Bound::Own(index) => self.nest.bounds[(SHARED + self.lane * OWN + index) as usize],
        }
    }

    fn step(&mut self) -> Option<()> {
        self.steps += 1;
        (self.steps < STEPS_MAX).then_some(())
    }

    fn block(&mut self, block: &[Node]) -> Option<()> {
        for node in block {
            match node {
                Node::Count => self.counted += 1,
                Node::Call(number) => self.block(&self.nest.functions[*number])?,
                Node::If(bound, body) => {
                    if self.bound(*bound) > 2 {
                        self.block(body)?;
                    }
                }
                Node::For(bound, body) => {
                    for _ in 0..self.bound(*bound) {
                        self.step()?;
                        self.block(body)?;
                    }
                }
                Node::Until(bound, body) => {
                    for _ in 0..self.bound(*bound).max(1) {
                        self.step()?;
                        self.block(body)?;
                    }
                }
                Node::Middle(bound, first, second) => {
                    for _ in 0..self.bound(*bound) {
                        self.step()?;
                        self.block(first)?;
                        self.block(second)?;
                    }
                    self.block(first)?;
                }
                Node::Continue(bound, body) => {
                    for i in 0..self.bound(*bound) {
                        self.step()?;
                        if i % 2 != 0 {
                            self.block(body)?;
                        }
                    }
                }
            }
        }
        Some(())
    }
}
