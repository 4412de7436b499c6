//! `gannet invoke`: calls a function. Bodies are sent and printed unchanged.

use crate::client::{Client, problem, segment};
use crate::connection::Connection;
use crate::data::read_data;
use crate::failure::{Failure, Outcome};
use crate::printer;
use clap::Args;
use gannet_api::ReceiptView;
use gannet_base::bill::Receipt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use ureq::Body;
use ureq::http::Response;

#[derive(Debug, Args)]
pub struct InvokeArgs {
    #[command(flatten)]
    connection: Connection,
    /// Name of the function; NAME@TAG calls the version with a tag, and NAME@v3 the version with that number
    name: String,
    /// Path and query of the request, as the function gets them, such as /?radius=8
    #[arg(long, default_value = "/")]
    path: String,
    /// Method of the request [default: GET, or POST with -d]
    #[arg(short = 'X', long = "request")]
    method: Option<String>,
    /// Header of the request, as `name: value`; can be repeated
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// Body of the request: text, @FILE for the contents of a file, or @- for standard input
    #[arg(short = 'd', long = "data")]
    data: Option<String>,
    /// Print the status and the headers of the response to stderr
    #[arg(short = 'i', long = "include")]
    include: bool,
    /// Write the response body to this file instead of stdout
    #[arg(short = 'o', long = "output")]
    output: Option<PathBuf>,
}

pub fn run(arguments: &InvokeArgs) -> Outcome {
    let client = Client::new(&arguments.connection)?;
    let (tenant, functions_url) = client.tenant_and_functions()?;
    // The control API keeps its own address.
    let functions = Client::new(&arguments.connection)?.for_functions(functions_url.as_deref())?;
    let headers = arguments
        .headers
        .iter()
        .map(|header| match header.split_once(':') {
            Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
            None => Err(Failure::usage(format!("the header {header:?} is not `name: value`"))),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let bytes = arguments.data.as_deref().map_or_else(|| Ok(Vec::new()), read_data)?;
    let default = if arguments.data.is_some() { "POST" } else { "GET" };
    let method = arguments.method.as_deref().unwrap_or(default);
    let path =
        format!("/f/{}/{}/{}", segment(&tenant), segment(&arguments.name), arguments.path.trim_start_matches('/'));
    let mut response = if bytes.is_empty() && arguments.data.is_none() {
        functions.send(method, &path, &headers, ())?
    } else {
        functions.send(method, &path, &headers, bytes.as_slice())?
    };
    if arguments.include {
        print_head(&response);
    }
    // Only the platform sets this header; the function cannot.
    if response.headers().contains_key("x-gannet-error") {
        return Err(problem(&mut response));
    }
    let written = copy_body(&mut response, arguments.output.as_ref());
    print_cost(&client, &response);
    written?;
    let status = response.status();
    if status.as_u16() >= 400 {
        return Err(Failure::failed(format!("the function responded with status {status}")));
    }
    Ok(())
}

fn print_head(response: &Response<Body>) {
    printer::note(&format!("{:?} {}", response.version(), response.status()));
    for (name, value) in response.headers() {
        printer::note(&format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
    }
}

/// Copies the response's body to a file or to stdout.
fn copy_body(response: &mut Response<Body>, output: Option<&PathBuf>) -> Outcome {
    let mut target: Box<dyn Write> = match output {
        Some(path) => Box::new(
            File::create(path)
                .map_err(|error| Failure::usage(format!("cannot write {}", path.display())).because(error))?,
        ),
        None => Box::new(io::stdout()),
    };
    let mut reader = response.body_mut().as_reader();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read =
            reader.read(&mut buffer).map_err(|error| Failure::failed("the response broke off").because(error))?;
        let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else { break };
        // Flush each part, so that the output of a streaming function is shown at once.
        match target.write_all(part).and_then(|()| target.flush()) {
            Ok(()) => {}
            // The reader of the pipe has read enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(error) => return Err(Failure::failed("the output could not be written").because(error)),
        }
    }
    Ok(())
}

/// Prints how long the parts of the request took. The head of a streamed response is sent too early to contain that, so
/// the receipt is fetched.
fn print_cost(client: &Client, response: &Response<Body>) {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (id, start) = (header("x-request-id"), header("x-gannet-start"));
    let streamed = header("trailer").split(',').any(|name| name.trim() == "server-timing");
    let receipt = streamed.then(|| client.get::<ReceiptView>(&format!("requests/{id}")).ok()?.view().ok()).flatten();
    let times = match receipt {
        Some(view) => from_receipt(&view.receipt),
        None => from_header(header("server-timing")),
    };
    printer::note(&format!("request {id} ({start}): {times}"));
}

fn from_header(timing: &str) -> String {
    let times = timing.split(", ").filter_map(|part| {
        let (name, rest) = part.split_once(';')?;
        let (_, duration) = rest.split_once("dur=")?;
        Some(format!("{name} {duration} ms"))
    });
    times.collect::<Vec<_>>().join(", ")
}

fn from_receipt(receipt: &Receipt) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let ms = |value: u64, unit: f64| value as f64 / unit;
    let assets = match ms(receipt.assets_us, 1e3) {
        0.0 => String::new(),
        took => format!("assets {took:.3} ms, "),
    };
    format!(
        "admit {:.3} ms, start {:.3} ms, kernels {:.3} ms, {assets}guest {:.3} ms, gpu {:.3} ms",
        ms(receipt.admit_us, 1e3),
        ms(receipt.start_us, 1e3),
        ms(receipt.kernels_us, 1e3),
        ms(receipt.guest_us, 1e3),
        ms(receipt.gpu_ns, 1e6)
    )
}
