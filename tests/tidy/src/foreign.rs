//! Finds the files that name an item of a crate from outside the workspace, such as `http::StatusCode`.
//!
//! Input: the code and a name. Output: the places where a path resolves to that name in any foreign crate, in every
//! form: `use`, `*`, a rename, or a re-export. A value whose type is never named (`response.status() == 404`) is not
//! found.

use crate::code::Code;
use crate::resolve::{Meaning, Resolver};
use std::collections::{BTreeMap, BTreeSet};

/// Returns the files that name an item called `name` of a foreign crate, with the lines.
pub fn files_that_name(code: &Code, name: &str) -> BTreeMap<String, BTreeSet<usize>> {
    let resolver = Resolver::new(code);
    let mut files: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (index, module) in code.modules.iter().enumerate() {
        let written = module.references.iter().map(|reference| (&reference.path, reference.global, reference.line));
        let imported = module.imports.iter().map(|(leaf, _)| (&leaf.path, leaf.global, leaf.line));
        for (path, global, line) in written.chain(imported) {
            let is_it = |meaning: &Meaning| match meaning {
                // The first segment is the crate. A single word is a variable or part of the prelude.
                Meaning::External(path) => path.iter().skip(1).any(|segment| segment == name),
                _ => false,
            };
            if resolver.resolve(index, path, global).iter().any(is_it) {
                files.entry(module.file.clone()).or_default().insert(line);
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;
    use crate::workspace::packages;

    #[track_caller]
    fn check(x: &str, expected: &[usize]) {
        let tree = Tree::of(&[
            ("Cargo.toml", "[workspace]\nmembers = [\"a\", \"b\"]"),
            ("a/Cargo.toml", "[package]\nname = \"a\"\n[dependencies]\nb = { path = \"../b\" }"),
            ("a/src/lib.rs", "mod x;"),
            ("a/src/x.rs", x),
            ("b/Cargo.toml", "[package]\nname = \"b\""),
            ("b/src/lib.rs", "pub use http as web; pub use hyper::*; pub struct Mine;"),
        ]);
        let code = Code::read(&tree, &packages(&tree, "").unwrap());
        let lines = files_that_name(&code, "StatusCode").remove("a/src/x.rs").unwrap_or_default();
        assert_eq!(lines.into_iter().collect::<Vec<_>>(), expected, "{x}");
    }

    #[test]
    fn a_name_is_found_in_every_form() {
        check("use http::StatusCode;", &[1]);
        check("use http::{self};\nfn f() { http::StatusCode::OK; }", &[2]);
        check("use hyper::{StatusCode as Code};\nfn f() { g!(Code::OK); }", &[1, 2]);
        check("use http::*;\nfn f(_: StatusCode) {}", &[2]);
        check("fn f() -> hyper::http::StatusCode { todo() }", &[1]);
        check("fn f() -> b::web::StatusCode { todo() }", &[1]);
        check("use b::StatusCode;", &[1]);
        check("fn f() { use http::StatusCode as S;\n S::OK; }", &[1, 2]);
    }

    #[test]
    fn other_items_of_that_name_are_not_found() {
        check("struct StatusCode; fn f() -> StatusCode { StatusCode }", &[]);
        check("// StatusCode\nfn f() { \"http::StatusCode\"; }", &[]);
        check("use b::Mine; fn f(mine: Mine) { mine.StatusCode; }", &[]);
    }
}
