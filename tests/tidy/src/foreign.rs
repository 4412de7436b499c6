//! Which files name something of a crate that is not ours, such as `http::StatusCode`.
//!
//! Comes in: the code and a name. Goes out: the places where a path means something of that name in any foreign crate,
//! however it got there: by `use`, `*`, a rename, or a re-export. Values of that type that nobody names
//! (`response.status() == 404`) are not seen.

use crate::code::Code;
use crate::resolve::{Meaning, Resolver};
use std::collections::{BTreeMap, BTreeSet};

/// The files that name it, with lines.
pub fn files_that_name(code: &Code, name: &str) -> BTreeMap<String, BTreeSet<usize>> {
    let resolver = Resolver::new(code);
    let mut files: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (index, module) in code.modules.iter().enumerate() {
        let written = module.references.iter().map(|reference| (&reference.path, reference.global, reference.line));
        let imported = module.imports.iter().map(|(leaf, _)| (&leaf.path, leaf.global, leaf.line));
        for (path, global, line) in written.chain(imported) {
            let is_it = |meaning: &Meaning| match meaning {
                // The first segment is the crate; a lone word is a variable or of the language.
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
    fn a_name_is_found_however_it_is_reached() {
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
    fn other_things_of_that_name_are_not_it() {
        check("struct StatusCode; fn f() -> StatusCode { StatusCode }", &[]);
        check("// StatusCode\nfn f() { \"http::StatusCode\"; }", &[]);
        check("use b::Mine; fn f(mine: Mine) { mine.StatusCode; }", &[]);
    }
}
