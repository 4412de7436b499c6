//! Schedules, in manifests and by API: when they fire, that they fire once, and what they refuse.

use crate::support::{KEY, Options, Response, Server, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Deploys `task` with these schedules.
fn deploy(server: &Server, schedules: &str) -> Response {
    server.put(KEY, "task", "task", &format!("[jobs]\nretries = 0\n{schedules}"), "")
}

fn ask(server: &Server, method: &str, path: &str, body: &Value) -> Response {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    server.send(method, &format!("/v2/task/{path}"), &[], text.as_bytes())
}

/// Returns a schedule as the list shows it.
fn listed(server: &Server, name: &str) -> Value {
    let all = ask(server, "GET", "schedules", &Value::Null).json();
    let found = all["schedules"].as_array().unwrap().iter().find(|schedule| schedule["name"] == name);
    found.unwrap_or_else(|| panic!("{name}: {all}")).clone()
}

fn run(server: &Server, name: &str) -> Value {
    let answer = ask(server, "POST", &format!("schedules/{name}/run"), &Value::Null);
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("IN_QUEUE")), "{}", answer.text());
    answer.json()
}

fn ended(server: &Server, id: &Value) -> Value {
    let id = id.as_str().unwrap();
    loop {
        let answer = ask(server, "GET", &format!("status-sync/{id}?wait=20000"), &Value::Null).json();
        if !matches!(answer["status"].as_str(), Some("IN_QUEUE" | "IN_PROGRESS")) {
            return answer;
        }
    }
}

#[test]
fn a_schedule_of_a_manifest_runs_the_function_with_its_input_at_its_path() {
    let server = Server::start();
    server.deploy("nightly");
    let all = server.send("GET", "/v2/nightly/schedules", &[], b"").json();
    let (report, tidy) = (&all["schedules"][0], &all["schedules"][1]);
    assert_eq!(
        (&report["name"], &report["source"], &report["timezone"]),
        (&json!("report"), &json!("manifest"), &json!("Europe/Berlin"))
    );
    let next = report["next"].as_str().unwrap();
    assert!(next.ends_with("T00:30:00Z") || next.ends_with("T01:30:00Z") || next.ends_with("T01:00:00Z"), "{report}");
    assert!(tidy["next"].as_str().unwrap().ends_with(":00:00Z") && tidy["last_job"].is_null(), "{tidy}");
    for (name, key) in [("report", "mean"), ("tidy", "before")] {
        let started = server.send("POST", &format!("/v2/nightly/schedules/{name}/run"), &[], b"").json();
        let id = started["id"].as_str().unwrap();
        let mut done = Value::Null;
        wait_until("the job has ended", || {
            done = server.send("GET", &format!("/v2/nightly/status/{id}"), &[], b"").json();
            done["status"] == "COMPLETED" || done["status"] == "FAILED"
        });
        assert_eq!(
            (&done["status"], &done["schedule"], &done["output"]["schedule"]),
            (&json!("COMPLETED"), &json!(name), &json!(name)),
            "{done}"
        );
        assert!(!done["output"][key].is_null(), "{done}");
        let receipt = server.get_json(&format!("/api/v1/requests/{}", done["requestId"].as_str().unwrap()));
        assert_eq!((&receipt["schedule"], &receipt["job"]), (&json!(name), &json!(id)));
    }
}

#[test]
fn a_pattern_that_never_fires_is_refused_with_the_pattern_and_the_reason() {
    let server = Server::start();
    for (schedule, part) in [
        ("cron = \"0 0 31 2 *\"", "cron = \"0 0 31 2 *\" does not fire within 5 years"),
        ("cron = \"61 * * * *\"", "cron = \"61 * * * *\": "),
        ("cron = \"* * * * * *\"", "it must have five fields"),
        ("cron = \"@daily\"\ntimezone = \"Berlin\"", "timezone = \"Berlin\" is no IANA time zone"),
    ] {
        let refused = deploy(&server, &format!("[[schedule]]\n{schedule}\n"));
        assert!(refused.status == 400 && refused.text().contains(&part.replace('"', "\\\"")), "{}", refused.text());
    }
    assert!(deploy(&server, "").status < 300);
    let refused = ask(&server, "POST", "schedules", &json!({ "name": "never", "cron": "0 0 30 2 *" }));
    assert_eq!((refused.status, &refused.json()["code"]), (400, &json!("invalid_request")), "{}", refused.text());
    assert!(refused.json()["error"].as_str().unwrap().contains("\"0 0 30 2 *\" does not fire"), "{}", refused.text());
}

#[test]
fn each_minute_has_one_job_whatever_is_restarted() {
    let data = tempfile::TempDir::new().unwrap();
    let options = || Options { data: Some(data.path()), ..Options::default() };
    let mut server = Server::start_with(&options());
    assert!(
        deploy(&server, "[[schedule]]\nname = \"tick\"\ncron = \"* * * * *\"\ninput = { say = \"x\" }\n").status < 300
    );
    let first = Instant::now();
    while listed(&server, "tick")["last_job"].is_null() {
        assert!(first.elapsed() < Duration::from_secs(75), "a minute has passed: {}", listed(&server, "tick"));
        std::thread::sleep(Duration::from_millis(200));
    }
    let (job, time) = (listed(&server, "tick")["last_job"].clone(), listed(&server, "tick")["last_fired"].clone());
    assert!(time.as_str().unwrap().ends_with(":00Z"), "{time}");
    for _ in 0..3 {
        server.kill();
        server = Server::start_with(&options());
        assert_eq!(ended(&server, &job)["output"]["said"], "x");
    }
    let jobs = ask(&server, "GET", "jobs", &Value::Null).json();
    let ids: Vec<&str> = jobs["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    // An id begins with the time that its job was made for.
    let times: BTreeSet<&str> = ids.iter().map(|id| &id[..13]).collect();
    assert!(ids.contains(&job.as_str().unwrap()) && times.len() == ids.len() && ids.len() <= 3, "{jobs}");
}

#[test]
fn clients_make_change_run_and_delete_schedules() {
    let server = Server::start();
    assert!(deploy(&server, "[[schedule]]\nname = \"fixed\"\ncron = \"@yearly\"\n").status < 300);
    let hourly = json!({ "name": "hourly", "cron": "@hourly", "input": { "say": 7 }, "overlap": "allow" });
    let made = ask(&server, "POST", "schedules", &hourly);
    assert_eq!((made.status, &made.json()["source"]), (200, &json!("api")), "{}", made.text());
    let changed =
        ask(&server, "POST", "schedules", &json!({ "name": "hourly", "cron": "@daily", "input": { "say": 8 } }));
    assert_eq!((changed.status, &changed.json()["cron"]), (200, &json!("@daily")), "{}", changed.text());
    let started = run(&server, "hourly");
    assert_eq!(ended(&server, &started["id"])["output"]["said"], 8);
    assert_eq!(listed(&server, "hourly")["last_job"], started["id"]);
    for (method, path, status, code) in [
        ("DELETE", "schedules/fixed", 409, "schedule_in_manifest"),
        ("DELETE", "schedules/none", 404, "schedule_not_found"),
        ("POST", "schedules/none/run", 404, "schedule_not_found"),
        ("PUT", "schedules/hourly", 405, "method_not_allowed"),
        ("GET", "schedules/hourly/x", 404, "not_found"),
    ] {
        let refused = ask(&server, method, path, &Value::Null);
        assert_eq!((refused.status, &refused.json()["code"]), (status, &json!(code)), "{method} {path}");
    }
    let manifest = ask(&server, "POST", "schedules", &json!({ "name": "fixed", "cron": "@daily" }));
    assert_eq!((manifest.status, &manifest.json()["code"]), (409, &json!("schedule_in_manifest")));
    assert_eq!(ask(&server, "DELETE", "schedules/hourly", &Value::Null).json(), json!({ "deleted": "hourly" }));
    assert_eq!(ask(&server, "GET", "schedules", &Value::Null).json()["schedules"].as_array().unwrap().len(), 1);
}

#[test]
fn the_command_shows_which_time_was_skipped_and_why() {
    let server = Server::start();
    assert!(
        deploy(&server, "[[schedule]]\nname = \"busy\"\ncron = \"* * * * *\"\ninput = { spin = true }\n").status < 300
    );
    // The time comes within a minute, and this job has not ended then.
    run(&server, "busy");
    let first = Instant::now();
    while listed(&server, "busy")["last_skipped"].is_null() {
        assert!(first.elapsed() < Duration::from_secs(75), "a minute has passed: {}", listed(&server, "busy"));
        std::thread::sleep(Duration::from_millis(200));
    }
    let skipped = listed(&server, "busy")["last_skipped"].clone();
    let shown = format!("{} (overlap)", skipped["time"].as_str().unwrap());
    let table = server.cli(&["schedule", "list", "task"]);
    let table = String::from_utf8_lossy(&table.stdout);
    assert!(table.lines().nth(1).unwrap().ends_with(&shown), "{table}");
}

#[test]
fn schedules_have_a_limit_and_changing_them_needs_the_scope_to_deploy() {
    let server = Server::start_with(&Options { not_dev: true, ..Options::default() });
    let key = server.tenant("acme", &json!({ "schedules": 1 }));
    assert!(server.put(&key, "task", "task", "", "").status < 300);
    let as_key = |key: &str, method: &str, path: &str, body: &Value| {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        server.send_bare(method, &format!("/v2/task/{path}"), &[("x-gannet-key", key)], text.as_bytes())
    };
    assert_eq!(as_key(&key, "POST", "schedules", &json!({ "name": "one", "cron": "@daily" })).status, 200);
    let full = as_key(&key, "POST", "schedules", &json!({ "name": "two", "cron": "@daily" }));
    assert_eq!((full.status, &full.json()["code"]), (429, &json!("tenant_limit")), "{}", full.text());
    let above =
        server.put(&key, "task", "task", "[[schedule]]\ncron = \"@daily\"\n[[schedule]]\ncron = \"@daily\"\n", "");
    above.is_problem(422, "limit_above_tenants", "schedules = 2");
    let made = server.control(&key, "POST", "tenants/acme/keys", &json!({ "scopes": ["invoke"] }));
    let caller = made.json()["key"].as_str().unwrap_or_else(|| panic!("{}", made.text())).to_owned();
    assert_eq!(as_key(&caller, "GET", "schedules", &Value::Null).status, 200);
    for (method, path) in [("POST", "schedules"), ("DELETE", "schedules/one"), ("POST", "schedules/one/run")] {
        let refused = as_key(&caller, method, path, &json!({ "name": "x", "cron": "@daily" }));
        assert_eq!((refused.status, &refused.json()["code"]), (403, &json!("forbidden")), "{method} {path}");
    }
}

#[test]
fn the_commands_add_list_run_and_delete_schedules() {
    let server = Server::start();
    assert!(deploy(&server, "").status < 300);
    let told = |arguments: &[&str]| {
        let output = server.cli(arguments);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), text)
    };
    let add = [
        "schedule",
        "add",
        "task",
        "nightly",
        "--cron",
        "30 2 * * *",
        "--timezone",
        "Europe/Berlin",
        "--input",
        "{\"say\": 1}",
    ];
    let (is_ok, text) = told(&add);
    assert!(is_ok && text.contains("nightly"), "{text}");
    let (_, text) = told(&["schedule", "list", "task"]);
    assert!(text.contains("30 2 * * *") && text.contains("Europe/Berlin") && text.contains("api"), "{text}");
    assert!(text.lines().next().unwrap().ends_with("LAST SKIPPED"), "{text}");
    let (is_ok, text) = told(&["schedule", "run", "task", "nightly"]);
    assert!(is_ok && text.contains("gannet job"), "{text}");
    assert!(told(&["schedule", "delete", "task", "nightly"]).0);
    let (is_ok, text) = told(&["schedule", "run", "task", "nightly"]);
    assert!(!is_ok && text.contains("schedule_not_found"), "{text}");
    let (is_ok, text) = told(&["schedule", "add", "task", "never", "--cron", "0 0 31 2 *"]);
    assert!(!is_ok && text.contains("does not fire within 5 years"), "{text}");
}
