//! Finds the public items of a library and whether their docs have an example.
//!
//! Input: a parsed file. Output: its public functions, methods, types, traits and exported macros, each with whether
//! its docs contain a block of code. Items with `#[doc(hidden)]` are left out, with everything inside them.

use crate::cfg::only_in_tests;
use crate::references::attributes;
use syn::spanned::Spanned;
use syn::{Attribute, Item, Visibility};

/// A public item.
#[derive(Debug, PartialEq, Eq)]
pub struct Offered {
    /// Its name.
    pub name: String,
    /// Its line.
    pub line: usize,
    /// Whether it has an example.
    pub has_example: bool,
}

/// Returns the public items of a file.
pub fn offered(file: &syn::File) -> Vec<Offered> {
    let mut found = Vec::new();
    items(&file.items, &mut found);
    found
}

fn items(all: &[Item], found: &mut Vec<Offered>) {
    for item in all.iter().filter(|item| !is_hidden(attributes(item)) && !only_in_tests(attributes(item))) {
        match item {
            Item::Fn(item) => add(&item.vis, &item.attrs, &item.sig.ident, found),
            Item::Struct(item) => add(&item.vis, &item.attrs, &item.ident, found),
            Item::Enum(item) => add(&item.vis, &item.attrs, &item.ident, found),
            Item::Trait(item) => add(&item.vis, &item.attrs, &item.ident, found),
            Item::Type(item) => add(&item.vis, &item.attrs, &item.ident, found),
            Item::Macro(item) => {
                let exported = item.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export"));
                if let Some(name) = item.ident.as_ref().filter(|_| exported) {
                    add(&Visibility::Public(syn::Token![pub](item.span())), &item.attrs, name, found);
                }
            }
            Item::Mod(item) => {
                if let Some((_, inner)) = &item.content {
                    items(inner, found);
                }
            }
            Item::Impl(item) if item.trait_.is_none() => {
                for method in &item.items {
                    if let syn::ImplItem::Fn(method) = method
                        && !is_hidden(&method.attrs)
                    {
                        add(&method.vis, &method.attrs, &method.sig.ident, found);
                    }
                }
            }
            _ => {}
        }
    }
}

fn add(visibility: &Visibility, attributes: &[Attribute], name: &syn::Ident, found: &mut Vec<Offered>) {
    if matches!(visibility, Visibility::Public(_)) {
        let has_example = attributes.iter().any(|attribute| doc(attribute).is_some_and(|text| text.contains("```")));
        found.push(Offered { name: name.to_string(), line: name.span().start().line, has_example });
    }
}

fn doc(attribute: &Attribute) -> Option<String> {
    match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

fn is_hidden(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("doc")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|argument| argument == "hidden")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, bool)]) {
        let found = offered(&syn::parse_file(text).unwrap());
        let found: Vec<_> = found.iter().map(|item| (item.name.as_str(), item.has_example)).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn public_items_are_found_with_whether_they_have_an_example() {
        check(
            "/// Words.\n///\n/// ```\n/// f();\n/// ```\npub fn f() {}\n/// Words.\npub fn g() {}",
            &[("f", true), ("g", false)],
        );
        check(
            "pub struct A; impl A { pub const fn b() {} fn c() {} } impl D for A { fn d() {} }",
            &[("A", false), ("b", false)],
        );
        check("#[macro_export] macro_rules! m { () => {} } macro_rules! n { () => {} }", &[("m", false)]);
        check("pub mod inner { pub enum E {} }", &[("E", false)]);
    }

    #[test]
    fn items_that_are_hidden_private_or_for_tests_are_left_out() {
        check("#[doc(hidden)] pub fn f() {} #[doc(hidden)] pub mod m { pub fn g() {} }", &[]);
        check("fn f() {} pub(crate) struct S; #[cfg(test)] mod tests { pub fn h() {} }", &[]);
    }
}
