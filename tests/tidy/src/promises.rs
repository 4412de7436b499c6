//! Checks that every promise of the specification names tests, and that all of them exist.
//!
//! Input: the text of `SPECIFICATION.md`, the names of all tests, and which files exist. Output: one message for each
//! violation.
//!
//! A promise is a bullet `- **S1** …`. It reaches to the next bullet, heading or empty line. It ends with the list of
//! its tests: a colon, names in backticks separated by commas, and a full stop.
//!
//! ```text
//! - **S47** A process that hangs is killed, and `kernels_hung` counts it: `a_hanging_process_is_killed`,
//!   `tests/clients/hang.sh`.
//! ```
//!
//! A name in the list that contains a `/` is a file. Every other name in the list is a test. Words in backticks before
//! the list are part of the text and are not checked.

use std::collections::{BTreeMap, BTreeSet};

/// A promise.
#[derive(Debug, PartialEq, Eq)]
pub struct Promise {
    /// Its number, such as `S1`.
    pub id: String,
    /// Its first line.
    pub line: usize,
    /// Its list of tests; None if its text does not end with one.
    pub tests: Option<Vec<String>>,
}

/// Returns the promises of a specification.
pub fn promises(text: &str) -> Vec<Promise> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (number, line) in text.lines().enumerate() {
        let starts = line.starts_with("- **S");
        if starts {
            found.push((number + 1, String::new()));
        }
        let ends = line.trim().is_empty() || line.starts_with('#') || line.trim_start().starts_with("- ");
        open = starts || (open && !ends);
        if let Some((_, text)) = found.last_mut().filter(|_| open) {
            text.push_str(line.trim());
            text.push(' ');
        }
    }
    let promise = |(line, text): (usize, String)| {
        let id = text.split("**").nth(1).unwrap_or("").to_owned();
        Promise { id, line, tests: list(text.trim()) }
    };
    found.into_iter().map(promise).collect()
}

/// Returns the list at the end of a promise's text.
fn list(text: &str) -> Option<Vec<String>> {
    let (_, list) = text.strip_suffix('.')?.rsplit_once(": `")?;
    let names = list.strip_suffix('`')?.split("`, `").map(str::to_owned).collect::<Vec<_>>();
    let is_name = |name: &String| !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '`');
    names.iter().all(is_name).then_some(names)
}

/// Returns a message for each promise without a list, each test or file that does not exist, and each number used
/// twice.
pub fn violations(text: &str, tests: &BTreeSet<String>, is_file: impl Fn(&str) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen = BTreeMap::new();
    for Promise { id, line, tests: named } in promises(text) {
        if let Some(first) = seen.insert(id.clone(), line) {
            wrong.push(format!("line {line}: {id} is also the number of the promise on line {first}"));
        }
        let Some(named) = named else {
            wrong.push(format!("line {line}: {id} does not end with a list of tests (`: `a`, `b`.`)"));
            continue;
        };
        for name in named {
            if name.contains('/') && !is_file(&name) {
                wrong.push(format!("line {line}: {id} names {name}, and there is no such file"));
            } else if !name.contains('/') && !tests.contains(&name) {
                wrong.push(format!("line {line}: {id} names {name}, and there is no such test"));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let tests = ["it_works", "it_works_twice"].map(str::to_owned).into();
        assert_eq!(violations(text, &tests, |path| path == "tests/run.sh"), expected, "{text}");
    }

    #[test]
    fn a_promise_whose_tests_and_files_exist_is_held() {
        check("# Promises\n\n- **S1** It works: `it_works`.\n- **S2** So: `it_works_twice`, `tests/run.sh`.\n", &[]);
        check(
            "- **S1** It: works,\n  at `limits.x` and\n  `kernels_hung`: `it_works`,\n  `it_works_twice`.\n\nMore.",
            &[],
        );
    }

    #[test]
    fn every_name_of_the_list_must_exist() {
        check(
            "- **S1** It works: `it_works`, `it_fails`, `tests/gone.sh`.",
            &[
                "line 1: S1 names it_fails, and there is no such test",
                "line 1: S1 names tests/gone.sh, and there is no such file",
            ],
        );
        check(
            "- **S1** It works:\n  `it_works`,\n  `it_fails`.",
            &["line 1: S1 names it_fails, and there is no such test"],
        );
    }

    #[test]
    fn a_promise_without_a_list_is_not_held() {
        let told = ["line 1: S1 does not end with a list of tests (`: `a`, `b`.`)"];
        check("- **S1** It works.", &told);
        check("- **S1** It works, says `it_works`.", &told);
        check("- **S1** It works: `it_works`, on Mondays.", &told);
        check("- **S1** It works: `it_works` and `it_works_twice`.", &told);
        check("- **S1** It works: `it_works`\n- **S2** More: `it_works`.", &told);
    }

    #[test]
    fn two_promises_do_not_share_a_number() {
        check(
            "- **S1** A: `it_works`.\n- **S1** B: `it_works`.",
            &["line 2: S1 is also the number of the promise on line 1"],
        );
    }
}
