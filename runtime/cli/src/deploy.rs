//! `gannet deploy`: uploads a component and its manifest, and prints the resulting version.

use crate::answer::Answer;
use crate::client::{Client, problem, read_answer, segment, with_query};
use crate::connection::Connection;
use crate::failure::{Failure, Outcome};
use crate::package::Package;
use crate::printer;
use clap::Args;
use gannet_api::Deployed;
use sha2::{Digest, Sha256};
use std::io::{Cursor, Read};
use std::path::PathBuf;
use ureq::Body;
use ureq::http::Response;
use ureq::unversioned::multipart::{Form, Part};

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
    let (dry_run, no_traffic) = (arguments.dry_run.to_string(), arguments.no_traffic.to_string());
    let mut query = vec![("dry_run", dry_run.as_str()), ("no_traffic", &no_traffic)];
    query.extend(arguments.tag.iter().map(|tag| ("tag", tag.as_str())));
    let path = with_query(&format!("/api/v1/functions/{}", segment(&package.name)), &query);
    // Sends only the digest first: the server may have the bytes already.
    let mut response = send(&client, &path, &package, true)?;
    if response.status() == 404 {
        response = send(&client, &path, &package, false)?;
    }
    if !response.status().is_success() {
        return Err(problem(&mut response));
    }
    print_version(&read_answer(&mut response)?, arguments)
}

fn send(client: &Client, path: &str, package: &Package, by_digest: bool) -> Result<Response<Body>, Failure> {
    let (media_type, body) = encode(package, by_digest)?;
    let bar = printer::progress(body.len() as u64, &format!("uploading {}", package.name));
    let headers = [("content-type".to_owned(), media_type), ("content-length".to_owned(), body.len().to_string())];
    let mut source = bar.wrap_read(Cursor::new(body));
    let response = client.send("PUT", path, &headers, ureq::SendBody::from_reader(&mut source));
    bar.finish_and_clear();
    response
}

fn print_version(answer: &Answer<Deployed>, arguments: &DeployArgs) -> Outcome {
    let warnings = answer.view().map(|deployed| deployed.warnings).unwrap_or_default();
    warnings.iter().for_each(|warning| printer::note(&format!("warning: {warning}")));
    answer.print(arguments.json, |Deployed { name, version, url, .. }| {
        if arguments.dry_run && version == 0 {
            printer::line(&format!("{name} would get a new version"));
            return;
        }
        if arguments.dry_run {
            printer::line(&format!("{name} is version {version} already"));
            return;
        }
        printer::line(&format!("{name} version {version}"));
        printer::line(&url);
        let tag = arguments.tag.as_ref().map(|tag| format!(" -H 'x-gannet-tag: {tag}'")).unwrap_or_default();
        printer::note(&format!("try: gannet invoke {name}{tag}"));
    })
}

/// Encodes the package as a multipart body, with the component or only its digest. Returns media type and body.
fn encode(package: &Package, by_digest: bool) -> Result<(String, Vec<u8>), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::usage("the package cannot be sent").because(error);
    let digest = hex::encode(Sha256::digest(&package.component));
    let manifest = package.manifest.as_deref().unwrap_or_default();
    let manifest = Part::text(manifest).mime_str("application/toml").map_err(|error| failed(&error))?;
    let (name, component) = if by_digest {
        ("digest", Part::text(&digest))
    } else {
        let component = Part::bytes(&package.component).file_name("component");
        ("component", component.mime_str("application/wasm").map_err(|error| failed(&error))?)
    };
    let mut form = Form::new().part("manifest", manifest).part(name, component);
    let media_type = format!("multipart/form-data; boundary={}", form.boundary());
    let mut body = Vec::with_capacity(package.component.len() + 4096);
    form.read_to_end(&mut body).map_err(|error| failed(&error))?;
    Ok((media_type, body))
}
