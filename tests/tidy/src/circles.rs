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
