//! Finds paths among tokens that cannot be parsed: arguments and bodies of macros, and attributes.
//!
//! Input: a token stream. Output: each path `a::b::c` and each single word that may name an item, with its line. A word
//! after `.` is a field or a method, and a word before a single `:` is a field. Neither is a path.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A path as it is written in the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPath {
    /// Its segments; `$crate` becomes `crate`.
    pub path: Vec<String>,
    /// Its first line.
    pub line: usize,
}

/// Whether string literals can be paths, as in `#[serde(default = "limits::fallback")]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Texts {
    /// They are not paths.
    Ignored,
    /// They may be paths.
    ArePaths,
}

/// Adds all paths in the tokens to `found`.
pub fn paths(tokens: TokenStream, texts: Texts, found: &mut Vec<TokenPath>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token {
            TokenTree::Group(group) => paths(group.stream(), texts, found),
            TokenTree::Literal(literal) if texts == Texts::ArePaths => text(literal, found),
            TokenTree::Ident(_) if word(&tokens, at) => {
                let start = at;
                let (path, end) = path(&tokens, at);
                at = end;
                if let [only] = path.as_slice() {
                    let is_field = punct(&tokens, at, ':') && !punct(&tokens, at + 1, ':');
                    if is_field || only == "crate" {
                        continue;
                    }
                }
                found.push(TokenPath { path, line: tokens.get(start).map_or(0, |token| token.span().start().line) });
                continue;
            }
            _ => {}
        }
        at += 1;
    }
}

/// Returns whether a path may begin at this word.
fn word(tokens: &[TokenTree], at: usize) -> bool {
    let before = |back: usize, sign: char| at >= back && punct(tokens, at - back, sign);
    let is_crate = matches!(tokens.get(at), Some(TokenTree::Ident(ident)) if ident == "crate");
    // No path begins at the name in `.name`, `$name`, `$x:name`, `'name` or `Vec::<T>::name`; one does in `..name` and
    // `$crate`.
    let is_member = before(1, '.') && !before(2, '.');
    let is_variable = before(1, '$') && !is_crate;
    let is_kind = before(1, ':') && before(3, '$');
    let follows_generics = before(1, ':') && before(2, ':');
    !(is_member || is_variable || is_kind || before(1, '\'') || (follows_generics && before(3, '>')))
}

fn path(tokens: &[TokenTree], start: usize) -> (Vec<String>, usize) {
    let mut path = Vec::new();
    let mut at = start;
    while let Some(TokenTree::Ident(ident)) = tokens.get(at) {
        path.push(ident.to_string());
        at += 1;
        if punct(tokens, at, ':') && punct(tokens, at + 1, ':') {
            // `a::{b, c}`
            if let Some(TokenTree::Group(group)) = tokens.get(at + 2)
                && group.delimiter() == Delimiter::Brace
            {
                break;
            }
            if !matches!(tokens.get(at + 2), Some(TokenTree::Ident(_))) {
                break;
            }
            at += 2;
        } else {
            break;
        }
    }
    (path, at)
}

fn punct(tokens: &[TokenTree], at: usize, sign: char) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == sign)
}

fn text(literal: &proc_macro2::Literal, found: &mut Vec<TokenPath>) {
    let line = literal.span().start().line;
    let written = literal.to_string();
    let Some(inner) = written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return };
    let Ok(path) = syn::parse_str::<syn::Path>(inner) else { return };
    let path = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
    found.push(TokenPath { path, line });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, texts: Texts, expected: &[&str]) {
        let mut found = Vec::new();
        paths(source.parse().unwrap(), texts, &mut found);
        let found: Vec<String> = found.into_iter().map(|written| written.path.join("::")).collect();
        assert_eq!(found, expected, "{source}");
    }

    #[test]
    fn paths_and_words_are_found_in_what_a_macro_is_given() {
        check("\"{}\", crate::a::B, c(D::new())", Texts::Ignored, &["crate::a::B", "c", "D::new"]);
        check("x = y.z() => { ..w }", Texts::Ignored, &["x", "y", "w"]);
        check("name: Kind, other: 1", Texts::Ignored, &["Kind"]);
        check("Vec::<crate::a::B>::new()", Texts::Ignored, &["Vec", "crate::a::B"]);
    }

    #[test]
    fn the_variables_of_a_macro_are_not_paths() {
        check("($name:ident) => { $crate::a::b($name) }", Texts::Ignored, &["crate::a::b"]);
    }

    #[test]
    fn texts_are_paths_in_attributes_only() {
        check("default = \"crate::a::b\"", Texts::ArePaths, &["default", "crate::a::b"]);
        check("default = \"crate::a::b\"", Texts::Ignored, &["default"]);
        check("\"no path at all\"", Texts::ArePaths, &[]);
    }
}
