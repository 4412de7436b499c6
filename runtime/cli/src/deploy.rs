//! `gannet deploy`: uploads a component and its manifest, and prints the resulting version.

use crate::answer::{items, text};
use crate::client::{Client, problem, read_json};
use crate::connection::Connection;
use crate::failure::{Failure, Outcome};
use crate::package::Package;
use crate::printer;
use clap::Args;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::{self, Cursor, Read};
use std::path::PathBuf;
use ureq::Body;
use ureq::http::Response;

#[derive(Debug, Args)]
pub struct DeployArgs {
    #[command(flatten)]
    connection: Connection,
    /// Folder with gannet.toml, or a WebAssembly component file
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Name of the function [default: the name in gannet.toml, or the file name without its extension]
    #[arg(long)]
    name: Option<String>,
    /// Build and check the function, but do not deploy it
    #[arg(long)]
    dry_run: bool,
    /// Send no requests to the new version yet; it can be called as NAME@v3 (by its number) or, with --tag, NAME@TAG
    #[arg(long)]
    no_traffic: bool,
    /// Tag for the version, by which it can be called, as in NAME@TAG
    #[arg(long)]
    tag: Option<String>,
    /// Do not run the build command of gannet.toml; deploy the existing artifact
    #[arg(long)]
    no_build: bool,
    /// Print the server's response as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &DeployArgs) -> Outcome {
    let package = Package::read(&arguments.path, arguments.name.as_deref(), !arguments.no_build)?;
    let client = Client::new(&arguments.connection)?;
    let mut path =
        format!("/api/v1/functions/{}?dry_run={}&no_traffic={}", package.name, arguments.dry_run, arguments.no_traffic);
    if let Some(tag) = &arguments.tag {
        path.push_str(&format!("&tag={tag}"));
    }
    // Sends only the digest first: the server may have the bytes already.
    let mut response = send(&client, &path, &package, true)?;
    if response.status() == 404 {
        response = send(&client, &path, &package, false)?;
    }
    if !response.status().is_success() {
        return Err(problem(&mut response));
    }
    print_version(&read_json(&mut response)?, arguments)
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

fn print_version(answer: &Value, arguments: &DeployArgs) -> Outcome {
    let text = |name: &str| text(answer, name);
    for warning in items(answer, "warnings") {
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
    printer::line(text("url"));
    let tag = arguments.tag.as_ref().map(|tag| format!(" -H 'x-gannet-tag: {tag}'")).unwrap_or_default();
    printer::note(&format!("try: gannet invoke {}{tag}", text("name")));
    Ok(())
}

/// A reader that advances a progress bar.
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

/// Encodes the package as a multipart body, with the component or only its digest. Returns media type and body.
fn encode(package: &Package, by_digest: bool) -> (String, Vec<u8>) {
    let digest: String = Sha256::digest(&package.component).iter().map(|byte| format!("{byte:02x}")).collect();
    let manifest = package.manifest.as_deref().unwrap_or_default();
    let component = if by_digest {
        ("digest", "text/plain", digest.as_bytes())
    } else {
        ("component", "application/wasm", package.component.as_slice())
    };
    // The boundary must not occur in the parts. A random one does not, so nothing is searched.
    let boundary = format!("gannet-{}", uuid::Uuid::now_v7().simple());
    let mut body = Vec::with_capacity(component.2.len() + manifest.len() + 512);
    for (name, media_type, bytes) in [("manifest", "application/toml", manifest.as_bytes()), component] {
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
