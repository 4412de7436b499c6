//! The files of a repository in memory. All checks work on this, so that tests can use made-up repositories.
//!
//! Input: a folder, or pairs of path and text. Paths are relative to the root and separated by `/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The text of all sources, manifests and documents, and the paths of all other files.
#[derive(Debug, Default)]
pub struct Tree {
    texts: BTreeMap<String, String>,
    others: BTreeSet<String>,
}

/// Folders of build outputs and installed packages, which are not read.
const SKIPPED: [&str; 2] = ["target", "node_modules"];

impl Tree {
    /// Reads all files below a folder, except in build outputs and hidden folders.
    pub fn read(root: &Path) -> Result<Self, String> {
        let mut tree = Self::default();
        tree.read_folder(root, "")?;
        Ok(tree)
    }

    /// Makes a repository from pairs of path and text.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let texts = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Self { texts, others: BTreeSet::new() }
    }

    fn read_folder(&mut self, folder: &Path, prefix: &str) -> Result<(), String> {
        let wrong = |error: std::io::Error| format!("{}: {error}", folder.display());
        for entry in std::fs::read_dir(folder).map_err(wrong)? {
            let entry = entry.map_err(wrong)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().map_err(wrong)?;
            let path = format!("{prefix}{name}");
            if kind.is_dir() {
                if !name.starts_with('.') && !SKIPPED.contains(&name.as_str()) {
                    self.read_folder(&entry.path(), &format!("{path}/"))?;
                }
            } else if [".rs", ".toml", ".md"].iter().any(|end| name.ends_with(end)) {
                self.texts.insert(path, std::fs::read_to_string(entry.path()).map_err(wrong)?);
            } else {
                self.others.insert(path);
            }
        }
        Ok(())
    }

    /// Returns the text of a file.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(path).map(String::as_str)
    }

    /// Returns whether a file or folder exists.
    pub fn has(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        self.texts.contains_key(path)
            || self.others.contains(path)
            || self.texts.keys().any(|file| file.starts_with(&folder))
            || self.others.iter().any(|file| file.starts_with(&folder))
    }

    /// Returns the paths of all `Cargo.toml` files.
    pub fn manifests(&self) -> impl Iterator<Item = &str> {
        let is_manifest = |path: &&str| *path == "Cargo.toml" || path.ends_with("/Cargo.toml");
        self.texts.keys().map(String::as_str).filter(is_manifest)
    }

    /// Returns path and text of the Rust files below a folder, in order. The folder `""` is the root.
    pub fn sources<'a>(&'a self, folder: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let files = self.texts.iter().filter(move |(path, _)| path.starts_with(&prefix) && path.ends_with(".rs"));
        files.map(|(path, text)| (path.as_str(), text.as_str()))
    }
}

/// Resolves `.` and `..` in a path.
pub fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Returns the folder of a file; `""` is the root.
pub fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Joins a folder and a relative path.
pub fn join(folder: &str, path: &str) -> String {
    normal(&format!("{folder}/{path}"))
}
