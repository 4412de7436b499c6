//! Uploads a file as an asset, in ranges. An upload that breaks off continues after the last range that the server has
//! acknowledged, even in a later run of the same command.

use crate::answer::Answer;
use crate::client::{Client, problem, read_answer, segment, with_query};
use crate::failure::Failure;
use crate::printer;
use gannet_api::{AssetUpload, AssetView};
use headers::{ContentRange, Header, HeaderValue};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use ureq::Body;
use ureq::http::Response;

/// Bytes of one range. A range that breaks off is sent again from its start.
const RANGE: u64 = 32 << 20;
/// How often a range is tried. The wait before each try doubles.
const ATTEMPTS: u32 = 6;

/// Uploads the file, unless the server has its bytes already. Returns the server's description of the asset.
pub fn put(client: &Client, name: &str, path: &Path) -> Result<Answer<AssetView>, Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("cannot read {}", path.display())).because(error);
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size == 0 {
        return Err(Failure::usage(format!("{} is empty", path.display())));
    }
    let digest = digest(&mut file, size).map_err(failed)?;
    let target = with_query(&format!("/api/v1/assets/{}", segment(name)), &[("digest", &digest)]);
    // A PUT without a body gives the name to bytes that the server already has, found by their digest.
    let mut known = client.send("PUT", &target, &[("content-length".into(), "0".into())], ())?;
    match known.status().as_u16() {
        404 => {}
        status if status < 300 => return read_answer(&mut known),
        _ => return Err(problem(&mut known)),
    }
    let bar = printer::progress(size, &format!("uploading {name}"));
    let answer = Upload { client, name, target, size, digest, bar: bar.clone() }.run(&mut file);
    bar.finish_and_clear();
    answer
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
    Ok(hex::encode(hash.finalize()))
}

struct Upload<'a> {
    client: &'a Client,
    /// The asset's name.
    name: &'a str,
    /// The path that ranges are sent to.
    target: String,
    /// Bytes of the file.
    size: u64,
    /// The file's SHA-256.
    digest: String,
    bar: ProgressBar,
}

impl Upload<'_> {
    /// Sends range after range, from where an earlier upload of the same bytes stopped.
    fn run(&self, file: &mut File) -> Result<Answer<AssetView>, Failure> {
        let mut from = self.received()?;
        let mut attempt = 0;
        loop {
            self.bar.set_position(from);
            let length = RANGE.min(self.size - from);
            let sent = if length == 0 { self.finish() } else { self.send_range(file, from, length) };
            let failure = match sent {
                Ok(mut response) if response.status().as_u16() == 202 => {
                    read_answer::<AssetUpload>(&mut response)?;
                    from += length;
                    attempt = 0;
                    continue;
                }
                Ok(mut response) if response.status().is_success() => return read_answer(&mut response),
                Ok(mut response) => {
                    let may_pass = may_pass(&response);
                    let failure = problem(&mut response);
                    if !may_pass {
                        return Err(failure);
                    }
                    failure
                }
                Err(failure) => failure,
            };
            attempt += 1;
            if attempt >= ATTEMPTS {
                return Err(failure.hint("run the same command again to continue this upload"));
            }
            std::thread::sleep(Duration::from_millis(250 << attempt));
            // If the server still cannot be reached, the next attempt fails.
            from = self.received().unwrap_or(from);
        }
    }

    /// Asks how many bytes of this file the server has.
    fn received(&self) -> Result<u64, Failure> {
        let mut response = self.client.send("GET", &format!("/api/v1/assets/{}", segment(self.name)), &[], ())?;
        if response.status().as_u16() == 404 {
            return Ok(0);
        }
        if !response.status().is_success() {
            return Err(problem(&mut response));
        }
        let asset: AssetView = read_answer(&mut response)?.view()?;
        let is_ours = |upload: &AssetUpload| upload.size == self.size && upload.digest.as_ref() == Some(&self.digest);
        Ok(asset.upload.filter(is_ours).map_or(0, |upload| upload.received))
    }

    /// Asks the server to store the asset, after all bytes have arrived but an earlier request broke off.
    fn finish(&self) -> Result<Response<Body>, Failure> {
        let headers = [
            ("content-length".to_owned(), "0".to_owned()),
            ("content-range".to_owned(), format!("bytes */{}", self.size)),
        ];
        let response = self.client.send("PUT", &self.target, &headers, ())?;
        if response.status().as_u16() == 404 {
            // The server has finished it by itself: it may now be found by its digest.
            return self.client.send("PUT", &self.target, &[("content-length".into(), "0".into())], ());
        }
        Ok(response)
    }

    fn send_range(&self, file: &mut File, from: u64, length: u64) -> Result<Response<Body>, Failure> {
        let failed = |error| Failure::usage("cannot read the file").because(error);
        file.seek(SeekFrom::Start(from)).map_err(failed)?;
        let headers = [
            ("content-length".to_owned(), length.to_string()),
            ("content-range".to_owned(), content_range(from..from + length, self.size)?),
            ("content-type".to_owned(), "application/octet-stream".to_owned()),
        ];
        let mut source = self.bar.wrap_read(file.take(length));
        self.client.send("PUT", &self.target, &headers, ureq::SendBody::from_reader(&mut source))
    }
}

/// Formats a `content-range` header.
fn content_range(range: Range<u64>, size: u64) -> Result<String, Failure> {
    let failed = || Failure::usage(format!("bytes {} to {} of {size} are no range", range.start, range.end));
    let header = ContentRange::bytes(range.clone(), size).map_err(|_| failed())?;
    let mut values = Vec::new();
    header.encode(&mut values);
    let text = values.first().and_then(|value: &HeaderValue| value.to_str().ok());
    text.map(ToOwned::to_owned).ok_or_else(failed)
}

/// Whether the same range may be accepted later. A limit of the tenant is not lifted by waiting.
fn may_pass(response: &Response<Body>) -> bool {
    let status = response.status();
    let is_full = response.headers().get("x-gannet-error").is_some_and(|code| code == "tenant_limit");
    !is_full && (status.is_server_error() || status.as_u16() == 409 || status.as_u16() == 429)
}
