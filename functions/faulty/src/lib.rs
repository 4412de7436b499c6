//! Misbehaves on request, so that tests can check how the platform handles it. Not an example.

mod kv;

use gannet_sdk::asset::Asset;
use gannet_sdk::gpu::{Batch, Buffer, Kernel, grid_1d};
use gannet_sdk::http::{Request, Response};
use gannet_sdk::keyvalue::Bucket;
use gannet_sdk::outbound::Call;
use gannet_sdk::{Error, Result};
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::time::{Duration, SystemTime};

/// Bindings of `wasi:config`. The SDK has none, because its values are in the environment too.
mod config {
    wit_bindgen::generate!({
        inline: "
            package test:config;
            world reader { import wasi:config/store@0.2.0-rc.1; }
            package wasi:config@0.2.0-rc.1 {
                interface store {
                    variant error { upstream(string), io(string) }
                    get: func(key: string) -> result<option<string>, error>;
                    get-all: func() -> result<list<tuple<string, string>>, error>;
                }
            }
        ",
        generate_all,
    });
}

const COPY: &str = "
@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> target_: array<u32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&target_) { target_[id.x] = source[id.x]; }
}";

thread_local! {
    /// The environment and asset that `init` saw. Instances of a snapshot begin with it.
    static FOUND: RefCell<String> = const { RefCell::new(String::new()) };
    /// Number of `/found` requests that this instance has served.
    static COUNTED: Cell<u32> = const { Cell::new(0) };
    /// What [`start`] did, and when.
    static STARTED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs this many times 300,000 dependent divisions.
fn compute(times: u64) {
    let mut value = u64::MAX;
    for step in 1..=times * 300_000 {
        value = std::hint::black_box(value / std::hint::black_box(step) + u64::MAX / 2);
    }
}

/// Runs while an instance is made. Computes for a millisecond or more, and then does what the environment variable `START`
/// says. Without it nothing happens.
#[unsafe(export_name = "_initialize")]
extern "C" fn start() {
    let Ok(asked) = std::env::var("START") else { return };
    compute(1);
    let done = match asked.as_str() {
        "print" => {
            println!("printed at start");
            true
        }
        "gpu" => Buffer::<u32>::zeroed(1).is_ok(),
        "kv" => Bucket::open("").and_then(|bucket| bucket.increment("starts", 1)).is_ok(),
        "call" => Call::get(&std::env::var("TARGET").unwrap_or_default()).send().is_ok(),
        "trap" => panic!("trapped at start"),
        "loop" => loop {
            std::hint::black_box(());
        },
        "long" => {
            compute(300);
            true
        }
        "wait" => {
            std::thread::sleep(Duration::from_millis(500));
            true
        }
        "hoard" => {
            std::hint::black_box(vec![1u8; 200 << 20]);
            true
        }
        _ => true,
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    STARTED.set(format!("{done} {}", now.as_micros()));
}

/// Fails in the way that the environment variable `INIT` names, or records what it sees: `INIT`, the secret, the asset.
#[gannet_sdk::init]
fn init() -> std::result::Result<(), String> {
    let asked = std::env::var("INIT").unwrap_or_default();
    match asked.as_str() {
        "fail" => return Err("failed as asked".into()),
        "trap" => panic!("trapped as asked"),
        "print" => println!("printed as asked"),
        "loop" => loop {
            std::hint::black_box(());
        },
        "memory" => {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(vec![1; 1 << 20]);
            }
        }
        "gpu" => drop(Buffer::<u32>::zeroed(1).map_err(|error| error.to_string())?),
        "kv" => drop(Bucket::open("").map_err(|error| error.to_string())?),
        _ => {}
    }
    let table = Asset::open("table").and_then(|table| table.read(0, table.len())).unwrap_or_default();
    let secret = std::env::var("TOKEN").unwrap_or_else(|_| "no secret".into());
    FOUND.set(format!("{asked} {secret} {}", String::from_utf8_lossy(&table)));
    Ok(())
}

#[gannet_sdk::handler]
fn faulty(request: Request) -> Result<Response> {
    if request.header("content-type").is_some_and(|kind| kind.starts_with("application/grpc")) {
        return grpc(&request);
    }
    match request.path() {
        "/found" => {
            COUNTED.set(COUNTED.get() + 1);
            println!("found by request {}", COUNTED.get());
            let target = Buffer::<u32>::zeroed(16)?;
            target.write(&[7; 16])?;
            let read = target.read()?.len();
            Ok(Response::text(format!("{} {} {read}", FOUND.with_borrow(String::clone), COUNTED.get())))
        }
        "/started" => {
            COUNTED.set(COUNTED.get() + 1);
            Ok(Response::text(format!("{} {}", COUNTED.get(), STARTED.with_borrow(String::clone))))
        }
        "/trap" => panic!("trapped as asked"),
        "/loop" => loop {
            std::hint::black_box(());
        },
        "/memory" => {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(vec![1; 1 << 20]);
            }
        }
        "/exit" => std::process::exit(0),
        "/answer-and-exit" => {
            let status = request.query("status").and_then(|text| text.parse().ok()).unwrap_or(0);
            Ok(Response::text("answered").after(move || std::process::exit(status)))
        }
        "/exit-within-body" => Ok(Response::stream("text/plain", |body| {
            body.write(b"first")?;
            std::process::exit(0)
        })),
        "/go-on" => Ok(Response::text("answered").after(|| {
            std::thread::sleep(Duration::from_millis(50));
            println!("went on");
        })),
        "/stream-and-go-on" => {
            let response = Response::stream("text/plain", |body| {
                body.write(b"first")?;
                std::thread::sleep(Duration::from_millis(20));
                body.write(b"last")
            });
            Ok(response.after(|| {
                std::thread::sleep(Duration::from_millis(1_500));
                println!("went on");
            }))
        }
        "/partial" => {
            print!("{}", request.query("text").unwrap_or_default());
            let _ = std::io::stdout().flush();
            Ok(Response::text("printed"))
        }
        "/trailers" => {
            let response = Response::text(format!("x-sum={}", request.trailer("x-sum").unwrap_or("-")));
            let trailers = [("x-own", "kept"), ("set-cookie", "a=b"), ("content-length", "7"), ("x-gannet-own", "no")];
            Ok(trailers.into_iter().fold(response, |response, (name, value)| response.with_trailer(name, value)))
        }
        "/late-trailers" => Ok(Response::stream("text/plain", |body| {
            body.write(b"first")?;
            std::thread::sleep(Duration::from_millis(50));
            body.write(b"last")?;
            body.add_trailer("x-own", "kept");
            Ok(())
        })
        .with_header("trailer", "x-own, content-length")),
        "/empty" => Ok(Response::new(204).with_header("content-length", "5").with_header("x-own", "kept")),
        "/origin" => {
            let scheme = if request.is_https() { "https" } else { "http" };
            Ok(Response::text(format!("{scheme}://{}", request.authority().unwrap_or("-"))))
        }
        "/length-only" => Ok(Response::new(200).with_header("content-length", "5")),
        "/log" => {
            let line = "x".repeat(1023);
            let mib: u64 = request.query("mib").and_then(|text| text.parse().ok()).unwrap_or(1);
            for _ in 0..mib * 1024 {
                println!("{line}");
            }
            Ok(Response::text("logged"))
        }
        "/say" => {
            println!("to stdout");
            eprintln!("to stderr");
            Ok(Response::text("said"))
        }
        "/half" => Ok(Response::stream("text/plain", |body| {
            body.write(&[b'a'; 1000])?;
            std::thread::sleep(Duration::from_millis(50));
            panic!("stopped in the middle")
        })),
        "/announce" => {
            let number = |name: &str| request.query(name).and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
            let (length, sent) = (number("length"), number("sent"));
            // It exits without an error and without ending its body, so nobody compares the lengths.
            let response = Response::stream("text/plain", move |body| {
                let _ = body.write(&vec![b'a'; sent]);
                std::process::exit(0)
            });
            Ok(response.with_header("content-length", &length.to_string()))
        }
        "/silent" => Ok(Response::stream("text/plain", |body| {
            body.write(b"first")?;
            std::thread::sleep(Duration::from_secs(60));
            body.write(b"never")
        })),
        "/late" => {
            let ms = request.query("ms").and_then(|text| text.parse().ok()).unwrap_or(100);
            Ok(Response::stream("text/event-stream", move |body| {
                std::thread::sleep(Duration::from_millis(ms));
                body.write(b"data: late\n\n")
            }))
        }
        "/sleep" => {
            std::thread::sleep(Duration::from_secs(60));
            Ok(Response::text("slept"))
        }
        "/nap" => {
            let ms = request.query("ms").and_then(|text| text.parse().ok()).unwrap_or(100);
            std::thread::sleep(Duration::from_millis(ms));
            Ok(Response::text("napped"))
        }
        "/headers" => Ok(Response::text("mine")
            .with_header("x-request-id", "forged")
            .with_header("server-timing", "forged;dur=1")
            .with_header("x-gannet-error", "forged")
            .with_header("x-gannet-start", "forged")
            .with_header("set-cookie", "a=b")
            .with_header("service-worker-allowed", "/")
            .with_header("clear-site-data", "*")
            .with_header("strict-transport-security", "max-age=1")
            .with_header("nel", "{}")
            .with_header("report-to", "{}")
            .with_header("reporting-endpoints", "a=\"https://example.org\"")
            .with_header("alt-svc", "h2=\":1\"")
            .with_header("speculation-rules", "\"/x\"")
            .with_header("use-as-dictionary", "match=\"/\"")
            .with_header("accept-ch", "dpr")
            .with_header("origin-agent-cluster", "?1")
            .with_header("www-authenticate", "Basic realm=\"x\"")
            .with_header("what-comes-next-year", "1")
            .with_header("x-accel-redirect", "/secret")
            .with_header("x-sendfile", "/etc/passwd")
            .with_header("etag", "\"1\"")
            .with_header("x-own", "kept")),
        "/moved" => {
            let to = request.query("to").unwrap_or_else(|| "/".into());
            Ok(Response::text("moved").with_status(302).with_header("location", &to))
        }
        "/echo" => {
            let names = [
                "authorization",
                "x-gannet-key",
                "x-gannet-tenant",
                "x-forwarded-for",
                "x-forwarded-proto",
                "x-forwarded-prefix",
                "forwarded",
                "cookie",
                "host",
                "x-own",
                "x-secret",
                "te",
                "connection",
            ];
            let lines = names.iter().map(|name| format!("{name}={}\n", request.header(name).unwrap_or("-")));
            Ok(Response::text(format!("{} {}\n{}", request.method(), request.path(), lines.collect::<String>())))
        }
        "/env" => {
            let name = request.query("name").unwrap_or_default();
            let value = std::env::var(&name).unwrap_or_else(|_| "-".into());
            println!("{name} is {value}");
            Ok(Response::text(value))
        }
        "/config" => {
            let name = request.query("name").unwrap_or_default();
            let value =
                config::wasi::config::store::get(&name).map_err(|error| Error::new(500, format!("{error:?}")))?;
            Ok(Response::text(value.unwrap_or_else(|| "-".into())))
        }
        "/fetch" => {
            let url = request.query("url").unwrap_or_default();
            let call = match (request.query("method"), request.body()) {
                (Some(method), _) => Call::new(&method, &url),
                (None, []) => Call::get(&url),
                (None, body) => Call::post(&url, body),
            };
            let timeout = request.query("timeout_ms").and_then(|text| text.parse().ok()).map(Duration::from_millis);
            let call = timeout.map_or(call.clone(), |timeout| call.with_timeout(timeout));
            let answer = call.with_header("x-own", "kept").with_header("x-gannet-own", "dropped");
            // Only the worker may say that a request is for the platform.
            let answer = answer.with_header("x-gannet-hop-service", "1").send()?;
            let response = Response::bytes("text/plain", answer.body()).with_status(answer.status());
            let seen = ["content-length", "etag"].map(|name| answer.header(name).unwrap_or("-").to_owned());
            Ok(response.with_header("x-seen", &seen.join(" ")))
        }
        "/grpc-call" => {
            let url = request.query("url").unwrap_or_default();
            let call = Call::post(&url, grpc_message(request.body())).with_header("content-type", "application/grpc");
            let answer = call.with_header("te", "trailers").send()?;
            let message = answer.body().get(5..).map(String::from_utf8_lossy).unwrap_or_default();
            let outcome = ["grpc-status", "grpc-message"]
                .map(|name| answer.trailer(name).or(answer.header(name)).unwrap_or("-").to_owned());
            Ok(Response::text(format!("{message} {}", outcome.join(" "))))
        }
        "/class" => Ok(Response::text(gannet_sdk::gpu::device().class)),
        "/kv" => kv::answer(&request),
        "/length" => Ok(Response::text(request.body().len().to_string())),
        path if path.starts_with("/gpu/") => gpu(path),
        _ => Err(Error::new(404, "there is no such fault")),
    }
}

/// Returns a message with the prefix of gRPC: one byte that says that it is not compressed, and its length.
fn grpc_message(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// A service of gRPC: `Say` replies once, `Count` three times with pauses, and others fail.
fn grpc(request: &Request) -> Result<Response> {
    let message = request.body().get(5..).unwrap_or_default().to_vec();
    match request.path() {
        "/test.Echo/Say" => {
            let reply = [b"echo: ", message.as_slice()].concat();
            Ok(Response::bytes("application/grpc", grpc_message(&reply)).with_trailer("grpc-status", "0"))
        }
        "/test.Echo/Count" => Ok(Response::stream("application/grpc", |body| {
            for number in ["1", "2", "3"] {
                body.write(&grpc_message(number.as_bytes()))?;
                std::thread::sleep(Duration::from_millis(20));
            }
            body.add_trailer("grpc-status", "0");
            Ok(())
        })),
        _ => Ok(Response::bytes("application/grpc", [])
            .with_trailer("grpc-status", "5")
            .with_trailer("grpc-message", "not here")),
    }
}

fn gpu(path: &str) -> Result<Response> {
    let kernel = Kernel::compile(COPY, "main")?;
    let source = Buffer::<u32>::zeroed(64)?;
    let target = Buffer::<u32>::zeroed(64)?;
    let mut batch = Batch::new();
    match path {
        "/gpu/missing" => {
            batch.dispatch(&kernel, (&source,), grid_1d(64, 64))?;
        }
        "/gpu/extra" => {
            batch.dispatch(&kernel, (&source, &target, &target), grid_1d(64, 64))?;
        }
        "/gpu/small" => {
            let kernel = Kernel::compile(
                "@group(0) @binding(0) var<storage, read_write> a: array<u32, 64>; @compute @workgroup_size(1) fn main() { a[0] = 1u; }",
                "main",
            )?;
            batch.dispatch(&kernel, (&Buffer::<u32>::zeroed(16)?,), grid_1d(1, 1))?;
        }
        "/gpu/grid" => {
            batch.dispatch(&kernel, (&source, &target), gannet_sdk::gpu::Grid { x: u32::MAX, y: 1, z: 1 })?;
        }
        "/gpu/write" => target.write(&[0; 65])?,
        "/gpu/misaligned" => {
            batch.dispatch(&kernel, (source.slice(1, 8), &target), grid_1d(8, 64))?;
        }
        "/gpu/read" => drop(source.read_range(60, 8)?),
        "/gpu/quota" => drop(Buffer::<u32>::zeroed(64 << 20)?),
        "/gpu/alias" => {
            batch.dispatch(&kernel, (&source, &source), grid_1d(64, 64))?;
        }
        _ => {
            batch.dispatch(&kernel, (&source, &target), grid_1d(64, 64))?;
        }
    }
    let results = batch.submit()?.wait()?;
    Ok(Response::text(format!("{} slices", results.receipt.slices)))
}
