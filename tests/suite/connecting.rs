//! How the command line finds and trusts a server, and its errors for the files that it reads.

use crate::support::{KEY, Options, Server, binary, prebuilt, text};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).env_remove("GANNET_SERVER").env_remove("GANNET_KEY");
    command.envs(variables.iter().copied()).output().unwrap()
}

#[test]
fn errors_of_files_name_the_file_the_place_and_the_cause() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let refused = |arguments: &[&str], variables: &[(&str, &str)], parts: &[&str]| {
        let output = run(arguments, variables);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        let told = text(&output.stderr);
        assert!(parts.iter().all(|part| told.contains(part)), "{parts:?} in {told}");
    };
    let (manifest, deploy) = (path("gannet.toml"), ["deploy", folder.path().to_str().unwrap()]);
    for (text, parts) in [
        ("name = \"x\"\n[limits]\ncpu_ms = \"many\"\n", ["line 3: limits.cpu_ms: ", "expected u64"]),
        ("name = \"x\"\n[limits]\ncpu_mss = 5\n", ["unknown key `cpu_mss`", "the nearest known one is `cpu_ms`"]),
        ("name = \"x\"\n[limits\n", ["line 2: ", "unclosed table"]),
        ("name = \"x\"\n[limits]\ncpu_ms = 0\n", ["limits.cpu_ms = 0", "it may be 1 to 600000"]),
        ("name = \"x\"\n[build]\nartifact = \"none.wasm\"\n", ["build.artifact = \"none.wasm\": ", "No such file"]),
        ("name = \"x\"\n", ["has no artifact", "[build]"]),
    ] {
        write("gannet.toml", text);
        refused(&deploy, &[], &[&manifest, parts[0], parts[1]]);
    }
    std::fs::copy(prebuilt("hello"), folder.path().join("x.wasm")).unwrap();
    write("gannet.toml", "name = \"x\"\n[build]\nartifact = \"x.wasm\"\n[kernels]\nk = \"k.wgsl\"\n");
    refused(&deploy, &[], &[&manifest, "kernels.k = \"k.wgsl\": No such file"]);

    write("server.toml", "listn = \"127.0.0.1:1\"\nspares = 1000\n");
    let serve = ["serve", "--config", &path("server.toml"), "--data", &path("data")];
    refused(
        &serve,
        &[],
        &[&path("server.toml"), "unknown key `listn`; the nearest known one is `listen`", "spares = 1000"],
    );

    std::fs::create_dir(folder.path().join("gannet")).unwrap();
    write("gannet/login.toml", "server = 5\nkey = \"gnt_secret\"\n");
    let home = [("XDG_CONFIG_HOME", folder.path().to_str().unwrap())];
    refused(&["list"], &home, &[&path("gannet/login.toml"), "line 1: ", "`gannet logout` removes the file"]);
    assert!(run(&["logout"], &home).status.success());
    assert_eq!(run(&["list", "--server", "http://127.0.0.1:1"], &home).status.code(), Some(3), "nobody answers there");
}

/// Writes a key and a certificate as `openssl req -x509` makes them: it is a CA, and signed by itself.
fn self_signed(folder: &Path, host: &str) {
    let mut made = CertificateParams::new(vec![host.to_owned()]).unwrap();
    made.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    std::fs::write(folder.join("cert.pem"), made.self_signed(&key).unwrap().pem()).unwrap();
}

#[test]
fn a_usual_self_signed_certificate_is_trusted_and_functions_are_found() {
    let [folder, other] = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    self_signed(folder.path(), "localhost");
    self_signed(other.path(), "localhost");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let shown = folder.path().display();
    let config = format!(
        "spares = 0\nadmin_listen = \"127.0.0.1:{port}\"\n[tls]\ncert = \"{shown}/cert.pem\"\nkey = \"{shown}/key.pem\"\n"
    );
    let server = Server::start_with(&Options { config: Some(&config), ..Options::default() });
    let url = format!("https://localhost:{port}");
    let cli = |arguments: &[&str], url: &str, trusted: &Path| {
        let file = trusted.join("cert.pem").display().to_string();
        run(arguments, &[("GANNET_SERVER", url), ("GANNET_KEY", KEY), ("GANNET_CA_FILE", &file)])
    };
    let component = prebuilt("hello").display().to_string();
    let deployed = cli(&["deploy", &component], &url, folder.path());
    assert!(deployed.status.success(), "{}", text(&deployed.stderr));
    // The functions have another address, which the server returns. Its certificate does not contain that address.
    let by_address = cli(&["invoke", "hello"], &url, folder.path());
    assert_eq!(by_address.status.code(), Some(3), "{}", text(&by_address.stderr));
    let told = server.url.replace("127.0.0.1", "localhost");
    let reloaded = format!("public_url = \"{told}\"\n{config}");
    std::fs::write(server.data.with_extension("toml"), reloaded).unwrap();
    server.signal(rustix::process::Signal::HUP);
    crate::support::wait_until("the public URL is told", || {
        let invoked = cli(&["invoke", "hello"], &url, folder.path());
        text(&invoked.stdout) == "hello, world\n"
    });
    // Another certificate of the same kind, another host, and no file at all.
    assert_eq!(cli(&["list"], &url, other.path()).status.code(), Some(3));
    let elsewhere = url.replace("localhost", "127.0.0.1");
    assert_eq!(cli(&["list"], &elsewhere, folder.path()).status.code(), Some(3));
    assert_eq!(run(&["list"], &[("GANNET_SERVER", &url), ("GANNET_KEY", KEY)]).status.code(), Some(3));
}

#[test]
fn invoke_works_where_the_control_api_has_its_own_address() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!("spares = 0\nadmin_listen = \"127.0.0.1:{port}\"\n");
    let server = Server::start_with(&Options { config: Some(&config), ..Options::default() });
    let url = format!("http://127.0.0.1:{port}");
    let cli = |arguments: &[&str]| run(arguments, &[("GANNET_SERVER", &url), ("GANNET_KEY", KEY)]);
    let deployed = cli(&["deploy", &prebuilt("hello").display().to_string()]);
    assert!(deployed.status.success(), "{}", text(&deployed.stderr));
    let invoked = cli(&["invoke", "hello", "--tenant", "dev"]);
    assert_eq!(text(&invoked.stdout), "hello, world\n", "{}", text(&invoked.stderr));
    drop(server);
}
