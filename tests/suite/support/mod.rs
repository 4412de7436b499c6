//! Starts a server to test against, and sends requests to it: over HTTP, as raw bytes or with the command line.

pub mod jobs;
pub mod ledger;
pub mod receiver;

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The key of a development server.
pub const KEY: &str = "gnt_dev_local";
/// Timeout for every wait in these tests.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The path of the binary under test: in the folder above that of the test's binary.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().unwrap().parent().unwrap().join("gannet")
}

/// The path of a prebuilt component.
pub fn prebuilt(name: &str) -> PathBuf {
    root().join("functions/prebuilt").join(format!("{name}.wasm"))
}

/// A running server with its own data folder. It is killed when it is dropped or when the tests end.
pub struct Server {
    child: Mutex<Child>,
    pub url: String,
    pub address: SocketAddr,
    pub data: PathBuf,
    _folder: Option<TempDir>,
}

/// The head, the body and the trailers of a response.
pub type Http2Response = (hyper::http::response::Parts, bytes::Bytes, hyper::HeaderMap);

/// How a server is started.
#[derive(Default)]
pub struct Options<'a> {
    pub data: Option<&'a Path>,
    pub config: Option<&'a str>,
    pub not_dev: bool,
    /// A command that runs the server, such as a tracer with its arguments. Empty to run the server directly.
    pub under: &'a [&'a str],
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&Options::default())
    }

    pub fn start_with(options: &Options<'_>) -> Self {
        let folder = options.data.is_none().then(|| TempDir::new().unwrap());
        let data = options.data.map(Path::to_owned).or(folder.as_ref().map(|f| f.path().to_owned())).unwrap();
        let mut line: Vec<String> = options.under.iter().map(ToString::to_string).collect();
        line.extend([binary().display().to_string(), "serve".into(), "--listen".into(), "127.0.0.1:0".into()]);
        line.extend(["--data".into(), data.display().to_string()]);
        if !options.not_dev {
            line.push("--dev".into());
        }
        if let Some(text) = options.config {
            let path = data.with_extension("toml");
            std::fs::write(&path, text).unwrap();
            line.extend(["--config".into(), path.display().to_string()]);
        }
        let (child, log) = spawn(line);
        let url = log.recv_timeout(WAIT_MAX).expect("the server did not report that it listens");
        let address = url.split_once("://").unwrap().1.parse().unwrap();
        Self { child: Mutex::new(child), url, address, data, _folder: folder }
    }

    /// One server for all tests that do not change its state. Most example functions are deployed.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| {
            let server = Self::start();
            for name in ["hello", "blur", "matmul", "mandelbrot", "stream", "wgsl", "faulty"] {
                server.deploy(name);
            }
            server
        })
    }

    /// Deploys one of the repository's functions with its manifest.
    pub fn deploy(&self, name: &str) {
        let folder = root().join("functions").join(name).display().to_string();
        let output = self.cli(&["deploy", &folder, "--no-build"]);
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
    }

    /// Deploys `lookup`, the function that reads an asset.
    pub fn deploy_with_asset(&self, asset: &str) {
        let deployed = self.put(KEY, "lookup", "lookup", &format!("[assets]\ntable = {asset:?}\n"), "");
        assert!(deployed.status < 300, "{}", deployed.text());
    }

    /// Sends bytes and closes the connection without waiting for a response.
    pub fn send_and_close(&self, bytes: &[u8]) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Runs the command line against the server, as the development tenant.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_as(KEY, arguments)
    }

    pub fn cli_as(&self, key: &str, arguments: &[&str]) -> Output {
        Command::new(binary()).args(arguments).env("GANNET_SERVER", &self.url).env("GANNET_KEY", key).output().unwrap()
    }

    /// Sends a request with the development key.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut all = vec![("x-gannet-key", KEY)];
        all.extend(headers);
        self.send_bare(method, path, &all, body)
    }

    /// Sends a request with only the given headers.
    pub fn send_bare(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.try_send(method, path, headers, body).expect("no answer")
    }

    /// Like [`Self::send_bare`], for a server that may be killed in between. Returns None if no response arrives; the
    /// body may still be an error.
    pub fn try_send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Response> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(WAIT_MAX))
            .build()
            .into();
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response =
            if body.is_empty() { agent.run(request.body(()).unwrap()) } else { agent.run(request.body(body).unwrap()) };
        let mut response = response.ok()?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.body_mut().with_config().limit(1 << 30).read_to_vec();
        Some(Response { status, headers, body })
    }

    /// Sends a signal to the server.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let child = self.child.lock().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
    }

    /// Returns the operator's key of a server without `--dev`.
    pub fn operator(&self) -> String {
        std::fs::read_to_string(self.data.join("operator.key")).unwrap().trim().to_owned()
    }

    /// Sends a request to the control API with a key and a JSON body. `Null` sends no body.
    pub fn control(&self, key: &str, method: &str, path: &str, body: &Value) -> Response {
        let headers = [("x-gannet-key", key), ("content-type", "application/json")];
        let text = if body.is_null() { String::new() } else { body.to_string() };
        self.send_bare(method, &format!("/api/v1/{path}"), &headers, text.as_bytes())
    }

    /// Creates a tenant and returns its key.
    pub fn tenant(&self, name: &str, limits: &Value) -> String {
        let new = serde_json::json!({ "name": name, "limits": limits });
        let made = self.control(&self.operator(), "POST", "tenants", &new);
        assert_eq!(made.status, 201, "{}", made.text());
        made.json()["key"].as_str().unwrap().to_owned()
    }

    /// Deploys a prebuilt component under a name, with a manifest.
    pub fn put(&self, key: &str, component: &str, name: &str, manifest: &str, query: &str) -> Response {
        self.put_bytes(key, &std::fs::read(prebuilt(component)).unwrap(), name, manifest, query)
    }

    /// Deploys a component that is not among the prebuilt ones.
    pub fn put_bytes(&self, key: &str, component: &[u8], name: &str, manifest: &str, query: &str) -> Response {
        let mut body = format!(
            "--b\r\ncontent-disposition: form-data; name=\"manifest\"\r\n\r\n{manifest}\r\n--b\r\ncontent-disposition: form-data; name=\"component\"; filename=\"c\"\r\n\r\n"
        )
        .into_bytes();
        body.extend_from_slice(component);
        body.extend_from_slice(b"\r\n--b--\r\n");
        let headers = [("x-gannet-key", key), ("content-type", "multipart/form-data; boundary=b")];
        self.send_bare("PUT", &format!("/api/v1/functions/{name}{query}"), &headers, &body)
    }

    /// Calls a path with a key: with GET, or with POST if there is a body.
    pub fn call_as(&self, key: &str, path: &str, body: &[u8]) -> Response {
        let method = if body.is_empty() { "GET" } else { "POST" };
        self.send_bare(method, path, &[("x-gannet-key", key)], body)
    }

    /// Calls a function of the development tenant: with GET, or with POST if there is a body.
    pub fn call(&self, function: &str, path: &str, body: &[u8]) -> Response {
        let method = if body.is_empty() { "GET" } else { "POST" };
        self.send(method, &format!("/f/dev/{function}{path}"), &[], body)
    }

    pub fn get_json(&self, path: &str) -> Value {
        let answer = self.send("GET", path, &[], b"");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Returns the receipt of a request that got a response.
    pub fn receipt(&self, answer: &Response) -> Value {
        self.get_json(&format!("/api/v1/requests/{}", answer.header("x-request-id")))
    }

    /// Returns a value from `/metrics`.
    pub fn metric(&self, name: &str) -> u64 {
        let key = std::fs::read_to_string(self.data.join("operator.key")).unwrap_or_default();
        let answer = self.send_bare("GET", "/metrics", &[("x-gannet-key", key.trim())], b"");
        let text = answer.text();
        let line =
            text.lines().find(|line| line.starts_with(&format!("gannet_{name} "))).unwrap_or_else(|| panic!("{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Sends bytes as they are, and reads until the server closes the connection or sends nothing for 20 s.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        text(&answer)
    }

    /// Sends requests without a body over one HTTP/2 connection, with the development key. Returns the head, the body and
    /// the trailers of each response.
    pub fn over_http_2(&self, method: &str, paths: &[&str]) -> Vec<Http2Response> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
            let builder = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            let (mut sender, connection) = builder.handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let mut responses = Vec::new();
            for path in paths {
                let request = hyper::Request::builder().method(method).uri(format!("{}{path}", self.url));
                let request = request.header("x-gannet-key", KEY);
                let request = request.body(http_body_util::Full::new(bytes::Bytes::new())).unwrap();
                let (head, body) = sender.send_request(request).await.unwrap().into_parts();
                let collected = http_body_util::BodyExt::collect(body).await.unwrap();
                let trailers = collected.trailers().cloned().unwrap_or_default();
                responses.push((head, collected.to_bytes(), trailers));
            }
            responses
        })
    }

    /// Kills the server with SIGKILL, so that it cannot clean up.
    pub fn kill(&self) {
        // A traced server is a child of the tracer and would survive it.
        for traced in self.children("serve") {
            if let Some(pid) = rustix::process::Pid::from_raw(traced) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Sends SIGTERM, waits for the server to exit, and returns its exit code.
    pub fn terminate(&self) -> Option<i32> {
        let mut child = self.child.lock().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        child.wait().unwrap().code()
    }

    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// Returns the process ids of the server's running children whose command line contains `verb`.
    pub fn children(&self, verb: &str) -> Vec<i32> {
        let parent = self.pid();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let alive = fields.first().is_some_and(|state| *state != "Z");
            if alive && fields.get(1) == Some(&parent.to_string().as_str()) && text(&line).contains(verb) {
                found.push(pid);
            }
        }
        found
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a server from a thread that lives as long as all tests. The parent-death signal is sent when the thread that
/// started the process ends, so a server that a test's own thread started would be killed when that test ends.
fn spawn(line: Vec<String>) -> (Child, mpsc::Receiver<String>) {
    type Order = (Vec<String>, mpsc::Sender<(Child, mpsc::Receiver<String>)>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (line, answer) in receiver {
                let mut child = Command::new("setpriv")
                    .args(["--pdeathsig", "KILL"])
                    .args(&line)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .expect("setpriv of util-linux starts the server");
                let log = std::io::BufReader::new(child.stderr.take().unwrap());
                let (urls, found) = mpsc::channel();
                std::thread::spawn(move || {
                    for line in std::io::BufRead::lines(log).map_while(Result::ok) {
                        if let Some(url) = line.strip_prefix("listening on ") {
                            let _ = urls.send(url.to_owned());
                        }
                        if std::env::var_os("GANNET_TEST_LOG").is_some() {
                            eprintln!("{line}");
                        }
                    }
                });
                let _ = answer.send((child, found));
            }
        });
        Mutex::new(sender)
    });
    let (sender, receiver) = mpsc::channel();
    spawner.lock().unwrap().send((line, sender)).unwrap();
    receiver.recv().unwrap()
}

/// A response, with its body or the error that cut it off.
pub struct Response {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: Result<Vec<u8>, ureq::Error>,
}

impl Response {
    pub fn bytes(&self) -> &[u8] {
        self.body.as_ref().expect("the body broke off")
    }

    pub fn text(&self) -> String {
        text(self.bytes())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(self.bytes()).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Returns the value of a header, or an empty string.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Checks that this is an error response of Gannet itself (problem details) with this status and code, and that its
    /// detail contains `part`.
    #[track_caller]
    pub fn is_problem(&self, status: u16, code: &str, part: &str) {
        let body = self.text();
        assert_eq!(self.status, status, "{body}");
        assert_eq!(self.header("x-gannet-error"), code, "{body}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["code"], code);
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        assert!(problem["detail"].as_str().unwrap().contains(part), "{body}");
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Polls `condition` until it holds. Panics after [`WAIT_MAX`].
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < WAIT_MAX, "it never happened: {what}");
        std::thread::yield_now();
    }
}
