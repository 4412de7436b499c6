//! Bounds the time that naga will need to parse a source, before naga sees it. The time of its front end grows with the
//! square of the size of a function. The slowest form that we found, short `if` statements one after the other, takes
//! 0.17 ns times the square of its number of tokens: 95 ms at the limit, and 2.7 s for a source as long as may be.
//!
//! Counts tokens (words, numbers and operators) for each function, without parsing. All code outside of functions
//! counts as one function. Invariant: takes time linear in the length of the source, and never panics.

use super::directives::is_line_break;
use crate::error::Error;

/// Limit of tokens in a source with a single function: about 5,000 statements. With several functions, the sum of
/// the squares of their token counts is limited by the square of this.
pub const TOKENS_MAX: u64 = 24_000;

/// Refuses a source that would take too long to parse.
pub(super) fn check(wgsl: &str) -> Result<(), Error> {
    let count = count(wgsl);
    if count.squares <= TOKENS_MAX * TOKENS_MAX {
        return Ok(());
    }
    let (what, advice) = match count.longest_line {
        Some(_) => ("the function here has", "use more and shorter functions"),
        None => ("the declarations outside of functions have", "pass long tables in a buffer"),
    };
    Err(Error::KernelRejected(format!(
        "{}:1: {what} {} tokens, and the source has {}; the squares of all functions' token counts, and of that of all \
         other declarations together, may add up to the square of {TOKENS_MAX} at most: {advice}",
        count.longest_line.unwrap_or(1),
        count.longest,
        count.all
    )))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    all: u64,
    squares: u64,
    longest: u64,
    /// The line of that function. None if it is the code outside of functions.
    longest_line: Option<u64>,
}

impl Count {
    /// Adds a function of this many tokens that begins at `line`, or with None the code outside of functions.
    fn add(&mut self, tokens: u64, line: Option<u64>) {
        self.squares = self.squares.saturating_add(tokens.saturating_mul(tokens));
        if tokens > self.longest {
            (self.longest, self.longest_line) = (tokens, line);
        }
    }
}

fn count(wgsl: &str) -> Count {
    let mut count = Count::default();
    let (mut outside, mut inside, mut depth) = (0u64, 0u64, 0u64);
    let (mut line, mut began) = (1, 1);
    let mut word = Word::None;
    let mut chars = wgsl.chars().peekable();
    while let Some(c) = chars.next() {
        let before = word;
        word = before.then(c);
        let mut token = word.begins_after(before);
        match (c, chars.peek()) {
            ('\n', _) => line += 1,
            ('/', Some('/')) => {
                // Skips to the end of the line; the loop above counts the line break next.
                while chars.next_if(|next| !is_line_break(*next)).is_some() {}
            }
            ('/', Some('*')) => line += skip_comment(&mut chars),
            ('{', _) => {
                if depth == 0 {
                    began = line;
                }
                depth += 1;
            }
            ('}', _) => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    count.add(std::mem::take(&mut inside), Some(began));
                }
            }
            ('+' | '-' | '*' | '/' | '%' | '&' | '|' | '^' | '!' | '~' | '<' | '>' | '=', _) => token = true,
            _ => {}
        }
        if token {
            count.all += 1;
            *(if depth == 0 { &mut outside } else { &mut inside }) += 1;
        }
    }
    count.add(inside, Some(began));
    count.add(outside, None);
    count
}

/// The word that the latest character belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    None,
    Number,
    Name,
    /// The first member after a name: with it, one token.
    Member,
    /// Further members: a token each, because a chain of them can be long. The flag alternates from one to the next.
    Further(bool),
}

impl Word {
    /// Returns the word of the next character.
    fn then(self, c: char) -> Self {
        let is_part = (c.is_alphanumeric() || c == '_') && !is_line_break(c);
        match (self, c) {
            (Self::Number, '.') => Self::Number,
            (Self::Name, '.') => Self::Member,
            (Self::Member, '.') => Self::Further(true),
            (Self::Further(odd), '.') => Self::Further(!odd),
            // After a bracket, as in `a[i].b`.
            (Self::None, '.') => Self::Name,
            (Self::None, _) if is_part && c.is_ascii_digit() => Self::Number,
            (Self::None, _) if is_part => Self::Name,
            (word, _) if is_part => word,
            _ => Self::None,
        }
    }

    /// Whether the character with this word begins a token, after a character with the word `before`.
    fn begins_after(self, before: Self) -> bool {
        self != Self::None && self != before && !(self == Self::Member && before == Self::Name)
    }
}

/// Skips a block comment, which may contain others. Returns its number of line breaks.
fn skip_comment(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> u64 {
    let (mut depth, mut lines) = (0u64, 0);
    let mut before = '/';
    for c in chars.by_ref() {
        match (before, c) {
            ('/', '*') => {
                depth += 1;
                before = ' ';
                continue;
            }
            ('*', '/') => {
                depth -= 1;
                before = ' ';
                if depth == 0 {
                    return lines;
                }
                continue;
            }
            (_, '\n') => lines += 1,
            _ => {}
        }
        before = c;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_counted_by_function_and_comments_are_not() {
        let source = "const a = 1u; // b c d\nfn f() { x = y + 1.5e3; }\n/* fn /* { nested } */ { */\nfn g() {\n  if !z { w; } }";
        let count = count(source);
        // x = y + 1.5e3 · if ! z w · const a = 1u fn f fn g
        assert_eq!((count.all, count.squares), (5 + 4 + 8, 25 + 16 + 64));
        assert_eq!((count.longest, count.longest_line), (8, None));
        let tokens = |source: &str| super::count(source).all;
        assert_eq!([tokens("a.b"), tokens("a1.b.c.d"), tokens("1.5.x"), tokens("a[1].b")], [1, 3, 1, 3]);
        assert_eq!([tokens("// a b\rc d"), tokens("// a b\u{2028}c"), tokens("a\u{85}b\u{200e}c")], [2, 1, 3]);
    }

    #[test]
    fn what_would_take_long_to_read_is_refused_with_its_line() {
        let long = |statements: usize| format!("fn f() {{\n{}}}", "a[i] += 1u;\n".repeat(statements));
        assert!(check(&long(4790)).is_ok());
        let refused = check(&format!("\n\n{}", long(5000))).map_err(|error| error.to_string());
        assert!(
            refused.as_ref().is_err_and(|text| text.contains("3:1: the function here has 25000 tokens")),
            "{refused:?}"
        );
        assert!(check(&long(190).repeat(400)).is_ok(), "as much in shorter functions is read quickly");
        assert!(check(&long(900).repeat(30)).is_err());
        let table = |rows: usize| format!("const t = array<u32, 9>({});", "1, 2, 3, 4,\n".repeat(rows));
        assert!(check(&table(4096)).is_ok());
        let refused = check(&table(7000)).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|text| text.contains("declarations outside of functions have 28008 tokens")));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_counted(text in ".{0,300}") {
            let counted = count(&text);
            proptest::prop_assert!(counted.all <= text.len() as u64);
        }
    }
}
