//! Settings of the front door: TLS, proxies, hosts, origins, the access log, and the server's configuration file.

use crate::support::{KEY, Options, Response, Server, binary, text, wait_until};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

fn certificate(folder: &Path) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let pem = made.cert.pem();
    std::fs::write(folder.join("cert.pem"), &pem).unwrap();
    pem.into_bytes()
}

fn over_tls(url: &str, pem: &[u8], path: &str) -> Result<Response, ureq::Error> {
    let ureq::tls::PemItem::Certificate(root) = ureq::tls::parse_pem(pem).next().unwrap().unwrap() else { panic!() };
    let tls = ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::from(vec![root])).build();
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).tls_config(tls).build().into();
    let url = url.replace("127.0.0.1", "localhost");
    let mut response = agent.get(format!("{url}{path}")).header("x-gannet-key", KEY).call()?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Response { status, headers, body: response.body_mut().read_to_vec() })
}

#[test]
fn tls_works_and_a_new_certificate_needs_no_restart() {
    let folder = TempDir::new().unwrap();
    let old = certificate(folder.path());
    let config =
        format!("spares = 0\n[tls]\ncert = \"{0}/cert.pem\"\nkey = \"{0}/key.pem\"\n", folder.path().display());
    let server = Server::start_with(&Options { config: Some(&config), ..Options::default() });
    assert!(server.url.starts_with("https://"));
    assert_eq!(over_tls(&server.url, &old, "/healthz").unwrap().text(), "ok\n");
    let cli = Command::new(binary())
        .args(["deploy", &crate::support::prebuilt("hello").display().to_string()])
        .env("GANNET_SERVER", server.url.replace("127.0.0.1", "localhost"))
        .env("GANNET_KEY", KEY)
        .env("GANNET_CA_FILE", folder.path().join("cert.pem"))
        .output()
        .unwrap();
    assert!(cli.status.success(), "{}", text(&cli.stderr));
    assert!(text(&cli.stdout).contains("https://"));
    assert_eq!(over_tls(&server.url, &old, "/f/dev/hello/").unwrap().text(), "hello, world\n");
    // A guest learns how its client reached it.
    let faulty = crate::support::prebuilt("faulty").display().to_string();
    let deployed = Command::new(binary())
        .args(["deploy", &faulty])
        .env("GANNET_SERVER", server.url.replace("127.0.0.1", "localhost"))
        .env("GANNET_KEY", KEY)
        .env("GANNET_CA_FILE", folder.path().join("cert.pem"))
        .output()
        .unwrap();
    assert!(deployed.status.success(), "{}", text(&deployed.stderr));
    let origin = server.url.replace("127.0.0.1", "localhost");
    assert_eq!(over_tls(&server.url, &old, "/f/dev/faulty/origin").unwrap().text(), origin);
    std::fs::write(folder.path().join("cert.pem"), "nonsense").unwrap();
    assert_eq!(over_tls(&server.url, &old, "/healthz").unwrap().status, 200, "a bad file changes nothing");
    let new = certificate(folder.path());
    wait_until("the new certificate is used", || over_tls(&server.url, &new, "/healthz").is_ok());
    assert!(over_tls(&server.url, &old, "/healthz").is_err());
    // Bytes that are not TLS end only their own connection.
    assert!(!server.raw(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").contains("200"));
    assert_eq!(over_tls(&server.url, &new, "/healthz").unwrap().status, 200);
}

#[test]
fn only_trusted_proxies_say_where_a_request_came_from() {
    let config = "spares = 0\ntrusted_proxies = [\"127.0.0.1/32\"]\n";
    let trusting = Server::start_with(&Options { config: Some(config), ..Options::default() });
    trusting.deploy("faulty");
    let headers = [("x-forwarded-for", "6.6.6.6, 203.0.113.9"), ("x-forwarded-proto", "https")];
    let seen = trusting.send("GET", "/f/dev/faulty/echo", &headers, b"").text();
    assert!(seen.contains("x-forwarded-for=203.0.113.9\n"), "{seen}");
    let strict = Server::shared().send("GET", "/f/dev/faulty/echo", &headers, b"").text();
    assert!(strict.contains("x-forwarded-for=127.0.0.1\n"), "{strict}");
}

#[test]
fn with_a_domain_functions_answer_by_host_on_origins_of_their_own() {
    let config = "spares = 0\ndomain = \"fn.localhost\"\n";
    let server = Server::start_with(&Options { config: Some(config), not_dev: true, ..Options::default() });
    let acme = server.tenant("acme", &json!({}));
    let deployed = server.put(&acme, "faulty", "faulty", "", "");
    assert!(
        deployed.json()["url"].as_str().unwrap().starts_with("http://faulty--acme.fn.localhost:"),
        "{}",
        deployed.text()
    );
    let ask = |host: &str, path: &str| server.send_bare("GET", path, &[("host", host), ("x-gannet-key", &acme)], b"");
    let by_host = ask("faulty--acme.fn.localhost", "/headers");
    assert_eq!(by_host.text(), "mine");
    assert_eq!((by_host.header("set-cookie"), by_host.header("content-security-policy")), ("a=b", ""));
    assert_eq!(by_host.header("x-gannet-error"), "", "a function cannot set the platform's headers");
    let by_path = ask("fn.localhost", "/f/acme/faulty/headers");
    assert_eq!((by_path.header("set-cookie"), by_path.header("content-security-policy")), ("", "sandbox"));
    assert_eq!(ask("none--acme.fn.localhost", "/").status, 404);
    assert_eq!(
        ask("faulty--acme.fn.localhost", "/api/v1/whoami").text(),
        text_of_unknown(&ask("faulty--acme.fn.localhost", "/api/v1/other"))
    );
    assert_eq!(ask("other.fn.localhost", "/api/v1/whoami").status, 404, "the control API has its own host");
    assert_eq!(ask("fn.localhost", "/api/v1/whoami").status, 200);
}

fn text_of_unknown(answer: &Response) -> String {
    answer.text()
}

#[test]
fn browsers_are_let_in_by_origin_and_preflights_need_no_key() {
    let server = Server::start_with(&Options { config: Some("spares = 0"), ..Options::default() });
    let manifest = "[http]\ncors_origins = [\"https://app.example.com\"]\n";
    assert_eq!(server.put(KEY, "hello", "open", manifest, "").status, 201);
    assert_eq!(server.put(KEY, "hello", "closed", "", "").status, 201);
    let preflight = |function: &str, origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization, x-own"),
        ];
        server.send_bare("OPTIONS", &format!("/f/dev/{function}/x"), &headers, b"")
    };
    let fine = preflight("open", "https://app.example.com");
    assert_eq!((fine.status, fine.header("access-control-allow-origin")), (204, "https://app.example.com"));
    assert_eq!(fine.header("access-control-allow-methods"), "POST");
    assert_eq!(fine.header("access-control-allow-headers"), "authorization, x-own");
    // Anonymous callers must not learn whether a function that needs a key exists, or which origins it lists.
    let asked = "https://other.example.com";
    let stranger = |function: &str| {
        let answer = server.send_bare("GET", &format!("/f/dev/{function}/"), &[("origin", asked)], b"");
        (answer.status, answer.header("access-control-allow-origin").to_owned())
    };
    for function in ["open", "closed", "none"] {
        let answer = preflight(function, asked);
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, asked), "{function}");
        assert_eq!(stranger(function), (401, asked.to_owned()), "{function}");
        let answer = server.send("GET", &format!("/f/dev/{function}/"), &[("origin", asked)], b"");
        let marked = if function == "none" { asked } else { "" };
        assert_eq!(answer.header("access-control-allow-origin"), marked, "only listed origins may read its responses");
        // A cache must not give the response for one origin to another.
        assert_eq!(answer.header("vary").contains("origin"), function != "closed", "{function}");
    }
    assert_eq!(server.put(KEY, "hello", "public", &format!("{manifest}public = true\n"), "").status, 201);
    let fine = preflight("public", "https://app.example.com");
    assert_eq!((fine.status, fine.header("access-control-allow-origin")), (204, "https://app.example.com"));
    assert_eq!(preflight("public", asked).header("access-control-allow-origin"), "");
    let answer = server.send("GET", "/f/dev/open/", &[("origin", "https://app.example.com")], b"");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, "https://app.example.com"));
    assert!(answer.header("access-control-expose-headers").contains("server-timing"));
    let refused = server.send_bare("GET", "/f/dev/open/", &[("origin", "https://app.example.com")], b"");
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, "https://app.example.com"));
}

#[test]
fn the_access_log_has_a_line_for_each_request_without_query_or_key() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("access.jsonl");
    let config = format!("spares = 0\n[logs]\naccess = \"{}\"\n", path.display());
    let server = Server::start_with(&Options { config: Some(&config), ..Options::default() });
    server.deploy("faulty");
    let good = server.call("faulty", "/say?private=1", b"");
    let bad = server.call("faulty", "/trap", b"");
    let none = server.call_as("gnt_dev_wrong", "/f/dev/faulty/say", b"");
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let of = |answer: &Response| lines().into_iter().find(|line| line["id"] == answer.header("x-request-id"));
    wait_until("all lines are written", || [&good, &bad, &none].iter().all(|answer| of(answer).is_some()));
    let line = of(&good).unwrap();
    assert_eq!(
        (&line["tenant"], &line["function"], &line["status"], &line["bytes"]),
        (&json!("dev"), &json!("faulty"), &json!(200), &json!(4))
    );
    let line = of(&bad).unwrap();
    assert_eq!(
        (&line["code"], &line["fault"], &line["status"]),
        (&json!("function_trapped"), &json!("function"), &json!(502))
    );
    assert_eq!((of(&none).unwrap()["tenant"].clone(), of(&none).unwrap()["status"].clone()), (Value::Null, json!(401)));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("private") && !text.contains(KEY), "{text}");
    std::fs::rename(&path, folder.path().join("old")).unwrap();
    wait_until("a log file that was moved away is created again", || {
        server.call("faulty", "/say", b"");
        path.exists()
    });
}

#[test]
fn the_servers_file_is_checked_whole_and_reloaded_all_or_nothing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("bad.toml");
    std::fs::write(&path, "spares = 99\nlistn = 1\n[limits]\nkeys = 0\n[tls]\ncert = 1\n").unwrap();
    let check = Command::new(binary()).args(["config", "check", &path.display().to_string()]).output().unwrap();
    assert_eq!(check.status.code(), Some(2));
    let told = text(&check.stdout);
    for part in ["spares = 99; it may be 0 to 64", "nearest known one is `listen`", "limits.keys = 0", "tls.cert: "] {
        assert!(told.contains(part), "{told}");
    }
    // The files that it names are checked too.
    let named = folder.path().join("named.toml");
    let nowhere = "secrets_key_file = \"/nowhere/key\"\n[tls]\ncert = \"/nowhere/cert\"\nkey = \"/nowhere/key\"\n";
    std::fs::write(&named, nowhere).unwrap();
    let check = Command::new(binary()).args(["config", "check", &named.display().to_string()]).output().unwrap();
    let told = text(&check.stdout);
    assert_eq!(check.status.code(), Some(2), "{told}");
    assert!(
        told.contains("tls: /nowhere/cert: ")
            && told.contains("secrets_key_file: the key of the secrets: /nowhere/key: "),
        "{told}"
    );
    let serve = Command::new(binary())
        .args([
            "serve",
            "--config",
            &path.display().to_string(),
            "--data",
            &folder.path().join("d").display().to_string(),
        ])
        .output()
        .unwrap();
    assert_eq!(serve.status.code(), Some(2), "{}", text(&serve.stderr));
    assert!(text(&serve.stderr).contains("limits.keys = 0"));

    let server = Server::start_with(&Options { config: Some("spares = 0\n"), ..Options::default() });
    server.deploy("hello");
    let config = server.data.with_extension("toml");
    let limit = || server.get_json("/api/v1/limits")["limits"]["functions"].as_u64().unwrap();
    let price = || server.get_json("/api/v1/prices")["prices"][0]["price"]["cpu_micro_units_per_s"].as_u64().unwrap();
    assert_eq!((limit(), price()), (1000, 20));
    std::fs::write(&config, "spares = 1\n[limits]\nfunctions = 7\n[prices]\ncpu_micro_units_per_s = 5\n").unwrap();
    server.signal(rustix::process::Signal::HUP);
    wait_until("the new file is in effect", || (limit(), price()) == (7, 5));
    for bad in
        ["[limits]\nfunctions = 9\nkeys = 0\n", "[limits]\nfunctions = 9\n[egress]\nca_file = \"/nowhere.pem\"\n"]
    {
        std::fs::write(&config, bad).unwrap();
        server.signal(rustix::process::Signal::HUP);
        for _ in 0..50 {
            server.call("hello", "/", b"");
            assert_eq!(limit(), 7, "{bad}");
        }
    }
    std::fs::write(&config, "[limits]\nsecrets = 3\n").unwrap();
    server.signal(rustix::process::Signal::HUP);
    wait_until("the next valid file is in effect", || server.get_json("/api/v1/limits")["limits"]["secrets"] == 3);
    assert_eq!((limit(), price()), (1000, 20));
}

#[test]
fn the_control_api_can_have_an_address_of_its_own() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!("spares = 0\nadmin_listen = \"127.0.0.1:{port}\"\n");
    let server = Server::start_with(&Options { config: Some(&config), ..Options::default() });
    let admin = |path: &str| {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        agent
            .get(format!("http://127.0.0.1:{port}{path}"))
            .header("x-gannet-key", KEY)
            .call()
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!((admin("/api/v1/whoami"), admin("/metrics"), admin("/f/dev/hello/")), (200, 200, 404));
    let public = |path: &str| server.send("GET", path, &[], b"").status;
    assert_eq!((public("/api/v1/whoami"), public("/metrics"), public("/healthz")), (404, 404, 200));
}

#[test]
fn a_login_is_kept_for_its_owner() {
    let server = Server::shared();
    let home = TempDir::new().unwrap();
    let run = |arguments: &[&str], server: Option<&str>| {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .env("XDG_CONFIG_HOME", home.path())
            .env_remove("GANNET_SERVER")
            .env_remove("GANNET_KEY");
        if let Some(server) = server {
            command.args(["--server", server, "--key", KEY]);
        }
        command.output().unwrap()
    };
    assert!(run(&["login"], Some(&server.url)).status.success());
    let stored = home.path().join("gannet/login.toml");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(stored).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let who = run(&["whoami", "--json"], None);
    assert!(text(&who.stdout).contains("\"dev\""), "{}", text(&who.stderr));
    assert_eq!(run(&["whoami", "--server", "http://127.0.0.1:1"], None).status.code(), Some(3));
    assert!(run(&["logout"], None).status.success());
    assert_eq!(run(&["whoami"], None).status.code(), Some(3), "nobody is logged in");
    assert!(text(&run(&["completions", "bash"], None).stdout).contains("_gannet"));
}
