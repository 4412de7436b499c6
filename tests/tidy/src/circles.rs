//! No files import each other in a circle, but a parent and its children.
//!
//! Comes in: the arrows of a target, and each file's parent. Goes out: a message for each circle that must not be.
//!
//! A file's parent is the file with the `mod` that declares it, so `lib.rs` is that of `a.rs` and of `b/mod.rs`, and
//! `b/mod.rs` that of `b/c.rs`. An arrow lies on a circle when its two files are in one strongly connected component.
//! **Each arrow on a circle must join a parent and its child.** So two children of one parent may
//! not need each other, nor by way of their parent; nor may files of different folders, unless one is the parent
//! of the other.

use crate::arrows::Arrows;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// A message for each group of files that import each other and must not.
pub fn circles(arrows: &Arrows, parents: &BTreeMap<String, String>) -> Vec<String> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in arrows.keys() {
        next.entry(from).or_default().insert(to);
        next.entry(to).or_default();
    }
    let mut messages = Vec::new();
    for group in components(&next) {
        let inside =
            arrows.iter().filter(|((from, to), _)| group.contains(from.as_str()) && group.contains(to.as_str()));
        let inside: Vec<_> = inside.collect();
        let is_family = |from: &String, to: &String| parents.get(from) == Some(to) || parents.get(to) == Some(from);
        if inside.iter().all(|((from, to), _)| is_family(from, to)) {
            continue;
        }
        let mut message = format!("{} files need each other in a circle:\n", group.len());
        for ((from, to), names) in inside {
            let family = if is_family(from, to) { " (a parent and its child)" } else { "" };
            let _ = writeln!(message, "  {from} -> {to}{family}: {}", described(names));
        }
        messages.push(message);
    }
    messages
}

fn described(names: &BTreeMap<String, BTreeSet<usize>>) -> String {
    let names = names.iter().map(|(name, lines)| {
        let lines: Vec<String> = lines.iter().map(usize::to_string).collect();
        format!("{name} ({})", lines.join(", "))
    });
    names.collect::<Vec<_>>().join(", ")
}

/// The strongly connected components of more than one node, by Tarjan's algorithm.
fn components<'a>(next: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<BTreeSet<&'a str>> {
    let mut search = Search { next, index: BTreeMap::new(), stack: Vec::new(), found: Vec::new() };
    for node in next.keys() {
        if !search.index.contains_key(node) {
            search.visit(node);
        }
    }
    search.found
}

struct Search<'a, 'b> {
    next: &'b BTreeMap<&'a str, BTreeSet<&'a str>>,
    index: BTreeMap<&'a str, usize>,
    stack: Vec<&'a str>,
    found: Vec<BTreeSet<&'a str>>,
}

impl<'a> Search<'a, '_> {
    /// Returns the lowest index that can be reached. As deep as there are files.
    fn visit(&mut self, node: &'a str) -> usize {
        let own = self.index.len();
        let mut low = own;
        self.index.insert(node, own);
        self.stack.push(node);
        for other in self.next.get(node).into_iter().flatten().copied() {
            match self.index.get(other).copied() {
                None => low = low.min(self.visit(other)),
                Some(index) if self.stack.contains(&other) => low = low.min(index),
                Some(_) => {}
            }
        }
        if low == own {
            let start = self.stack.iter().rposition(|other| *other == node).unwrap_or(0);
            let group: BTreeSet<&str> = self.stack.split_off(start).into_iter().collect();
            if group.len() > 1 {
                self.found.push(group);
            }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made-up arrows, written `a>b`; each names `Thing` on line 7. Parents are written `child^parent`.
    #[track_caller]
    fn check(written: &[&str], expected: &[&str]) {
        let pairs = |sign: char| {
            let pairs = written.iter().filter_map(move |pair| pair.split_once(sign));
            pairs.map(|(from, to)| (from.to_owned(), to.to_owned()))
        };
        let names = BTreeMap::from([("Thing".to_owned(), BTreeSet::from([7]))]);
        let arrows = pairs('>').map(|pair| (pair, names.clone())).collect();
        assert_eq!(circles(&arrows, &pairs('^').collect()), expected);
    }

    #[test]
    fn files_that_need_each_other_are_told_with_names_and_lines() {
        check(
            &["a/x.rs>b/y.rs", "b/y.rs>b/z.rs", "b/z.rs>a/x.rs", "b/z.rs>c.rs"],
            &[
                "3 files need each other in a circle:\n  a/x.rs -> b/y.rs: Thing (7)\n  b/y.rs -> b/z.rs: Thing (7)\n  b/z.rs -> a/x.rs: Thing (7)\n",
            ],
        );
    }

    #[test]
    fn one_way_is_no_circle() {
        check(&["a.rs>b.rs", "a.rs>c.rs", "b.rs>c.rs"], &[]);
    }

    #[test]
    fn a_parent_and_its_children_may_need_each_other() {
        check(
            &[
                "a/x.rs>a/mod.rs",
                "a/mod.rs>a/x.rs",
                "a/y.rs>a/mod.rs",
                "a/mod.rs>a/y.rs",
                "a/x.rs^a/mod.rs",
                "a/y.rs^a/mod.rs",
            ],
            &[],
        );
    }

    #[test]
    fn children_may_not_need_each_other_by_way_of_their_parent() {
        check(
            &["a/x.rs>a/y.rs", "a/y.rs>a/mod.rs", "a/mod.rs>a/x.rs", "a/x.rs^a/mod.rs", "a/y.rs^a/mod.rs"],
            &[
                "3 files need each other in a circle:\n  a/mod.rs -> a/x.rs (a parent and its child): Thing (7)\n  a/x.rs -> a/y.rs: Thing (7)\n  a/y.rs -> a/mod.rs (a parent and its child): Thing (7)\n",
            ],
        );
    }

    #[test]
    fn a_grandchild_is_no_child() {
        check(
            &["a/b/c.rs>a/mod.rs", "a/mod.rs>a/b/c.rs", "a/b/c.rs^a/b/mod.rs", "a/b/mod.rs^a/mod.rs"],
            &[
                "2 files need each other in a circle:\n  a/b/c.rs -> a/mod.rs: Thing (7)\n  a/mod.rs -> a/b/c.rs: Thing (7)\n",
            ],
        );
    }

    #[test]
    fn circles_that_do_not_touch_are_told_apart() {
        let group = |a: &str, b: &str| {
            format!("2 files need each other in a circle:\n  {a} -> {b}: Thing (7)\n  {b} -> {a}: Thing (7)\n")
        };
        check(&["a>b", "b>a", "c>d", "d>c", "b>c"], &[&group("c", "d"), &group("a", "b")]);
    }
}
