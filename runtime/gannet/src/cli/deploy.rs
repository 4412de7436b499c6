//! `gannet deploy`: builds if the manifest says how, adds the manifest's kernels to the component,
//! uploads both.

use crate::cli::client::{Client, problem, read};
use crate::cli::{Connection, Failure, Outcome, printer};
use clap::Args;
use gannet_base::manifest::Manifest;
use gannet_sandbox::build::component::KERNEL_SECTION;
use gannet_sandbox::build::kernels;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use ureq::Body;
use ureq::http::Response;
use wasm_encoder::{CustomSection, Encode, Section};

#[derive(Debug, Args)]
pub(super) struct DeployArgs {
    #[command(flatten)]
    connection: Connection,
    /// A folder with gannet.toml, or a component
    #[arg(default_value = ".")]
    path: PathBuf,
    /// The function's name [default: the manifest's, or the file's]
    #[arg(long)]
    name: Option<String>,
    /// Build and check, but change nothing
    #[arg(long)]
    dry_run: bool,
    /// Give the version no requests yet; best with --tag
    #[arg(long)]
    no_traffic: bool,
    /// Give the version a tag, under which it can be called
    #[arg(long)]
    tag: Option<String>,
    /// Deploy the artifact as it is, without the manifest's build command
    #[arg(long)]
    no_build: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// What is about to be uploaded.
struct Package {
    name: String,
    manifest: Option<String>,
    component: Vec<u8>,
}

pub(super) fn run(arguments: &DeployArgs) -> Outcome {
    let package = if arguments.path.is_dir() { from_folder(arguments)? } else { from_file(arguments)? };
    let client = Client::new(&arguments.connection)?;
    let mut path =
        format!("/api/v1/functions/{}?dry_run={}&no_traffic={}", package.name, arguments.dry_run, arguments.no_traffic);
    if let Some(tag) = &arguments.tag {
        path.push_str(&format!("&tag={tag}"));
    }
    // Bytes that the server has need not be sent again.
    let mut response = send(&client, &path, &package, true)?;
    if response.status() == 404 {
        response = send(&client, &path, &package, false)?;
    }
    if !response.status().is_success() {
        return Err(problem(&mut response));
    }
    let text = read(&mut response)?;
    let answer: Value =
        serde_json::from_slice(&text).map_err(|error| Failure::server("the answer is not JSON").because(error))?;
    report(&answer, arguments)
}

fn send(client: &Client, path: &str, package: &Package, by_digest: bool) -> Result<Response<Body>, Failure> {
    let (media_type, body) = encode(package, by_digest);
    let bar = printer::progress(body.len() as u64, &format!("uploading {}", package.name));
    let headers = [("content-type".to_owned(), media_type), ("content-length".to_owned(), body.len().to_string())];
    let mut source = Progress { inner: Cursor::new(body), bar: bar.clone() };
    let response = client.send("PUT", path, &headers, ureq::SendBody::from_reader(&mut source));
    bar.finish_and_clear();
    response
}

fn report(answer: &Value, arguments: &DeployArgs) -> Outcome {
    let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    for warning in answer.get("warnings").and_then(Value::as_array).into_iter().flatten() {
        printer::note(&format!("warning: {}", warning.as_str().unwrap_or_default()));
    }
    if arguments.json {
        printer::json(answer);
        return Ok(());
    }
    let version = answer.get("version").and_then(Value::as_u64).unwrap_or(0);
    if arguments.dry_run {
        let what =
            if version == 0 { "would get a new version".into() } else { format!("is version {version} already") };
        printer::line(&format!("{} {what}", text("name")));
        return Ok(());
    }
    printer::line(&format!("{} version {version}", text("name")));
    printer::line(&text("url"));
    let tag = arguments.tag.as_ref().map(|tag| format!(" -H 'x-gannet-tag: {tag}'")).unwrap_or_default();
    printer::note(&format!("try: gannet invoke {}{tag}", text("name")));
    Ok(())
}

struct Progress {
    inner: Cursor<Vec<u8>>,
    bar: indicatif::ProgressBar,
}

impl Read for Progress {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bar.inc(read as u64);
        Ok(read)
    }
}

fn encode(package: &Package, by_digest: bool) -> (String, Vec<u8>) {
    let digest: String = Sha256::digest(&package.component).iter().map(|byte| format!("{byte:02x}")).collect();
    let manifest = package.manifest.as_deref().unwrap_or_default();
    let bytes = if by_digest {
        ("digest", "text/plain", digest.as_bytes())
    } else {
        ("component", "application/wasm", package.component.as_slice())
    };
    // A boundary that cannot stand in the parts would need a search; a random one is not met.
    let boundary = format!("gannet-{}", uuid::Uuid::now_v7().simple());
    let mut body = Vec::with_capacity(bytes.2.len() + manifest.len() + 512);
    for (name, media_type, bytes) in [("manifest", "application/toml", manifest.as_bytes()), bytes] {
        let head = format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\ncontent-type: {media_type}\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

fn from_file(arguments: &DeployArgs) -> Result<Package, Failure> {
    let stem = arguments.path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = arguments.name.clone().or(stem).unwrap_or_default();
    Ok(Package { name, manifest: None, component: file(&arguments.path)? })
}

fn file(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::usage(format!("cannot read {}", path.display())).because(error))
}

fn from_folder(arguments: &DeployArgs) -> Result<Package, Failure> {
    let folder = &arguments.path;
    let path = folder.join("gannet.toml");
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::usage(format!("cannot read {}", path.display()))
            .because(error)
            .hint("deploy a folder with gannet.toml, or a component: gannet deploy FILE.wasm")
    })?;
    let manifest = Manifest::parse(&text).map_err(|error| Failure::usage(error.to_string()))?;
    let own = manifest.name.as_ref().map(ToString::to_string);
    let name = arguments
        .name
        .clone()
        .or(own)
        .ok_or_else(|| Failure::usage("gannet.toml has no name, and there is no --name"))?;
    if !manifest.build.command.is_empty() && !arguments.no_build {
        build(folder, &manifest.build.command)?;
    }
    if manifest.build.artifact.is_empty() {
        return Err(Failure::usage("gannet.toml names no [build] artifact"));
    }
    let mut component = file(&folder.join(&manifest.build.artifact))?;
    for (kernel, source) in &manifest.kernels {
        let wgsl = String::from_utf8(file(&folder.join(source))?)
            .map_err(|_| Failure::usage(format!("{source} is not UTF-8")))?;
        add_kernel(&mut component, kernel, &wgsl);
    }
    // The name given on the command line wins; the server wants the two to agree.
    let text = if arguments.name.is_some() { with_name(&manifest, &name)? } else { text };
    Ok(Package { name, manifest: Some(text), component })
}

fn with_name(manifest: &Manifest, name: &str) -> Result<String, Failure> {
    let mut manifest = manifest.clone();
    manifest.name =
        Some(name.parse().map_err(|error: gannet_base::names::NameError| Failure::usage(error.to_string()))?);
    toml::to_string(&manifest).map_err(|error| Failure::usage("the manifest cannot be written").because(error))
}

fn build(folder: &Path, command: &str) -> Outcome {
    printer::note(&format!("building: {command}"));
    let status = Command::new("sh").arg("-c").arg(command).current_dir(folder).stdin(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::failed(format!("the build ended with {status}")).because(command)),
        Err(error) => Err(Failure::failed("the build could not be started").because(error)),
    }
}

/// Appends a kernel's record in a custom section at the end of the component, where any tool that
/// does not know it ignores it.
fn add_kernel(component: &mut Vec<u8>, name: &str, wgsl: &str) {
    let data = kernels::encode(name, wgsl);
    let section = CustomSection { name: KERNEL_SECTION.into(), data: data.into() };
    component.push(Section::id(&section));
    section.encode(component);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use gannet_sandbox::build::component;

    #[test]
    fn a_kernel_added_to_a_component_is_found_in_it() {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        add_kernel(&mut bytes, "one", "@compute @workgroup_size(1) fn main() {}");
        component::validate(&bytes).unwrap();
        let kernels = kernels::decode(&component::kernel_sections(&bytes).unwrap()).unwrap();
        assert!(kernels.contains_key("one"));
    }
}
