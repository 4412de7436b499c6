//! Reads the directives at the head of a source, before naga does. naga knows the subgroup operations but not yet
//! `enable subgroups;`, so the word is blanked for it.
//!
//! Invariant: takes time linear in the length of the source and never panics. Blanking keeps every line and column.

/// What the directives of a source enable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directives {
    /// Whether it has `enable f16;`.
    pub f16: bool,
    /// Whether it has `enable subgroups;`.
    pub subgroups: bool,
    /// Byte ranges that naga must not see.
    blanks: Vec<std::ops::Range<usize>>,
}

impl Directives {
    /// Reads the directives. Text that is no directive ends them, and naga says what is wrong with it.
    pub fn of(wgsl: &str) -> Self {
        let mut found = Self::default();
        let mut rest = Words { text: wgsl, at: 0 };
        while let Some(word) = rest.next() {
            let begin = rest.at - word.len();
            match word {
                "enable" => {}
                "requires" | "diagnostic" => {
                    if !rest.by_ref().any(|word| word == ";") {
                        return found;
                    }
                    continue;
                }
                _ => return found,
            }
            let mut names = Vec::new();
            let ended = loop {
                match rest.next() {
                    Some(",") => {}
                    Some(";") => break true,
                    Some(name) if name.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                        names.push((name, rest.at - name.len()));
                    }
                    // Not a list of names, so naga will refuse it.
                    _ => break false,
                }
            };
            if ended {
                found.enable(begin, rest.at, &names);
            }
        }
        found
    }

    /// Notes an `enable` directive at these bytes with these names, each with its place.
    fn enable(&mut self, begin: usize, end: usize, names: &[(&str, usize)]) {
        self.f16 |= names.iter().any(|(name, _)| *name == "f16");
        if !names.iter().any(|(name, _)| *name == "subgroups") {
            return;
        }
        self.subgroups = true;
        // From one name that stays to the next, without what is between them; or all of it, if none stays.
        let Some((_, first)) = names.iter().find(|(name, _)| *name != "subgroups") else {
            self.blanks.push(begin..end);
            return;
        };
        self.blanks.push(begin + "enable".len()..*first);
        let mut last = "";
        // Between two names that stay, one byte is left for the comma, unless nothing between them must go.
        let mut stays_before: Option<(usize, bool)> = None;
        for (name, at) in names {
            let stays = *name != "subgroups";
            if stays {
                if let Some((after, false)) = stays_before {
                    self.blanks.push(after + 1..*at);
                }
                last = name;
                stays_before = Some((at + name.len(), true));
            } else if let Some((_, is_adjacent)) = &mut stays_before {
                *is_adjacent = false;
            }
        }
        if let Some((after, _)) = stays_before.filter(|_| !last.is_empty()) {
            self.blanks.push(after..end - 1);
        }
    }

    /// Returns the source as naga may read it.
    pub(super) fn blanked(&self, wgsl: &str) -> String {
        let mut bytes = wgsl.as_bytes().to_vec();
        for range in &self.blanks {
            let blank = bytes.get_mut(range.clone()).into_iter().flatten().filter(|byte| **byte != b'\n');
            blank.for_each(|byte| *byte = b' ');
        }
        String::from_utf8(bytes).unwrap_or_else(|_| wgsl.to_owned())
    }
}

/// Whether a character ends a line, and so a comment, in WGSL.
pub(super) fn is_line_break(c: char) -> bool {
    matches!(c, '\n' | '\u{b}' | '\u{c}' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// The words and other single characters of a text, without spaces and comments.
struct Words<'a> {
    text: &'a str,
    /// The end of the latest word, in bytes.
    at: usize,
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            let rest = self.text.get(self.at..)?;
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if trimmed.starts_with("//") {
                self.at += trimmed.find(is_line_break).unwrap_or(trimmed.len());
            } else if trimmed.starts_with("/*") {
                self.at += comment(trimmed);
            } else {
                let word = trimmed.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(trimmed.len());
                let size = if word > 0 { word } else { trimmed.chars().next()?.len_utf8() };
                self.at += size;
                return trimmed.get(..size);
            }
        }
    }
}

/// Returns the length of the block comment with which a text begins. Comments may contain others.
fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(pair) = text.as_bytes().get(at..at + 2) {
        match pair {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" if depth == 1 => return at + 2,
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(wgsl: &str) -> (bool, bool, String) {
        let found = Directives::of(wgsl);
        (found.f16, found.subgroups, found.blanked(wgsl))
    }

    #[test]
    fn subgroups_are_enabled_in_any_list_and_blanked_for_naga() {
        for (wgsl, f16, subgroups, left) in [
            ("enable f16;", true, false, "enable f16;"),
            ("enable subgroups;", false, true, ""),
            ("enable f16, subgroups;", true, true, "enable f16;"),
            ("enable subgroups,f16;", true, true, "enable f16;"),
            ("enable a, subgroups, f16;", true, true, "enable a,f16;"),
            ("enable subgroups, subgroups , f16 , ;", true, true, "enable f16;"),
            ("// x\n/* /* y */ */enable\nsubgroups\n;enable f16;", true, true, "// x\n/* /* y */ */\n\nenable f16;"),
            (
                "requires foo;\ndiagnostic(off, a.b);\nenable subgroups;",
                false,
                true,
                "requires foo;\ndiagnostic(off, a.b);\n",
            ),
            ("const a = 1; enable subgroups;", false, false, "const a = 1; enable subgroups;"),
            ("enable subgroups", false, false, "enable subgroups"),
            ("// a\renable subgroups;", false, true, "// a\r"),
            ("enable subgroups[;", false, false, "enable subgroups[;"),
            ("requires enable subgroups", false, false, "requires enable subgroups"),
        ] {
            let (is_f16, is_subgroups, blanked) = read(wgsl);
            assert_eq!((is_f16, is_subgroups), (f16, subgroups), "{wgsl}");
            let without_spaces = |text: &str| text.replace(' ', "");
            assert_eq!(without_spaces(&blanked), without_spaces(left), "{wgsl}");
            assert_eq!(blanked.len(), wgsl.len(), "{wgsl}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_keeps_its_lines_and_columns(text in "(enable |subgroups|f16|[,; \n/*a§]){0,40}") {
            let blanked = Directives::of(&text).blanked(&text);
            proptest::prop_assert_eq!(blanked.len(), text.len());
            let lines = |text: &str| text.bytes().enumerate().filter(|(_, b)| *b == b'\n').collect::<Vec<_>>();
            proptest::prop_assert_eq!(lines(&blanked), lines(&text));
        }
    }
}
