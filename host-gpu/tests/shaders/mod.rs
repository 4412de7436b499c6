//! Generates random compute shaders that terminate and whose results do not depend on the order of invocations.
//! Hardening must not change these results.
//!
//! Each invocation writes to words of its own. Shared words are only changed by atomic add, xor and max. Loops make
//! at most a few trips, but for most of them this cannot be proven from the source.

use std::fmt::Write;

/// Returns the shader of a seed.
pub fn shader(seed: u64) -> String {
    let mut maker = Maker { state: seed, text: String::new(), helpers: 0, names: 0, loops: 0 };
    maker.module();
    maker.text
}

struct Maker {
    state: u64,
    text: String,
    /// Number of helper functions so far. A helper only calls those before it.
    helpers: u32,
    names: u32,
    /// Number of loops around the current statement.
    loops: u32,
}

/// The names that an expression or a statement may refer to.
#[derive(Clone, Default)]
struct Scope {
    /// Variables that may be read and written.
    variables: Vec<String>,
    /// Values that may only be read.
    values: Vec<String>,
    helpers: u32,
    /// Whether `break` and `continue` are allowed here.
    in_loop: bool,
    depth: u32,
}

impl Maker {
    /// The next random number, by SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    fn line(&mut self, text: &str) {
        let _ = writeln!(self.text, "{text}");
    }

    fn module(&mut self) {
        self.line("@group(0) @binding(0) var<storage, read> input: array<u32>;");
        self.line("@group(0) @binding(1) var<storage, read_write> output: array<u32>;");
        self.line("@group(0) @binding(2) var<storage, read_write> sums: array<atomic<u32>>;");
        self.line("var<workgroup> shared_words: array<u32, 64>;");
        self.line("var<private> own: array<u32, 8>;");
        for _ in 0..self.below(4) {
            self.helper();
        }
        let sizes = ["64, 1, 1", "8, 8, 1", "4, 4, 4", "16, 2, 1", "1, 1, 1"];
        let size = sizes[self.below(sizes.len())];
        let _ = writeln!(self.text, "@compute @workgroup_size({size})");
        self.line("fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>,");
        self.line("  @builtin(local_invocation_index) lane: u32, @builtin(num_workgroups) groups: vec3<u32>) {");
        self.line("let at = (group.x + group.y * groups.x + group.z * groups.x * groups.y) * 64u + lane;");
        let mut scope = Scope { helpers: self.helpers, ..Scope::default() };
        for value in ["at", "lane", "group.x", "group.y", "groups.z", "id.x", "id.y", "id.z"] {
            scope.values.push(value.to_owned());
        }
        for _ in 0..3 {
            self.variable(&mut scope);
        }
        for _ in 0..2 + self.below(4) {
            if self.below(4) == 0 {
                self.exchange(&mut scope);
            } else {
                self.statements(&mut scope.clone(), 2);
            }
        }
        for word in 0..2 {
            let value = self.expression(&scope, 2);
            let _ = writeln!(self.text, "output[at * 2u + {word}u] = {value};");
        }
        self.line("}");
    }

    /// Adds a helper function of two values.
    fn helper(&mut self) {
        let name = format!("helper{}", self.helpers);
        let _ = writeln!(self.text, "fn {name}(x: u32, y: u32) -> u32 {{");
        let values = vec!["x".to_owned(), "y".to_owned()];
        let mut scope = Scope { values, helpers: self.helpers, depth: 1, ..Scope::default() };
        self.variable(&mut scope);
        self.statements(&mut scope.clone(), 2);
        if self.below(2) == 0 {
            let (condition, value) = (self.condition(&scope), self.expression(&scope, 2));
            let _ = writeln!(self.text, "if {condition} {{ return {value}; }}");
        }
        let value = self.expression(&scope, 2);
        let _ = writeln!(self.text, "return {value};\n}}");
        self.helpers += 1;
    }

    fn variable(&mut self, scope: &mut Scope) {
        let (name, value) = (self.name("v"), self.expression(scope, 2));
        let _ = writeln!(self.text, "var {name} = {value};");
        scope.variables.push(name);
    }

    /// Exchanges words through workgroup memory. The code is only added where control flow is uniform.
    fn exchange(&mut self, scope: &mut Scope) {
        let value = self.expression(scope, 2);
        let _ = writeln!(self.text, "workgroupBarrier();\nshared_words[lane % 64u] = {value};\nworkgroupBarrier();");
        let (name, from) = (self.name("w"), self.expression(scope, 1));
        // Reads only words that were written, whatever the size of the workgroup.
        let _ = writeln!(self.text, "let {name} = shared_words[select(lane, 0u, ({from}) % 2u == 0u)];");
        scope.values.push(name);
        if self.below(2) == 0 {
            // A uniform loop with barriers in it.
            let trips = self.below(4);
            let counter = self.name("trip");
            let _ = writeln!(
                self.text,
                "for (var {counter} = 0u; {counter} < groups.x % 4u + {trips}u; {counter}++) {{\nworkgroupBarrier();\n\
                 shared_words[lane] = shared_words[lane] * 3u + {counter};\nworkgroupBarrier();\n}}"
            );
        }
    }

    fn statements(&mut self, scope: &mut Scope, most: usize) {
        for _ in 0..=self.below(most) {
            self.statement(scope);
        }
    }

    fn statement(&mut self, scope: &mut Scope) {
        let deep = scope.depth >= 3;
        match self.below(if deep { 5 } else { 13 }) {
            0 => self.variable(scope),
            1 => {
                let (index, value) = (self.expression(scope, 1), self.expression(scope, 2));
                let _ = writeln!(self.text, "own[({index}) % 8u] = {value};");
            }
            2 => {
                let (index, value) = (self.expression(scope, 1), self.expression(scope, 2));
                // Each kind of atomic operation has words of its own. On the same word, their order would matter.
                let kind = self.below(3);
                let change = ["atomicAdd", "atomicXor", "atomicMax"][kind];
                let _ = writeln!(self.text, "{change}(&sums[({index}) % 16u * 3u + {kind}u], {value});");
            }
            3 | 4 => {
                let Some(name) = self.pick(&scope.variables) else { return };
                let operator = ["=", "+=", "-=", "*=", "^=", "|=", "&="][self.below(7)];
                let value = self.expression(scope, 2);
                let _ = writeln!(self.text, "{name} {operator} {value};");
            }
            5 | 6 => {
                let condition = self.condition(scope);
                let _ = writeln!(self.text, "if {condition} {{");
                self.block(scope);
                if self.below(2) == 0 {
                    self.line("} else {");
                    self.block(scope);
                }
                self.line("}");
            }
            7 => {
                let value = self.expression(scope, 2);
                let _ = writeln!(self.text, "switch ({value}) % 4u {{\ncase 0u: {{");
                self.block(scope);
                self.line("}\ncase 1u, 2u: {");
                self.block(scope);
                self.line("}\ndefault: {");
                self.block(scope);
                self.line("}\n}");
            }
            8 if scope.in_loop => {
                let (condition, way) = (self.condition(scope), ["break", "continue"][self.below(2)]);
                let _ = writeln!(self.text, "if {condition} {{ {way}; }}");
            }
            _ if self.loops < 2 => self.repeat(scope),
            _ => {}
        }
    }

    fn block(&mut self, scope: &Scope) {
        let mut inner = Scope { depth: scope.depth + 1, ..scope.clone() };
        self.statements(&mut inner, 2);
    }

    fn repeat(&mut self, scope: &Scope) {
        self.loops += 1;
        let counter = self.name("turn");
        let mut inner = Scope { in_loop: true, depth: scope.depth + 1, ..scope.clone() };
        inner.values.push(counter.clone());
        let few = 1 + self.below(4);
        let bound = self.expression(scope, 1);
        match self.below(5) {
            0 => {
                let _ = writeln!(self.text, "for (var {counter} = 0u; {counter} < {few}u; {counter}++) {{");
                self.statements(&mut inner, 2);
                self.line("}");
            }
            1 => {
                let step = 1 + self.below(3);
                let _ = writeln!(
                    self.text,
                    "for (var {counter} = ({bound}) % 4u; {counter} < ({bound}) % 7u; {counter} += {step}u) {{"
                );
                self.statements(&mut inner, 2);
                self.line("}");
            }
            2 => {
                let _ = writeln!(self.text, "for (var {counter} = ({bound}) % 5u; {counter} > 0u; {counter}--) {{");
                self.statements(&mut inner, 2);
                self.line("}");
            }
            3 => {
                let _ = writeln!(self.text, "var {counter} = 0u;\nwhile ({counter} < ({bound}) % 5u) {{\n{counter}++;");
                self.statements(&mut inner, 2);
                self.line("}");
            }
            _ => {
                let _ = writeln!(self.text, "var {counter} = 0u;\nloop {{");
                self.statements(&mut inner, 2);
                let _ = writeln!(
                    self.text,
                    "continuing {{ {counter}++; break if {counter} > ({}) % {few}u; }}\n}}",
                    counter.clone() + " ^ 1u"
                );
            }
        }
        self.loops -= 1;
    }

    fn pick(&mut self, from: &[String]) -> Option<String> {
        if from.is_empty() { None } else { Some(from[self.below(from.len())].clone()) }
    }

    fn condition(&mut self, scope: &Scope) -> String {
        let (a, b) = (self.expression(scope, 2), self.expression(scope, 1));
        let simple = match self.below(4) {
            0 => format!("({a}) % 3u == 0u"),
            1 => format!("({a}) < ({b})"),
            2 => format!("({a}) % 5u >= ({b}) % 4u"),
            _ => format!("(({a}) & 1u) != 0u"),
        };
        match self.below(4) {
            0 => format!("({simple}) && lane % 2u == 0u").replace("lane", self.lane(scope)),
            1 => format!("!({simple})"),
            _ => simple,
        }
    }

    /// Returns `lane` if it is in scope, otherwise `x`.
    fn lane(&self, scope: &Scope) -> &'static str {
        if scope.values.iter().any(|value| value == "lane") { "lane" } else { "x" }
    }

    fn expression(&mut self, scope: &Scope, depth: u32) -> String {
        if depth == 0 || self.below(5) == 0 {
            return self.leaf(scope);
        }
        let (a, b) = (self.expression(scope, depth - 1), self.expression(scope, depth - 1));
        match self.below(14) {
            0 => format!("({a} + {b})"),
            1 => format!("({a} - {b})"),
            2 => format!("({a} * {b})"),
            3 => format!("({a} ^ {b})"),
            4 => format!("(({a} & {b}) | 1u)"),
            5 => format!("({a} / (({b}) % 7u + 1u))"),
            6 => format!("({a} % (({b}) % 9u + 1u))"),
            7 => format!("(({a}) >> (({b}) % 31u))"),
            8 => format!("select({a}, {b}, ({a}) % 2u == 0u)"),
            9 => format!("min({a}, max({b}, 3u))"),
            10 => format!("(countOneBits({a}) + reverseBits({b}))"),
            11 => format!("u32(f32(({a}) % 1000u) * 1.5 + f32(({b}) % 77u))"),
            12 => format!("u32(abs(i32(({a}) % 1000u) - i32(({b}) % 1000u)))"),
            // No calls at deep places, because the iterations of nested loops multiply.
            _ if scope.helpers > 0 && self.loops < 2 && scope.depth < 3 => {
                let helper = self.below(scope.helpers as usize);
                format!("helper{helper}({a}, {b})")
            }
            _ => format!("dot(vec3<u32>({a}, {b}, 1u), vec3<u32>(1u, 2u, {b}))"),
        }
    }

    fn leaf(&mut self, scope: &Scope) -> String {
        match self.below(6) {
            0 => format!("{}u", self.below(100)),
            1 => {
                let value = self.pick(&scope.values).unwrap_or_else(|| "7u".into());
                format!("input[({value}) % arrayLength(&input)]")
            }
            2 => {
                let value = self.pick(&scope.values).unwrap_or_else(|| "5u".into());
                format!("own[({value}) % 8u]")
            }
            3 => self.pick(&scope.values).unwrap_or_else(|| "3u".into()),
            _ => self.pick(&scope.variables).unwrap_or_else(|| "2u".into()),
        }
    }
}
