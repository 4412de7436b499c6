//! Key-value storage of functions (`wasi:keyvalue`): whose it is, what is durable, and its limits.

use crate::sharing::ticks;
use crate::support::{KEY, Options, Response, Server, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use tempfile::TempDir;

fn start(data: &Path) -> Server {
    Server::start_with(&Options { data: Some(data), config: Some("spares = 0"), not_dev: true, ..Options::default() })
}

/// A server of its own, for the development tenant, with `faulty` as `f`.
fn dev_server() -> Server {
    let server = Server::start_with(&Options { config: Some("spares = 0"), ..Options::default() });
    assert_eq!(server.put(KEY, "faulty", "f", "", "").status, 201);
    server
}

/// Asks a function for key-value storage.
fn kv(server: &Server, query: &str, body: &[u8]) -> Response {
    server.call("f", &format!("/kv?{query}"), body)
}

#[track_caller]
fn said(server: &Server, query: &str, body: &[u8]) -> String {
    let answer = kv(server, query, body);
    assert_eq!(answer.status, 200, "{query}: {}", answer.text());
    answer.text()
}

/// Checks that a call is an error for the guest, which tells why.
#[track_caller]
fn refused(answer: &Response, part: &str) {
    assert!(answer.status == 500 && answer.text().contains(part), "{} {}", answer.status, answer.text());
}

#[test]
fn functions_of_a_tenant_share_buckets_and_other_tenants_see_nothing() {
    let folder = TempDir::new().unwrap();
    let server = start(folder.path());
    let (acme, zoo) = (server.tenant("acme", &json!({})), server.tenant("zoo", &json!({})));
    for (key, name) in [(&acme, "one"), (&acme, "two"), (&zoo, "one")] {
        assert_eq!(server.put(key, "faulty", name, "", "").status, 201);
    }
    let ask = |key: &str, function: &str, query: &str, body: &[u8]| {
        server.call_as(key, &format!("/f/{function}/kv?{query}"), body)
    };
    let value: Vec<u8> = (0..=255).collect();
    let odd = "doc%2F7%20%C3%A4%F0%9F%A6%80%00";
    assert_eq!(ask(&acme, "acme/one", &format!("op=set&bucket=b&key={odd}"), &value).status, 200);
    let read = ask(&acme, "acme/two", &format!("op=get&bucket=b&key={odd}"), b"");
    assert_eq!((read.status, read.bytes()), (200, &value[..]));
    assert_eq!(ask(&acme, "acme/two", "op=keys&bucket=b", b"").text(), "doc/7 \u{e4}\u{1f980}\0");
    assert_eq!(ask(&zoo, "zoo/one", &format!("op=get&bucket=b&key={odd}"), b"").status, 404);
    assert_eq!(ask(&zoo, "zoo/one", "op=keys&bucket=b", b"").text(), "");
    assert_eq!(ask(&acme, "acme/one", &format!("op=exists&bucket=c&key={odd}"), b"").text(), "false", "another bucket");
    // The bucket without a name is the default one.
    assert_eq!(ask(&acme, "acme/one", "op=set&key=k", b"v").status, 200);
    assert_eq!(ask(&acme, "acme/two", "op=get&bucket=default&key=k", b"").text(), "v");
    assert_eq!(ask(&acme, "acme/one", "op=delete&key=k", b"").text(), "deleted");
    assert_eq!(ask(&acme, "acme/one", "op=delete&key=k", b"").text(), "deleted", "also if there is none");
    assert_eq!(ask(&acme, "acme/two", "op=get&key=k", b"").status, 404);
    // A deleted tenant's storage goes with it, and others keep theirs.
    assert_eq!(ask(&zoo, "zoo/one", "op=set&key=k", b"zoo's").status, 200);
    assert_eq!(server.control(&server.operator(), "DELETE", "tenants/acme", &Value::Null).status, 200);
    assert_eq!(ask(&zoo, "zoo/one", "op=get&key=k", b"").text(), "zoo's");
    assert_eq!(server.terminate(), Some(0));
    let server = start(folder.path());
    assert_eq!(server.call_as(&zoo, "/f/zoo/one/kv?op=get&key=k", b"").text(), "zoo's");
}

#[test]
fn batches_change_all_of_their_keys_and_a_list_has_each_key_once() {
    let server = dev_server();
    for part in 0..7 {
        said(&server, &format!("op=fill&key={part}/&count=100&bytes=10"), b"");
    }
    let mut wanted: Vec<String> = (0..7).flat_map(|part| (0..100).map(move |n| format!("{part}/{n}"))).collect();
    wanted.sort();
    assert_eq!(said(&server, "op=keys", b"").lines().collect::<Vec<_>>(), wanted);
    assert_eq!(said(&server, "op=read&key=3/&count=3", b""), "10 10 10");
    said(&server, "op=clear&key=3/&count=100", b"");
    assert_eq!(said(&server, "op=read&key=3/&count=3", b""), "- - -");
    assert_eq!(said(&server, "op=keys", b"").lines().count(), 600);
}

#[test]
fn what_is_no_name_key_value_or_number_is_an_error_that_says_why() {
    let server = dev_server();
    for bucket in ["a%2Fb", "a%20b", "%C3%A4", &"x".repeat(65)] {
        refused(&kv(&server, &format!("op=get&bucket={bucket}&key=k"), b""), "1 to 64 printable ASCII characters");
    }
    refused(&kv(&server, "op=set&key=", b"v"), "a key of 0 bytes; it may have 1 to 512");
    refused(&kv(&server, "op=set&key_bytes=513", b"v"), "a key of 513 bytes; it may have 1 to 512");
    assert_eq!(said(&server, "op=set&key_bytes=512", b"v"), "set");
    refused(&kv(&server, "op=set&key=k", &vec![0; (256 << 10) + 1]), "a value of 262145 bytes; the limit is 262144");
    assert_eq!(said(&server, "op=set&key=k", &vec![0; 256 << 10]), "set");
    refused(&kv(&server, "op=fill&key=k&count=101&bytes=1", b""), "a batch of 101 keys; the limit is 100");
    refused(&kv(&server, "op=fill&key=k&count=5&bytes=262144", b""), "the limit is 1048576");
    for n in 0..5 {
        said(&server, &format!("op=set&key=large{n}"), &vec![0; 256 << 10]);
    }
    assert_eq!(said(&server, "op=read&key=large&count=4", b""), ["262144"; 4].join(" "));
    refused(&kv(&server, "op=read&key=large&count=5", b""), "more than 1048576 bytes together");
    refused(&kv(&server, "op=add&key=k&by=1", b""), "no whole number");
    said(&server, "op=set&key=n", u64::MAX.to_string().as_bytes());
    refused(&kv(&server, "op=add&key=n&by=1", b""), "2^64 or more");
    assert_eq!(said(&server, "op=get&key=n", b""), u64::MAX.to_string());
}

#[test]
fn limits_of_a_tenant_hold_exactly_also_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let server = start(folder.path());
    let key = server.tenant("acme", &json!({ "keyvalue_keys": 4, "keyvalue_mib": 1 }));
    assert_eq!(server.put(&key, "faulty", "f", "", "").status, 201);
    let ask = |server: &Server, query: &str, body: &[u8]| server.call_as(&key, &format!("/f/acme/f/kv?{query}"), body);
    // A key counts for its name, its value and 128 bytes.
    let last = (1 << 20) - 3 * (256 << 10) - 4 * 129;
    for name in ["a", "b", "c"] {
        assert_eq!(ask(&server, &format!("op=set&key={name}"), &vec![0; 256 << 10]).status, 200);
    }
    refused(&ask(&server, "op=set&key=d", &vec![0; last + 1]), "keyvalue_mib = 1, 786819 bytes are in use");
    assert_eq!(ask(&server, "op=exists&key=d", b"").text(), "false", "nothing of it is kept");
    assert_eq!(ask(&server, "op=set&key=d", &vec![0; last]).status, 200);
    let check = |server: &Server| {
        refused(&ask(server, "op=set&key=e", b"1"), "keyvalue_keys = 4, and 4 are in use");
        refused(&ask(server, "op=set&key=d", &vec![0; last + 1]), "keyvalue_mib = 1, 1048576 bytes are in use");
        assert_eq!(ask(server, "op=set&key=d", &vec![1; last]).status, 200, "what does not grow is written");
        let limits = server.control(&key, "GET", "limits", &Value::Null).json();
        let of = |part: &str, name: &str| limits[part][name].as_u64();
        assert_eq!((of("used", "keyvalue_keys"), of("limits", "keyvalue_keys")), (Some(4), Some(4)), "{limits}");
        assert_eq!((of("used", "keyvalue_mib"), of("limits", "keyvalue_mib")), (Some(1), Some(1)), "{limits}");
    };
    check(&server);
    server.kill();
    let server = start(folder.path());
    check(&server);
    assert_eq!(ask(&server, "op=delete&key=a", b"").status, 200);
    assert_eq!(ask(&server, "op=set&key=e", b"1").status, 200, "what is deleted is free again");
    // A limit that is lowered takes nothing away, and lets what is there shrink.
    let lowered = json!({ "keyvalue_keys": 0, "keyvalue_mib": 0 });
    let operator = server.operator();
    assert_eq!(server.control(&operator, "PATCH", "tenants/acme/limits", &lowered).status, 200);
    refused(&ask(&server, "op=set&key=f", b"1"), "keyvalue_keys = 0");
    assert_eq!(ask(&server, "op=set&key=b", b"1").status, 200);
    assert_eq!(ask(&server, "op=get&key=c", b"").bytes().len(), 256 << 10);
}

#[test]
fn increments_at_once_add_up_and_what_was_acknowledged_survives_a_kill() {
    let folder = TempDir::new().unwrap();
    let server = start(folder.path());
    let key = server.tenant("acme", &json!({}));
    assert_eq!(server.put(&key, "faulty", "f", "[limits]\nconcurrency = 32\n", "").status, 201);
    let path = |query: &str| format!("/f/acme/f/kv?{query}");
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                (0..25).for_each(|_| assert_eq!(server.call_as(&key, &path("op=add&key=n&by=2"), b"").status, 200))
            });
        }
    });
    assert_eq!(server.call_as(&key, &path("op=get&key=n"), b"").text(), "400");
    let (sent, added) = (AtomicU64::new(0), AtomicU64::new(0));
    let headers = [("x-gannet-key", key.as_str())];
    let kept: Vec<String> = thread::scope(|scope| {
        let client = |client: usize| {
            let (headers, sent, added, server, path) = (&headers, &sent, &added, &server, &path);
            scope.spawn(move || {
                let mut kept = Vec::new();
                for n in 0.. {
                    sent.fetch_add(1, Ordering::Relaxed);
                    let answer = server.try_send("GET", &path("op=add&key=m&by=1"), headers, b"");
                    if answer.is_none_or(|answer| answer.status != 200) {
                        return kept;
                    }
                    added.fetch_add(1, Ordering::Relaxed);
                    let name = format!("{client}-{n}");
                    let answer =
                        server.try_send("POST", &path(&format!("op=set&key={name}")), headers, name.as_bytes());
                    if answer.is_none_or(|answer| answer.status != 200) {
                        return kept;
                    }
                    kept.push(name);
                }
                kept
            })
        };
        let clients: Vec<_> = (0..6).map(client).collect();
        wait_until("the clients are at work", || added.load(Ordering::Relaxed) > 60);
        server.kill();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let server = start(folder.path());
    let number: u64 = server.call_as(&key, &path("op=get&key=m"), b"").text().parse().unwrap();
    let (sent, added) = (sent.into_inner(), added.into_inner());
    assert!((added..=sent).contains(&number), "{added} were acknowledged, {sent} sent, {number} are there");
    for name in &kept {
        assert_eq!(server.call_as(&key, &path(&format!("op=get&key={name}")), b"").text(), *name);
    }
    assert!(kept.len() > 10, "{}", kept.len());
}

#[test]
fn a_guest_without_a_request_has_no_storage() {
    let server = Server::start_with(&Options { config: Some("spares = 0"), ..Options::default() });
    let manifest = "[build]\nsnapshot = true\n[env]\nINIT = \"kv\"\n";
    server.put(KEY, "faulty", "f", manifest, "").is_problem(422, "init_failed", "init: there is no request yet");
    // What a guest does while it is made is its request's; an instance that was made before its request does not serve.
    assert_eq!(server.put(KEY, "faulty", "f", "[env]\nSTART = \"kv\"\n", "").status, 201);
    for _ in 0..20 {
        let answer = server.call("f", "/started", b"");
        assert!(answer.text().starts_with("1 true "), "{}", answer.text());
    }
    let counted: u64 = said(&server, "op=get&key=starts", b"").parse().unwrap();
    assert_eq!(counted, 21, "once for each request, this one too");
}

#[test]
fn a_request_that_has_only_read_is_repeated_when_its_worker_is_killed() {
    let server = dev_server();
    server.deploy("documents");
    let chunk = json!(["x".repeat(8_000), []]).to_string();
    for n in 0..300 {
        said(&server, &format!("bucket=documents&op=set&key=chunk/{n}/x"), chunk.as_bytes());
    }
    let search = || server.call("documents", "/search?count=1&q=x", b"");
    // It reads for most of its time. Each kill comes later than the one before.
    for worked in [10, 20, 40] {
        assert_eq!(search().status, 200);
        wait_until("one worker is there", || server.children("__worker").len() == 1);
        let worker = server.children("__worker")[0];
        let before = ticks(worker);
        let answer = thread::scope(|scope| {
            let searching = scope.spawn(search);
            wait_until("it reads", || ticks(worker) > before + worked || searching.is_finished());
            if !searching.is_finished() {
                kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL).unwrap();
                wait_until("it is gone", || !server.children("__worker").contains(&worker));
            }
            searching.join().unwrap()
        });
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[test]
fn documents_are_searchable_when_a_batch_has_put_them_into_storage() {
    let server = Server::start();
    server.deploy("documents");
    let about = |topic: &str, sentence: &str| json!({ "id": topic, "text": format!("{sentence} ").repeat(40) });
    let texts = [
        ("animals/birds", "The gannet is a large white seabird that dives into the ocean for fish."),
        ("cooking", "Stir the onions in butter until golden, then add flour and stock to the soup."),
        ("computing", "A graphics processor multiplies matrices with thousands of threads at once."),
    ];
    let inputs: Vec<Value> = texts.iter().map(|(topic, sentence)| about(topic, sentence)).collect();
    let ask = |method: &str, path: &str, body: &Value| {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let answer = server.send(method, &format!("/v2/documents/{path}"), &[], text.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer
    };
    let made = ask("POST", "batches", &json!({ "inputs": inputs })).json();
    let id = made["id"].as_str().unwrap();
    wait_until("the batch has ended", || {
        ask("GET", &format!("batches/{id}"), &Value::Null).json()["status"] == "COMPLETED"
    });
    let results = ask("GET", &format!("batches/{id}/results"), &Value::Null).text();
    let first: Value = serde_json::from_str(results.lines().next().unwrap()).unwrap();
    assert_eq!((&first["status"], &first["output"]["id"]), (&json!("COMPLETED"), &json!("animals/birds")), "{results}");
    let chunks = first["output"]["chunks"].as_u64().unwrap();
    assert!(chunks > 3, "{results}");
    let search = |query: &str| {
        let answer = server.call("documents", &format!("/search?count=2&q={query}"), b"");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    for (query, topic) in [
        ("seabirds+diving+for+fish", "animals/birds"),
        ("onion+soup", "cooking"),
        ("matrix+multiplying+threads", "computing"),
    ] {
        let found = search(query);
        let key = found["nearest"][0]["key"].as_str().unwrap();
        assert!(key.starts_with("chunk/") && key.ends_with(&format!("/{topic}")), "{query}: {found}");
        // The length of a vector is 1, so it is a cosine.
        let score = found["nearest"][0]["score"].as_f64().unwrap();
        assert!((0.1..1.0).contains(&score), "{found}");
    }
    // The same document again, with less text, leaves nothing of the longer one.
    let shorter = json!({ "input": { "id": "animals/birds", "text": "Gannets dive." } });
    let job = ask("POST", "runsync", &shorter).json();
    assert_eq!(job["output"], json!({ "id": "animals/birds", "chunks": 1 }), "{job}");
    let found = search("gannets");
    assert_eq!(
        found["nearest"][0],
        json!({ "key": "chunk/0/animals/birds", "score": found["nearest"][0]["score"], "text": "Gannets dive." })
    );
    assert!(!found["nearest"][1]["key"].as_str().unwrap().ends_with("birds"), "{found}");
}
