//! Explains why a component cannot be linked: which imports are missing, what is served instead, and which world the
//! component is for.
//!
//! The linker reports only the first missing import. Here each import is looked up separately.

use crate::guest::GuestState;
use std::collections::HashMap;
use wasmtime::Engine;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, LinkerInstance};

/// Versions that are tried to find what is served of an interface.
const PATCHES: std::ops::Range<u32> = 0..64;
/// Served interfaces whose versions are no plain numbers.
const OTHER_VERSIONS: [&str; 2] = ["0.2.0-rc.1", "0.2.0-draft"];
/// More missing imports are counted.
const SHOWN_MAX: usize = 16;
/// What a function may import, for the error.
const SERVED: &str = "the server provides WASI 0.2 (cli, clocks, config, filesystem without files, http, io, random, sockets without network), wasi:keyvalue 0.2.0-draft (store, atomics, batch), gannet:gpu 0.1 and gannet:jobs 0.1";

/// Whether the linker has a definition of exactly this name.
fn has(at: &mut LinkerInstance<'_, GuestState>, name: &str) -> bool {
    // A name cannot be defined twice. The linker is a copy, so another definition in it does not matter.
    at.func_new(name, |_, _, _, _| Ok(())).is_err()
}

/// Looks names up in a copy of a linker.
struct Probe {
    linker: Linker<GuestState>,
    /// The results by name. A lookup defines the name in the copy, so each name is looked up once.
    known: HashMap<String, bool>,
}

impl Probe {
    fn is_defined(&mut self, name: &str) -> bool {
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        let found = has(&mut self.linker.root(), name);
        self.known.insert(name.to_owned(), found);
        found
    }

    /// Returns the names under which an interface is served, of the compatible versions or of all.
    fn served_as(&mut self, import: &str, all: bool) -> Vec<String> {
        let (name, version) = split(import);
        let own = version.and_then(|version| version.rsplit_once('.')).map(|(minor, _)| minor);
        let minors = ["0.1", "0.2", "0.3", "1.0"].into_iter().filter(|minor| all || own == Some(minor));
        let plain = minors.flat_map(|minor| PATCHES.map(move |patch| format!("{minor}.{patch}")));
        let other = OTHER_VERSIONS.into_iter().filter(|_| all).map(str::to_owned);
        let names: Vec<String> = plain.chain(other).map(|version| format!("{name}@{version}")).collect();
        names.into_iter().filter(|name| self.is_defined(name)).collect()
    }
}

/// An interface's name and its version.
fn split(import: &str) -> (&str, Option<&str>) {
    import.split_once('@').map_or((import, None), |(name, version)| (name, Some(version)))
}

/// Describes each import that the linker cannot provide. Empty if all are there, and only their types differ.
pub(super) fn missing(engine: &Engine, linker: &Linker<GuestState>, component: &Component) -> Vec<String> {
    let mut missing = Vec::new();
    let mut probe = Probe { linker: linker.clone(), known: HashMap::new() };
    for (import, item) in component.component_type().imports(engine) {
        let exact = probe.is_defined(import).then(|| import.to_owned());
        // Versions that differ in their last number are compatible, except those before a release.
        let is_release = split(import).1.is_some_and(|version| !version.contains('-'));
        let (instance, served) = match item.ty {
            ComponentItem::Type(_) => continue,
            // What has only types needs no definition.
            ComponentItem::ComponentInstance(instance)
                if instance.exports(engine).all(|(_, item)| matches!(item.ty, ComponentItem::Type(_))) =>
            {
                continue;
            }
            ComponentItem::ComponentInstance(instance) => {
                let compatible = || probe.served_as(import, false).pop().filter(|_| is_release);
                (instance, exact.or_else(compatible))
            }
            _ => {
                missing.extend(exact.is_none().then(|| import.to_owned()));
                continue;
            }
        };
        let Some(served) = served else {
            let others = if missing.len() < SHOWN_MAX { probe.served_as(import, true) } else { Vec::new() };
            missing.push(match others.as_slice() {
                [] => import.to_owned(),
                others => format!("{import} (the server provides {})", others.join(", ")),
            });
            continue;
        };
        let mut copy = linker.clone();
        let Ok(mut interface) = copy.instance(&served) else { continue };
        for (name, item) in instance.exports(engine) {
            let is_linked = matches!(item.ty, ComponentItem::ComponentFunc(_) | ComponentItem::Resource(_));
            if is_linked && !has(&mut interface, name) {
                missing.push(format!("{import}#{name} (the server provides {served}, which lacks it)"));
            }
        }
    }
    let more = missing.len().saturating_sub(SHOWN_MAX);
    if more > 0 {
        missing.truncate(SHOWN_MAX);
        missing.push(format!("and {more} more"));
    }
    missing
}

/// Says which world a component is for, by its exports.
pub(super) fn world(engine: &Engine, component: &Component) -> String {
    let exports: Vec<String> = component.component_type().exports(engine).map(|(name, _)| name.to_owned()).collect();
    let has = |prefix: &str| exports.iter().any(|name| name.starts_with(prefix));
    if has("wasi:http/incoming-handler@") {
        "it is for the world wasi:http/proxy".into()
    } else if has("wasi:http/handler@") {
        "it is for the world wasi:http/service".into()
    } else if has("wasi:cli/run@") {
        "it is a command, for the world wasi:cli/command".into()
    } else if exports.is_empty() {
        "it exports nothing".into()
    } else {
        let shown: Vec<&str> = exports.iter().take(SHOWN_MAX).map(String::as_str).collect();
        format!("it is a library, which exports {}", shown.join(", "))
    }
}

/// Returns the error for a component that cannot be linked.
pub(super) fn explain(missing: &[String], world: &str) -> String {
    format!("missing imports: {}; {SERVED}; {world}", missing.join(", "))
}
