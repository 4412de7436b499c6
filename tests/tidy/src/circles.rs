//! Checks that no files use each other in a circle, except a parent and its children.
//!
//! Input: the arrows of a target, and each file's parent. Output: one message for each forbidden circle.
//!
//! The parent of a file is the file that declares it with `mod`. `lib.rs` is the parent of `a.rs` and of `b/mod.rs`;
//! `b/mod.rs` (or `b.rs`) is the parent of `b/c.rs`, and `lib.rs` is not. An arrow is part of a circle if both its
//! files are in the same strongly connected component.
//!
//! **The rule: every arrow that is part of a circle joins a parent and its child.** It follows that
//! - a parent and its children may use each other;
//! - two children of one parent may not use each other in a circle, and not by way of their parent either: if `b/c.rs`
//!   uses `b/d.rs`, and both use `b/mod.rs`, which uses them, then what they use of `b/mod.rs` belongs in its own file;
//! - files of different folders may not use each other in a circle, unless one declares the other.

use crate::arrows::Arrows;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// A file, and one that it uses.
type Pair = (String, String);

/// Returns a message for each group of files that break the rule, with all arrows between them. It marks with `!` a
/// small set of arrows to remove. This is a suggestion: a good set is small, but the smallest is not always the best
/// design.
pub fn circles(arrows: &Arrows, parents: &BTreeMap<String, String>) -> Vec<String> {
    let mut messages = Vec::new();
    let all: Vec<&Pair> = arrows.keys().collect();
    for group in components(&graph(&all)) {
        let is_inside = |(from, to): &Pair| group.contains(from.as_str()) && group.contains(to.as_str());
        let inside: Vec<(&Pair, _)> = arrows.iter().filter(|(pair, _)| is_inside(pair)).collect();
        if inside.iter().all(|(pair, _)| is_family(pair, parents)) {
            continue;
        }
        let cut = cut(&inside, parents);
        let mut message = format!(
            "{} files use each other in a circle; removing the arrows marked ! would untie them:\n",
            group.len()
        );
        for (pair, names) in inside {
            let mark = if cut.contains(&pair) { '!' } else { ' ' };
            let family = if is_family(pair, parents) { " (a parent and its child)" } else { "" };
            let _ = writeln!(message, "{mark} {} -> {}{family}: {}", pair.0, pair.1, described(names));
        }
        messages.push(message);
    }
    messages
}

fn is_family((from, to): &Pair, parents: &BTreeMap<String, String>) -> bool {
    parents.get(from) == Some(to) || parents.get(to) == Some(from)
}

fn graph<'a>(arrows: &[&'a Pair]) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in arrows {
        next.entry(from).or_default().insert(to);
        next.entry(to).or_default();
    }
    next
}

/// Finds a small set of arrows whose removal satisfies the rule. It adds arrows one by one, those with the most names
/// first, and collects each that would close a forbidden circle. It tries this with and without the arrows between
/// parents and children in front, and takes the smaller set.
fn cut<'a>(
    inside: &[(&'a Pair, &BTreeMap<String, BTreeSet<usize>>)],
    parents: &BTreeMap<String, String>,
) -> Vec<&'a Pair> {
    let mut most_first = inside.to_vec();
    most_first.sort_by_key(|(_, names)| Reverse(names.len()));
    let mut family_first = most_first.clone();
    family_first.sort_by_key(|(pair, _)| !is_family(pair, parents));
    let sets = [family_first, most_first].map(|order| closing(order.iter().map(|(pair, _)| *pair), parents));
    sets.into_iter().min_by_key(Vec::len).unwrap_or_default()
}

/// Returns the arrows that would close a forbidden circle if all were added in this order.
fn closing<'a>(order: impl Iterator<Item = &'a Pair>, parents: &BTreeMap<String, String>) -> Vec<&'a Pair> {
    let (mut kept, mut closing) = (Vec::new(), Vec::new());
    for pair in order {
        kept.push(pair);
        let groups = components(&graph(&kept));
        let group_of = |file: &String| groups.iter().position(|group| group.contains(file.as_str()));
        let on_circle = |pair: &&&Pair| group_of(&pair.0).is_some_and(|group| group_of(&pair.1) == Some(group));
        if kept.iter().filter(on_circle).any(|pair| !is_family(pair, parents)) {
            kept.pop();
            closing.push(pair);
        }
    }
    closing
}

fn described(names: &BTreeMap<String, BTreeSet<usize>>) -> String {
    let names = names.iter().map(|(name, lines)| {
        let lines: Vec<String> = lines.iter().map(usize::to_string).collect();
        format!("{name} ({})", lines.join(", "))
    });
    names.collect::<Vec<_>>().join(", ")
}

/// Returns the strongly connected components that have more than one node, by Tarjan's algorithm.
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
    /// Visits a node and returns the lowest index that it reaches. The recursion is at most as deep as there are files.
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

    /// Checks made-up arrows, written `a>b`; each names `Thing` on line 7. Parents are written `child^parent`.
    /// `expected` has the lines of each circle's message, without the first.
    #[track_caller]
    fn check(written: &[&str], expected: &[&[&str]]) {
        let pairs = |sign: char| {
            let pairs = written.iter().filter_map(move |pair| pair.split_once(sign));
            pairs.map(|(from, to)| (from.to_owned(), to.to_owned()))
        };
        let names = BTreeMap::from([("Thing".to_owned(), BTreeSet::from([7]))]);
        let arrows = pairs('>').map(|pair| (pair, names.clone())).collect();
        let told = circles(&arrows, &pairs('^').collect());
        let told: Vec<Vec<&str>> = told.iter().map(|message| message.lines().skip(1).collect()).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn files_in_a_circle_are_reported_with_names_and_lines() {
        let lines = |lines: &[usize]| lines.iter().copied().collect::<BTreeSet<_>>();
        let arrow = |from: &str, to: &str, names: &[(&str, &[usize])]| {
            let names = names.iter().map(|(name, at)| ((*name).to_owned(), lines(at))).collect();
            ((from.to_owned(), to.to_owned()), names)
        };
        let arrows = Arrows::from([
            arrow("a/x.rs", "b/y.rs", &[("Much", &[3, 9]), ("More", &[4])]),
            arrow("b/y.rs", "a/x.rs", &[("Little", &[7])]),
        ]);
        let expected = "2 files use each other in a circle; removing the arrows marked ! would untie them:\n  \
                        a/x.rs -> b/y.rs: More (4), Much (3, 9)\n! b/y.rs -> a/x.rs: Little (7)\n";
        assert_eq!(circles(&arrows, &BTreeMap::new()), [expected]);
    }

    #[test]
    fn a_circle_of_three_is_reported_without_the_files_that_only_touch_it() {
        check(
            &["a/x>b/y", "b/y>b/z", "b/z>a/x", "b/z>c", "d>a/x"],
            &[&["  a/x -> b/y: Thing (7)", "  b/y -> b/z: Thing (7)", "! b/z -> a/x: Thing (7)"]],
        );
    }

    #[test]
    fn one_way_is_no_circle() {
        check(&["a>b", "a>c", "b>c"], &[]);
    }

    const CHILDREN: [&str; 2] = ["a/x^a/mod", "a/y^a/mod"];

    #[test]
    fn a_parent_and_its_children_may_use_each_other() {
        let [x, y] = CHILDREN;
        check(&["a/x>a/mod", "a/mod>a/x", "a/y>a/mod", "a/mod>a/y", x, y], &[]);
    }

    #[test]
    fn children_may_not_use_each_other_by_way_of_their_parent() {
        let [x, y] = CHILDREN;
        let told = [
            "  a/mod -> a/x (a parent and its child): Thing (7)",
            "! a/x -> a/y: Thing (7)",
            "  a/y -> a/mod (a parent and its child): Thing (7)",
        ];
        check(&["a/x>a/y", "a/y>a/mod", "a/mod>a/x", x, y], &[&told]);
    }

    #[test]
    fn a_grandchild_is_no_child() {
        let told = ["  a/b/c -> a/mod: Thing (7)", "! a/mod -> a/b/c: Thing (7)"];
        check(&["a/b/c>a/mod", "a/mod>a/b/c", "a/b/c^a/b/mod", "a/b/mod^a/mod"], &[&told]);
    }

    #[test]
    fn separate_circles_are_reported_separately() {
        let one: &[&str] = &["  c -> d: Thing (7)", "! d -> c: Thing (7)"];
        let other: &[&str] = &["  a -> b: Thing (7)", "! b -> a: Thing (7)"];
        check(&["a>b", "b>a", "c>d", "d>c", "b>c"], &[one, other]);
    }
}
