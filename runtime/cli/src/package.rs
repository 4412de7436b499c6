//! Prepares the upload of `gannet deploy`: runs the manifest's build command, if there is one, and adds the manifest's
//! kernels to the component.
//!
//! A kernel is a custom section at the end of the component, so tools that do not know it ignore it.

use crate::failure::{Failure, Outcome};
use crate::printer;
use gannet_base::kernel_section;
use gannet_base::manifest::Manifest;
use gannet_base::names::NameError;
use std::path::Path;
use std::process::{Command, Stdio};
use wasm_encoder::{CustomSection, Encode, Section};

/// A function to upload.
pub struct Package {
    /// The function's name.
    pub name: String,
    /// The text of `gannet.toml`, if there is one.
    pub manifest: Option<String>,
    /// The component's bytes.
    pub component: Vec<u8>,
}

impl Package {
    /// Reads a folder with `gannet.toml`, or a component. `name` overrides the manifest's name and the file's. `build`
    /// runs the build command.
    pub fn read(path: &Path, name: Option<&str>, build: bool) -> Result<Self, Failure> {
        if path.is_dir() { Self::from_folder(path, name, build) } else { Self::from_file(path, name) }
    }

    fn from_file(path: &Path, name: Option<&str>) -> Result<Self, Failure> {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let name = name.map(ToOwned::to_owned).or(stem).unwrap_or_default();
        Ok(Self { name, manifest: None, component: read_file(path)? })
    }

    fn from_folder(folder: &Path, given: Option<&str>, build: bool) -> Result<Self, Failure> {
        let path = folder.join("gannet.toml");
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Failure::usage(format!("cannot read {}", path.display()))
                .because(error)
                .hint("deploy a folder with gannet.toml, or a component: gannet deploy FILE.wasm")
        })?;
        let manifest =
            Manifest::parse(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        let name = given.map(ToOwned::to_owned).or_else(|| manifest.name.as_ref().map(ToString::to_string));
        let lacks = |what: &str| Failure::usage(format!("{} {what}", path.display()));
        let name = name.ok_or_else(|| lacks("has no name; give one with --name"))?;
        if build && !manifest.build.command.is_empty() {
            run_build(folder, &manifest.build.command)?;
        }
        if manifest.build.artifact.is_empty() {
            return Err(lacks("has no artifact in [build]"));
        }
        let named = |key: &str, value: &str| {
            let file = folder.join(value);
            let wrong = |cause: &dyn std::fmt::Display| {
                Failure::usage(format!("{}: {key} = {value:?}: {cause}", path.display()))
            };
            let bytes = std::fs::read(&file).map_err(|error| wrong(&error))?;
            Ok::<_, Failure>((bytes, wrong(&"it is not UTF-8")))
        };
        let (mut component, _) = named("build.artifact", &manifest.build.artifact)?;
        for (kernel, source) in &manifest.kernels {
            let (bytes, not_utf_8) = named(&format!("kernels.{kernel}"), source)?;
            let wgsl = String::from_utf8(bytes).map_err(|_| not_utf_8)?;
            add_kernel(&mut component, kernel, &wgsl);
        }
        // The server requires that the name in the manifest and the name in the path are the same.
        let text = if given.is_some() { with_name(&manifest, &name)? } else { text };
        Ok(Self { name, manifest: Some(text), component })
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::usage(format!("cannot read {}", path.display())).because(error))
}

fn with_name(manifest: &Manifest, name: &str) -> Result<String, Failure> {
    let mut manifest = manifest.clone();
    manifest.name = Some(name.parse().map_err(|error: NameError| Failure::usage(error.to_string()))?);
    toml::to_string(&manifest).map_err(|error| Failure::usage("the manifest cannot be written").because(error))
}

fn run_build(folder: &Path, command: &str) -> Outcome {
    printer::note(&format!("building: {command}"));
    let status = Command::new("sh").arg("-c").arg(command).current_dir(folder).stdin(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::failed(format!("the build ended with {status}")).because(command)),
        Err(error) => Err(Failure::failed("the build could not be started").because(error)),
    }
}

/// Appends a kernel to the component.
fn add_kernel(component: &mut Vec<u8>, name: &str, wgsl: &str) {
    let data = kernel_section::encode(name, wgsl);
    let section = CustomSection { name: kernel_section::NAME.into(), data: data.into() };
    component.push(Section::id(&section));
    section.encode(component);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use gannet_sandbox::build::{component, kernels};

    #[test]
    fn a_kernel_added_to_a_component_is_found_in_it() {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        add_kernel(&mut bytes, "one", "@compute @workgroup_size(1) fn main() {}");
        component::validate(&bytes).unwrap();
        let kernels = kernels::decode(&component::kernel_sections(&bytes).unwrap()).unwrap();
        assert!(kernels.contains_key("one"));
    }
}
