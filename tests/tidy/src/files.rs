//! Checks that a file has a header, is not too long, and has no debt markers.
//!
//! Input: the text of a file, and its syntax. Output: one message for each violation.
//! Items that only exist in tests do not count towards the length.

use crate::cfg::only_in_tests;
use crate::references::attributes;
use std::collections::BTreeSet;
use syn::spanned::Spanned;
use syn::visit::Visit;

/// The most lines that a file may have without its tests.
pub const LINES_MAX: usize = 500;

/// Words in comments that mark unfinished work. They are joined from parts so that this file does not contain them.
const NOTES: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
/// Macros that mark unfinished work.
const MACROS: [&str; 3] = ["todo", "unimplemented", "dbg"];

/// Returns a message for each violation in a file.
pub fn violations(text: &str, file: &syn::File) -> Vec<String> {
    let mut wrong = Vec::new();
    if !text.starts_with("//!") {
        wrong.push("does not begin with a header (//!)".to_owned());
    }
    let lines = own_lines(text, file);
    if lines > LINES_MAX {
        wrong.push(format!("has {lines} lines without its tests; the most is {LINES_MAX}"));
    }
    let noted = text.lines().enumerate().flat_map(|(at, line)| {
        NOTES.into_iter().filter(move |note| has_word(line, note)).map(move |note| format!("line {}: {note}", at + 1))
    });
    wrong.extend(noted);
    let mut debt = Debt::default();
    debt.visit_file(file);
    wrong.extend(debt.0.into_iter().map(|(line, name)| format!("line {line}: {name}!")));
    wrong
}

fn has_word(line: &str, word: &str) -> bool {
    let is_edge = |part: Option<char>| !part.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|part| part.chars().next_back());
        is_edge(before) && is_edge(line.get(at + word.len()..).and_then(|part| part.chars().next()))
    })
}

/// Returns the number of lines of a file without the items that only exist in tests.
pub fn own_lines(text: &str, file: &syn::File) -> usize {
    let mut left_out = BTreeSet::new();
    for item in file.items.iter().filter(|item| only_in_tests(attributes(item))) {
        left_out.extend(item.span().start().line..=item.span().end().line);
    }
    text.lines().count() - left_out.len()
}

/// The calls of [`MACROS`] in a file: line and name.
#[derive(Default)]
struct Debt(BTreeSet<(usize, String)>);

impl<'ast> Visit<'ast> for Debt {
    fn visit_macro(&mut self, node: &'ast syn::Macro) {
        let last = node.path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default();
        if MACROS.contains(&last.as_str()) {
            self.0.insert((node.span().start().line, last));
        }
        self.tokens(node.tokens.clone());
    }
}

impl Debt {
    /// Finds calls among a macro's tokens: a name, then `!`.
    fn tokens(&mut self, tokens: proc_macro2::TokenStream) {
        use proc_macro2::TokenTree::{Group, Ident, Punct};
        let mut name = None;
        for token in tokens {
            match &token {
                Group(group) => self.tokens(group.stream()),
                Punct(sign) if sign.as_char() == '!' => self.0.extend(name.take()),
                _ => {}
            }
            name = match &token {
                Ident(word) if MACROS.iter().any(|known| word == known) => {
                    Some((word.span().start().line, word.to_string()))
                }
                _ => None,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        assert_eq!(violations(text, &syn::parse_file(text).unwrap()), expected);
    }

    #[test]
    fn a_file_begins_with_a_header() {
        check("//! What it is.\nfn f() {}", &[]);
        check("// What it is.\nfn f() {}", &["does not begin with a header (//!)"]);
    }

    #[test]
    fn a_file_is_not_long_but_its_tests_may_be() {
        let code = format!("//! Long.\n{}", "const _: u8 = 1;\n".repeat(499));
        check(&code, &[]);
        check(&format!("{code}#[cfg(test)]\nmod tests {{\n{}}}\n", "const _: u8 = 1;\n".repeat(499)), &[]);
        check(
            &format!("{code}#[cfg(test)]\nmod tests {{\n}}\nfn f() {{}}\n"),
            &["has 501 lines without its tests; the most is 500"],
        );
    }

    #[test]
    fn debt_markers_are_found_in_comments_and_code() {
        let note = NOTES.first().unwrap();
        check(&format!("//! File.\nfn f() {{}} // {note}: later"), &[&format!("line 2: {note}")]);
        check(&format!("//! File.\n// {note}S are words"), &[]);
        check("//! File.\nfn f() { todo!() }", &["line 2: todo!"]);
        check(
            "//! File.\nfn f() {\n    g!(dbg!(1), std::unimplemented!());\n}",
            &["line 3: dbg!", "line 3: unimplemented!"],
        );
        check("//! todo!()\nfn f() { \"todo!()\"; }", &[]);
    }
}
