//! Finds which file of a crate uses which other, and which of its names.
//!
//! Input: the code. Output: for each target, an arrow from a file to every other file that defines something it names.
//! An arrow points to the file that *defines* the item. Files that only re-export it get none.
//!
//! Three things make no arrow:
//! - naming a module on the way to something inside it;
//! - re-exporting (`pub use`) an item of a module below, because a table of contents does not depend on what it lists;
//!   if the file also uses the name in its own code, that use makes an arrow;
//! - code that only exists in tests.
//!
//! One thing makes an arrow but is not seen: a method call on a value whose type the file never names. Only the
//! compiler knows that type.

use crate::code::Code;
use crate::resolve::{Meaning, Resolver};
use std::collections::{BTreeMap, BTreeSet};

/// For each pair of files, the names that the first uses of the second, with the lines where it names them.
pub type Arrows = BTreeMap<(String, String), BTreeMap<String, BTreeSet<usize>>>;

/// Returns the arrows of one target.
pub fn arrows(code: &Code, target: usize) -> Arrows {
    let resolver = Resolver::new(code);
    let mut arrows = Arrows::new();
    for (index, module) in code.modules.iter().enumerate().filter(|(_, module)| module.target == target) {
        let whole = whole_file(code, index);
        let mut add = |to: usize, name: &str, line: usize| {
            let Some(other) = code.module(to).filter(|other| other.target == target) else { return };
            if other.file != module.file {
                let names = arrows.entry((module.file.clone(), other.file.clone())).or_default();
                names.entry(name.to_owned()).or_default().insert(line);
            }
        };
        for (leaf, private) in &module.imports {
            for meaning in resolver.resolve(index, &leaf.path, leaf.global) {
                match meaning {
                    Meaning::Item(to, name) if *private || !code.is_within(to, whole) => add(to, &name, leaf.line),
                    Meaning::Module(to) if leaf.glob && (*private || !code.is_within(to, whole)) => {
                        add(to, "*", leaf.line);
                    }
                    _ => {}
                }
            }
        }
        for reference in &module.references {
            for meaning in resolver.resolve(index, &reference.path, reference.global) {
                if let Meaning::Item(to, name) = meaning {
                    add(to, &name, reference.line);
                }
            }
        }
    }
    arrows
}

/// Returns the outermost module in the same file.
fn whole_file(code: &Code, module: usize) -> usize {
    let file = |index: usize| code.module(index).map(|module| &module.file);
    let mut at = module;
    while let Some(parent) = code.module(at).and_then(|module| module.parent)
        && file(parent) == file(at)
    {
        at = parent;
    }
    at
}

/// Lists what this program fails to understand: files that it cannot parse, and parsed paths that lead into a module of
/// ours but to no name in it. An import that is not understood would be an arrow that nobody checks.
pub fn not_understood(code: &Code) -> Vec<String> {
    let resolver = Resolver::new(code);
    let mut lost = code.unreadable.clone();
    for (index, module) in code.modules.iter().enumerate() {
        let parsed = module.references.iter().filter(|reference| reference.parsed);
        let written = parsed.map(|reference| (&reference.path, reference.global, reference.line));
        let imported = module.imports.iter().map(|(leaf, _)| (&leaf.path, leaf.global, leaf.line));
        for (path, global, line) in written.chain(imported) {
            let meanings = resolver.resolve(index, path, global);
            if meanings.is_empty() || meanings.iter().any(|meaning| matches!(meaning, Meaning::Nowhere(..))) {
                lost.push(format!("{}:{line}: {}", module.file, path.join("::")));
            }
        }
    }
    lost
}

/// Maps each file to its parent: the file that declares it with `mod`.
pub fn parents(code: &Code, target: usize) -> BTreeMap<String, String> {
    let modules = code.modules.iter().filter(|module| module.target == target);
    let pairs = modules.filter_map(|module| {
        let parent = code.module(module.parent?)?;
        (parent.file != module.file).then(|| (module.file.clone(), parent.file.clone()))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;
    use crate::workspace::packages;

    /// Returns the arrows of a made-up crate `a`, which depends on a crate `b`, as `from>to:name` without `src/` and
    /// `.rs`, and what was not understood.
    fn of(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let mut all = vec![
            ("Cargo.toml", "[workspace]\nmembers = [\"a\", \"b\"]"),
            ("a/Cargo.toml", "[package]\nname = \"a\"\n[dependencies]\nb-b = { path = \"../b\" }"),
            ("b/Cargo.toml", "[package]\nname = \"b-b\""),
            ("b/src/lib.rs", "pub mod deep; pub use deep::B;"),
            ("b/src/deep.rs", "pub struct B;"),
        ];
        all.extend(files);
        let tree = Tree::of(&all);
        let packages = packages(&tree, "").unwrap();
        let code = Code::read(&tree, &packages);
        let short = |path: &str| path.trim_start_matches("a/src/").trim_end_matches(".rs").to_owned();
        let told = arrows(&code, 0).into_iter().flat_map(|((from, to), names)| {
            names.into_keys().map(move |name| format!("{}>{}:{name}", short(&from), short(&to)))
        });
        (told.collect(), not_understood(&code))
    }

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: &[&str]) {
        let (told, lost) = of(files);
        assert!(lost.is_empty(), "{lost:?}");
        assert_eq!(told, expected);
    }

    const LIB: (&str, &str) = ("a/src/lib.rs", "mod x; mod y;");
    const Y: (&str, &str) = ("a/src/y.rs", "pub struct Y; pub struct Z; pub fn f() {} pub enum E { One }");

    /// Checks what `x.rs` uses of `y.rs`.
    #[track_caller]
    fn x(text: &str, expected: &[&str]) {
        check(&[LIB, Y, ("a/src/x.rs", text)], expected);
    }

    #[test]
    fn imports_are_found_in_every_form() {
        x("use crate::y::Y;", &["x>y:Y"]);
        x("use crate::{y::{Y, Z as Other}};", &["x>y:Y", "x>y:Z"]);
        x("use super::y::{self}; fn g(_: y::Y) {}", &["x>y:Y"]);
        x("use crate::y as other; fn g() { other::f(); }", &["x>y:f"]);
        x("use crate::y::*; fn g(_: Y) {}", &["x>y:*", "x>y:Y"]);
        x("use crate::y::E::*; fn g() { One; }", &["x>y:E"]);
        x("fn g() { use crate::y; y::f(); }", &["x>y:f"]);
        x("mod inner { use super::super::y::Y; }", &["x>y:Y"]);
    }

    #[test]
    fn paths_are_found_in_types_expressions_patterns_macros_and_attributes() {
        x("fn g() -> Option<crate::y::Y> { None }", &["x>y:Y"]);
        x("fn g() { let _ = crate::y::E::One; }", &["x>y:E"]);
        x("impl From<u8> for crate::y::Y { fn from(_: u8) -> Self { Self } }", &["x>y:Y"]);
        x("fn g() { let _ = <crate::y::Y as Default>::default(); }", &["x>y:Y"]);
        x("fn g() { println!(\"{}\", crate::y::f()); }", &["x>y:f"]);
        x("macro_rules! m { () => { $crate::y::f() } }", &["x>y:f"]);
        x("struct S { #[serde(default = \"crate::y::f\")] a: u8 }", &["x>y:f"]);
    }

    #[test]
    fn naming_a_module_only_is_no_arrow() {
        x("use crate::y;", &[]);
    }

    #[test]
    fn code_that_only_exists_in_tests_is_left_out() {
        x("#[cfg(test)] use crate::y::Y; #[cfg(test)] mod tests { use crate::y::Z; }", &[]);
        x("#[test] fn g() { crate::y::f(); } fn h() { #[cfg(test)] let _ = crate::y::f(); }", &[]);
    }

    #[test]
    fn a_word_in_a_comment_a_text_or_a_field_is_no_arrow() {
        x("//! crate::y::Y\n/// [`crate::y::Y`]\nfn g() { let _ = \"crate::y::Y\"; }", &[]);
        x("use std::fmt; fn g() { a!(v.f(), f: 1) }", &[]);
    }

    #[test]
    fn re_exports_are_followed_to_the_file_that_defines() {
        let lib = ("a/src/lib.rs", "mod x; pub mod z; pub use z::Deep as Shallow;");
        let z = ("a/src/z/mod.rs", "mod deep; pub use deep::*;");
        let deep = ("a/src/z/deep.rs", "pub struct Deep;");
        check(&[lib, z, deep, ("a/src/x.rs", "use crate::Shallow;")], &["x>z/deep:Deep"]);
        check(&[lib, z, deep, ("a/src/x.rs", "use crate::z::Deep;")], &["x>z/deep:Deep"]);
    }

    #[test]
    fn re_exporting_an_item_of_a_module_below_is_no_arrow_but_using_it_is() {
        let x = ("a/src/x.rs", "pub struct X;");
        check(&[("a/src/lib.rs", "mod x; pub use x::X;"), x], &[]);
        check(&[("a/src/lib.rs", "mod x; pub mod hidden { pub use crate::x::X; }"), x], &[]);
        check(&[("a/src/lib.rs", "mod x; pub use x::X; pub fn f(_: X) {}"), x], &["lib>x:X"]);
        check(&[("a/src/lib.rs", "mod x; use x::X;"), x], &["lib>x:X"]);
    }

    #[test]
    fn re_exporting_an_item_from_elsewhere_is_an_arrow() {
        x("pub use crate::y::Y;", &["x>y:Y"]);
    }

    #[test]
    fn an_item_of_another_crate_is_no_arrow() {
        x("use b_b::B; pub use b_b::deep;", &[]);
        check(&[("a/src/lib.rs", "mod x; pub use b_b::B;"), ("a/src/x.rs", "use crate::B;")], &[]);
    }

    #[test]
    fn an_item_that_a_macro_makes_belongs_to_the_file_that_calls_the_macro() {
        let y = ("a/src/y.rs", "name!(Made);");
        check(&[LIB, y, ("a/src/x.rs", "use crate::y::Made;")], &["x>y:Made"]);
    }

    #[test]
    fn macros_by_example_are_found_where_they_are_visible() {
        let y = ("a/src/y.rs", "fn g() { m!(); }");
        check(
            &[("a/src/lib.rs", "#[macro_use] mod x; mod y;"), y, ("a/src/x.rs", "macro_rules! m { () => {} }")],
            &["y>x:m"],
        );
        let y = ("a/src/y.rs", "fn g() { crate::m!(); }");
        check(&[LIB, y, ("a/src/x.rs", "#[macro_export] macro_rules! m { () => {} }")], &["y>x:m"]);
    }

    #[test]
    fn modules_are_found_by_path_and_in_folders() {
        let lib = ("a/src/lib.rs", "mod x; #[path = \"other/strange.rs\"] mod y;");
        let y = ("a/src/other/strange.rs", "pub struct Y;");
        check(&[lib, y, ("a/src/x.rs", "use crate::y::Y;")], &["x>other/strange:Y"]);
        let x = ("a/src/x.rs", "mod inner { mod leaf; pub struct Up; }");
        let leaf = ("a/src/x/inner/leaf.rs", "use super::Up;");
        check(&[("a/src/lib.rs", "mod x;"), x, leaf], &["x/inner/leaf>x:Up"]);
    }

    #[test]
    fn a_path_that_leads_nowhere_is_reported() {
        let (_, lost) = of(&[LIB, Y, ("a/src/x.rs", "use crate::y::Y;\nuse crate::y::Missing;")]);
        assert_eq!(lost, ["a/src/x.rs:2: crate::y::Missing"]);
    }

    #[test]
    fn a_missing_or_broken_file_is_reported_and_the_others_are_read() {
        let (told, lost) = of(&[
            ("a/src/lib.rs", "mod x; mod y; mod gone; mod broken;"),
            Y,
            ("a/src/x.rs", "use crate::{broken::B, gone::G, y::Y};"),
            ("a/src/broken.rs", "\nfn {"),
        ]);
        assert_eq!(told, ["x>broken:B", "x>gone/mod:G", "x>y:Y"]);
        assert!(matches!(lost.as_slice(), [gone, broken]
            if gone == "a/src/gone/mod.rs: no such file" && broken.starts_with("a/src/broken.rs:2: ")));
    }
}
