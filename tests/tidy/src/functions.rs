//! Finds the functions of a file: which are tests, and how long each is.
//!
//! Input: a parsed file. Output: its functions, including those in `impl`s, traits, modules and other functions. Tests
//! inside a macro (`proptest! { #[test] fn … }`) are found among its tokens, without their length.

use crate::cfg::only_in_tests;
use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, Signature};

/// A function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Whether it is a test itself.
    pub is_test: bool,
    /// Whether it only exists in tests.
    pub for_tests: bool,
    /// The line of its `fn`.
    pub line: usize,
    /// The lines from its `fn` to its closing brace; 0 inside a macro.
    pub lines: usize,
}

/// Returns all functions of a file.
pub fn functions(file: &syn::File) -> Vec<Function> {
    let mut finder = Finder { found: Vec::new(), for_tests: 0 };
    finder.visit_file(file);
    finder.found
}

struct Finder {
    found: Vec<Function>,
    /// How many of the enclosing items only exist in tests.
    for_tests: usize,
}

impl Finder {
    fn add(&mut self, attributes: &[Attribute], signature: &Signature, block: &Block) {
        let line = signature.span().start().line;
        self.found.push(Function {
            name: signature.ident.to_string(),
            is_test: attributes.iter().any(is_test),
            for_tests: self.for_tests > 0,
            line,
            lines: block.span().end().line + 1 - line,
        });
    }

    fn around(&mut self, attributes: &[Attribute], visit: impl FnOnce(&mut Self)) {
        let more = usize::from(only_in_tests(attributes));
        self.for_tests += more;
        visit(self);
        self.for_tests -= more;
    }
}

/// Returns whether this is `#[test]`, `#[tokio::test]` or the like.
fn is_test(attribute: &Attribute) -> bool {
    attribute.path().segments.last().is_some_and(|last| last.ident == "test")
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item_mod(&mut self, node: &'ast syn::ItemMod) {
        self.around(&node.attrs, |finder| visit::visit_item_mod(finder, node));
    }

    fn visit_item_impl(&mut self, node: &'ast syn::ItemImpl) {
        self.around(&node.attrs, |finder| visit::visit_item_impl(finder, node));
    }

    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        self.around(&node.attrs, |finder| {
            finder.add(&node.attrs, &node.sig, &node.block);
            visit::visit_item_fn(finder, node);
        });
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        self.around(&node.attrs, |finder| {
            finder.add(&node.attrs, &node.sig, &node.block);
            visit::visit_impl_item_fn(finder, node);
        });
    }

    fn visit_trait_item_fn(&mut self, node: &'ast syn::TraitItemFn) {
        self.around(&node.attrs, |finder| {
            if let Some(block) = &node.default {
                finder.add(&node.attrs, &node.sig, block);
            }
            visit::visit_trait_item_fn(finder, node);
        });
    }

    fn visit_macro(&mut self, node: &'ast syn::Macro) {
        tests_in(node.tokens.clone(), &mut self.found);
    }
}

/// Finds tests among tokens: `#[test]`, perhaps other attributes, then `fn` and a name.
fn tests_in(tokens: TokenStream, found: &mut Vec<Function>) {
    let mut marked = false;
    let mut after_fn = false;
    let mut after_hash = false;
    for token in tokens {
        match &token {
            TokenTree::Group(group) if after_hash => {
                let last = group.stream().into_iter().last();
                marked |= matches!(last, Some(TokenTree::Ident(last)) if last == "test");
            }
            TokenTree::Group(group) => tests_in(group.stream(), found),
            TokenTree::Ident(name) if after_fn => {
                if marked {
                    let line = name.span().start().line;
                    found.push(Function { name: name.to_string(), is_test: true, for_tests: true, line, lines: 0 });
                }
                marked = false;
            }
            _ => {}
        }
        after_fn = matches!(&token, TokenTree::Ident(word) if word == "fn");
        after_hash = matches!(&token, TokenTree::Punct(sign) if sign.as_char() == '#');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<Function> {
        functions(&syn::parse_file(text).unwrap())
    }

    #[track_caller]
    fn check_tests(text: &str, expected: &[&str]) {
        let tests: Vec<String> = of(text).into_iter().filter(|f| f.is_test).map(|f| f.name).collect();
        assert_eq!(tests, expected, "{text}");
    }

    #[test]
    fn a_test_is_a_function_with_the_attribute_not_a_text_that_looks_like_one() {
        check_tests("#[test] fn a() {} fn b() {} // #[test] fn c() {}", &["a"]);
        check_tests("mod tests { #[tokio::test(start_paused = true)] async fn a() {} }", &["a"]);
        check_tests("const TEXT: &str = \"#[test] fn a() {}\";", &[]);
        check_tests("/// #[test] fn a() {}\nstruct S;", &[]);
    }

    #[test]
    fn tests_in_macros_are_found() {
        check_tests(
            "proptest! { #![config(x)] #[test] #[ignore] fn a(x in 0..9) {} fn b() {} #[test] fn c() {} }",
            &["a", "c"],
        );
    }

    #[test]
    fn a_function_is_measured_from_its_fn_to_its_closing_brace() {
        let found = of("/// Words.\n#[inline]\npub fn a(\n    b: u8,\n) {\n    c();\n}\n\nimpl D { fn e() {} }");
        let lines: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
        assert_eq!(lines, [("a", 3, 5), ("e", 9, 1)]);
    }

    #[test]
    fn functions_that_only_exist_in_tests_are_marked() {
        let found = of("#[cfg(test)] mod tests { fn a() {} } fn b() {}");
        assert_eq!(found.iter().map(|f| f.for_tests).collect::<Vec<_>>(), [true, false]);
    }
}
