//! Calls other functions of its tenant, as far and as often as a test asks. `to` names the function:
//!
//! | path | what follows |
//! |---|---|
//! | `/call?to=b&path=/x` | the request goes on to `http://b.gannet.internal/x`, and the answer comes back |
//! | `/call?url=…` | the same with any URL |
//! | `/chain?to=b&left=3` | b is called with `left=2`, and so on to 0; the answer has a line for each |
//! | `/both?to=b&path=/x` | a kernel runs here, then b is called, then a kernel runs on the same buffer |
//! | `/kernel` | a kernel runs; the answer is what it wrote |
//! | `/seen` | the answer lists what headers arrived |
//! | `/echo` | the body comes back |
//! | `/parts?n=3&every_ms=10` | a streamed answer of `n` parts |
//! | `/wait?ms=100` | an answer after that time |
//! | POST `/` with a job | the input names `to` and `path`; the output is the status and the answer |
//!
//! It logs each path, so that a test finds the ids of requests that nobody got an answer to.

use gannet_sdk::gpu::{Buffer, Kernel, grid_1d};
use gannet_sdk::http::{Request, Response};
use gannet_sdk::outbound::{Answer, Call};
use gannet_sdk::{Error, Result};
use std::time::Duration;

const DOUBLE: &str = "
@group(0) @binding(0) var<storage, read_write> numbers: array<u32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&numbers) { numbers[id.x] = numbers[id.x] * 2u; }
}";

/// Headers that `/seen` lists.
const SEEN: [&str; 11] = [
    "authorization",
    "x-gannet-key",
    "x-gannet-caller",
    "x-gannet-tenant",
    "x-gannet-job-id",
    "x-gannet-hop-request",
    "x-forwarded-for",
    "x-forwarded-proto",
    "connection",
    "x-hop",
    "x-own",
];

fn number(request: &Request, name: &str, default: u64) -> u64 {
    request.query(name).and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn doubled(numbers: &Buffer<u32>) -> Result<()> {
    Kernel::compile(DOUBLE, "main")?.dispatch((numbers,), grid_1d(64, 64))?;
    Ok(())
}

/// Calls the function that the request names.
fn call(request: &Request, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
    let to = request.query("to").unwrap_or_default();
    let url = request.query("url").unwrap_or_else(|| format!("http://{to}.gannet.internal{path}"));
    let mut call = Call::new(method, &url);
    if !body.is_empty() {
        call = Call::post(&url, body);
    }
    if let Some(ms) = request.query("patience_ms").and_then(|text| text.parse().ok()) {
        call = call.with_timeout(Duration::from_millis(ms));
    }
    for name in ["x-own", "x-gannet-caller", "x-gannet-tenant", "x-gannet-job-id", "authorization", "x-gannet-tag"] {
        // A client's `x-gannet-` headers do not arrive here, so those come with `x-send-` before their name.
        let value = request.header(&format!("x-send-{name}")).or_else(|| request.header(name));
        if let Some(value) = value {
            call = call.with_header(name, value);
        }
    }
    call.send()
}

/// Passes an answer on, with what is to be known of it in headers.
fn passed_on(answer: &Answer) -> Response {
    let response = Response::bytes("text/plain", answer.body()).with_status(answer.status());
    let seen = |response: Response, (from, to): (&str, &str)| match answer.header(from) {
        Some(value) => response.with_header(to, value),
        None => response,
    };
    [("x-gannet-error", "x-called-error"), ("x-request-id", "x-called-id")].into_iter().fold(response, seen)
}

fn job(request: &Request) -> Result<Response> {
    let job: serde_json::Value =
        serde_json::from_slice(request.body()).map_err(|error| Error::new(400, error.to_string()))?;
    let text = |name: &str| job["input"][name].as_str().unwrap_or_default().to_owned();
    let answer = Call::get(&format!("http://{}.gannet.internal{}", text("to"), text("path"))).send()?;
    let output = serde_json::json!({
        "status": answer.status(),
        "answer": String::from_utf8_lossy(answer.body()),
        "id": answer.header("x-request-id"),
    });
    Ok(Response::json(output.to_string()))
}

#[gannet_sdk::handler]
fn caller(request: Request) -> Result<Response> {
    println!("{} {}", request.method(), request.path());
    match request.path() {
        "/" => job(&request),
        "/call" => {
            let path = request.query("path").unwrap_or_else(|| "/".into());
            Ok(passed_on(&call(&request, request.method(), &path, request.body())?))
        }
        "/chain" => {
            let left = number(&request, "left", 0);
            let depth = request.header("x-gannet-caller").map_or("first", |_| "called");
            if left == 0 {
                return Ok(Response::text(format!("{depth}\n")));
            }
            let to = request.query("to").unwrap_or_default();
            let answer = call(&request, "GET", &format!("/chain?to={to}&left={}", left - 1), &[])?;
            let text = format!("{depth}\n{}", String::from_utf8_lossy(answer.body()));
            Ok(passed_on(&answer).with_body(text))
        }
        "/kernel" => {
            let numbers = Buffer::from_slice(&[21u32; 64])?;
            doubled(&numbers)?;
            Ok(Response::text(numbers.read()?.iter().sum::<u32>().to_string()))
        }
        "/both" => {
            let numbers = Buffer::from_slice(&[1u32; 64])?;
            doubled(&numbers)?;
            let path = request.query("path").unwrap_or_else(|| "/kernel".into());
            let answer = call(&request, "GET", &path, &[])?;
            doubled(&numbers)?;
            let own = numbers.read()?.iter().sum::<u32>();
            Ok(Response::text(format!("{own} {}", String::from_utf8_lossy(answer.body()))))
        }
        "/seen" => {
            let line = |name: &&str| format!("{name}={}\n", request.header(name).unwrap_or("-"));
            let host = request.authority().unwrap_or("-");
            Ok(Response::text(format!("host={host}\n{}", SEEN.iter().map(line).collect::<String>())))
        }
        "/echo" => Ok(Response::bytes("application/octet-stream", request.body())),
        "/parts" => {
            let (count, every_ms) = (number(&request, "n", 3), number(&request, "every_ms", 10));
            Ok(Response::stream("text/plain", move |body| {
                for part in 1..=count {
                    std::thread::sleep(Duration::from_millis(every_ms));
                    body.write(format!("{part}\n").as_bytes())?;
                }
                Ok(())
            }))
        }
        "/wait" => {
            std::thread::sleep(Duration::from_millis(number(&request, "ms", 100)));
            Ok(Response::text("waited"))
        }
        _ => Err(Error::new(404, "there is no such path")),
    }
}
