//! `gannet asset`: put, list, delete. An upload that breaks off goes on where it was acknowledged.

use crate::cli::client::{Client, problem, read};
use crate::cli::{Connection, Failure, Outcome, printer};
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of one range: what is sent again after a break.
const RANGE: u64 = 32 << 20;
/// How often a range is tried, with a longer wait before each.
const ATTEMPTS: u32 = 6;

#[derive(Debug, Args)]
pub(super) struct AssetArgs {
    #[command(subcommand)]
    verb: AssetVerb,
}

#[derive(Debug, Subcommand)]
enum AssetVerb {
    /// Upload a file as an asset; one that was broken off goes on
    Put {
        #[command(flatten)]
        connection: Connection,
        /// The asset's name
        name: String,
        /// The file
        file: PathBuf,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// List the assets
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        connection: Connection,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Take an asset's name away; versions that were deployed with it keep it
    #[command(visible_alias = "rm")]
    Delete {
        #[command(flatten)]
        connection: Connection,
        /// The asset's name
        name: String,
    },
}

pub(super) fn run(arguments: &AssetArgs) -> Outcome {
    match &arguments.verb {
        AssetVerb::Put { connection, name, file, json } => {
            let answer = put(&Client::new(connection)?, name, file)?;
            report(&answer, *json);
        }
        AssetVerb::List { connection, json } => list(&Client::new(connection)?, *json)?,
        AssetVerb::Delete { connection, name } => {
            Client::new(connection)?.control("DELETE", &format!("assets/{name}"), &[], ())?;
            printer::note(&format!("asset {name} was deleted"));
        }
    }
    Ok(())
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn report(answer: &Value, json: bool) {
    if json {
        return printer::json(answer);
    }
    printer::line(text(answer, "digest"));
    printer::note(&format!("name it in gannet.toml:\n[assets]\nweights = {:?}", text(answer, "name")));
}

fn list(client: &Client, json: bool) -> Outcome {
    let answer = client.pages("assets", "assets")?;
    if json {
        printer::json(&answer);
        return Ok(());
    }
    let row = |asset: &Value| {
        let size = asset.get("size").and_then(Value::as_u64).map(|size| size.to_string()).unwrap_or_default();
        let functions = asset.get("functions").and_then(Value::as_array).into_iter().flatten();
        let functions: Vec<&str> = functions.filter_map(Value::as_str).collect();
        let upload = asset.get("upload").filter(|upload| !upload.is_null()).map(|upload| {
            let number = |name| upload.get(name).and_then(Value::as_u64).unwrap_or_default();
            format!("{} of {}", number("received"), number("size"))
        });
        let digest: String = text(asset, "digest").chars().take(12).collect();
        vec![text(asset, "name").to_owned(), size, digest, functions.join(","), upload.unwrap_or_default()]
    };
    let rows: Vec<Vec<String>> =
        answer.get("assets").and_then(Value::as_array).into_iter().flatten().map(row).collect();
    printer::table(&["NAME", "BYTES", "DIGEST", "FUNCTIONS", "UPLOADING"], &rows);
    Ok(())
}

fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::usage(format!("cannot read {}", path.display())).because(error)
}

fn put(client: &Client, name: &str, path: &Path) -> Result<Value, Failure> {
    let failed = unreadable(path);
    let mut file = File::open(path).map_err(&failed)?;
    let size = file.metadata().map_err(&failed)?.len();
    if size == 0 {
        return Err(Failure::usage(format!("{} is empty", path.display())));
    }
    let digest = digest(&mut file, size).map_err(&failed)?;
    let target = format!("/api/v1/assets/{name}?digest={digest}");
    // Bytes that the server has need not be sent again.
    let mut known = client.send("PUT", &target, &[("content-length".into(), "0".into())], ())?;
    match known.status().as_u16() {
        404 => {}
        status if status < 300 => return parse(&read(&mut known)?),
        _ => return Err(problem(&mut known)),
    }
    let bar = printer::progress(size, &format!("uploading {name}"));
    let answer = upload(client, &target, name, &mut file, size, &digest, &bar);
    bar.finish_and_clear();
    answer
}

fn parse(bytes: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure::server("the answer is not JSON").because(error))
}

fn digest(file: &mut File, size: u64) -> std::io::Result<String> {
    let bar = printer::progress(size, "reading");
    let (mut hash, mut part) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut part)?;
        if read == 0 {
            break;
        }
        hash.update(part.get(..read).unwrap_or_default());
        bar.inc(read as u64);
    }
    bar.finish_and_clear();
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Sends range after range, from where an earlier upload of the same bytes came to.
fn upload(
    client: &Client,
    target: &str,
    name: &str,
    file: &mut File,
    size: u64,
    digest: &str,
    bar: &ProgressBar,
) -> Result<Value, Failure> {
    let mut from = received(client, name, size, digest)?;
    let mut attempt = 0;
    loop {
        bar.set_position(from);
        let length = RANGE.min(size - from);
        let sent = range(client, target, file, from, length, size, bar);
        let broken = match sent {
            Ok(mut response) if response.status().as_u16() == 202 => {
                parse(&read(&mut response)?)?;
                from += length;
                attempt = 0;
                continue;
            }
            Ok(mut response) if response.status().is_success() => return parse(&read(&mut response)?),
            Ok(mut response) => {
                let status = response.status();
                let is_full = response.headers().get("x-gannet-error").is_some_and(|code| code == "tenant_limit");
                let failure = problem(&mut response);
                // What another try cannot mend: not even one after a wait, if a limit of the tenant is reached.
                let passes = status.is_server_error() || status.as_u16() == 409 || status.as_u16() == 429;
                if !passes || is_full {
                    return Err(failure);
                }
                failure
            }
            Err(failure) => failure,
        };
        attempt += 1;
        if attempt >= ATTEMPTS {
            return Err(broken.hint("the same command goes on where this upload stopped"));
        }
        std::thread::sleep(Duration::from_millis(250 << attempt));
        // A server that is still away is asked again by the next attempt.
        from = received(client, name, size, digest).unwrap_or(from);
    }
}

/// How many of these bytes the server has.
fn received(client: &Client, name: &str, size: u64, digest: &str) -> Result<u64, Failure> {
    let mut response = client.send("GET", &format!("/api/v1/assets/{name}"), &[], ())?;
    if response.status().as_u16() == 404 {
        return Ok(0);
    }
    if !response.status().is_success() {
        return Err(problem(&mut response));
    }
    let answer = parse(&read(&mut response)?)?;
    let upload = answer
        .get("upload")
        .filter(|upload| upload.get("size").and_then(Value::as_u64) == Some(size) && text(upload, "digest") == digest);
    let received = upload.and_then(|upload| upload.get("received")?.as_u64()).unwrap_or(0);
    // One that came whole and was not kept begins anew.
    Ok(if received < size { received } else { 0 })
}

fn range(
    client: &Client,
    target: &str,
    file: &mut File,
    from: u64,
    length: u64,
    size: u64,
    bar: &ProgressBar,
) -> Result<ureq::http::Response<ureq::Body>, Failure> {
    let failed = |error| Failure::usage("cannot read the file").because(error);
    file.seek(SeekFrom::Start(from)).map_err(failed)?;
    let headers = [
        ("content-length".to_owned(), length.to_string()),
        ("content-range".to_owned(), format!("bytes {from}-{}/{size}", from + length - 1)),
        ("content-type".to_owned(), "application/octet-stream".to_owned()),
    ];
    let mut source = bar.wrap_read(file.take(length));
    client.send("PUT", target, &headers, ureq::SendBody::from_reader(&mut source))
}
