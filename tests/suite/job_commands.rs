//! `gannet job` and `gannet queue`: what they print, their exit codes, and what they refuse. That each command about jobs
//! has an example.

use crate::support::{KEY, Options, Server, binary, text, wait_until};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// An ID that no job has.
const NO_JOB: &str = "019a1c2e-7b1f-7c3a-9d55-0b9e6f2a4c11";

fn start() -> Server {
    let server = Server::start();
    let deployed = server.put(KEY, "task", "task", "[jobs]\nretries = 0\n", "");
    assert_eq!(deployed.status, 201, "{}", deployed.text());
    server
}

/// Runs a command that must succeed, and returns what it prints to stdout and stderr.
#[track_caller]
fn good(server: &Server, arguments: &[&str]) -> (String, String) {
    let output = server.cli(arguments);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
    (text(&output.stdout).trim_end().to_owned(), errors)
}

/// Runs a command that must fail with this exit code, say `part` on stderr and print nothing to stdout.
#[track_caller]
fn bad(server: &Server, arguments: &[&str], code: i32, part: &str) -> String {
    let output = server.cli(arguments);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    assert!(output.stdout.is_empty() && errors.contains(part), "{arguments:?}: {errors}");
    errors
}

/// Submits a job and returns its ID.
#[track_caller]
fn submit(server: &Server, input: &Value) -> String {
    good(server, &["job", "submit", "task", "-d", &input.to_string()]).0
}

/// Returns a job as `--json` prints it.
#[track_caller]
fn status(server: &Server, id: &str) -> Value {
    serde_json::from_str(&good(server, &["job", "status", "task", id, "--json"]).0).unwrap()
}

/// Submits with an input on standard input.
fn submit_from_stdin(server: &Server, input: &[u8]) -> Output {
    let mut child = Command::new(binary())
        .args(["job", "submit", "task", "-d", "@-", "--wait"])
        .env("GANNET_SERVER", &server.url)
        .env("GANNET_KEY", KEY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_job_is_submitted_waited_for_and_shown() {
    let server = start();
    let (id, told) = good(&server, &["job", "submit", "task", "-d", r#"{"say": "x"}"#]);
    assert!(told.contains(&format!("gannet job wait task {id}")), "{told}");
    let (output, told) = good(&server, &["job", "wait", "task", &id, "--timeout", "60"]);
    let output: Value = serde_json::from_str(&output).unwrap();
    assert_eq!((&output["said"], told.as_str()), (&json!("x"), ""));
    let (shown, _) = good(&server, &["job", "status", "task", &id]);
    for part in [
        id.as_str(),
        "state          COMPLETED",
        "attempt        1",
        "waited  ",
        "ran  ",
        "output\n{",
        "\"said\": \"x\"",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert_eq!(status(&server, &id)["output"], output);
    let (whole, _) = good(&server, &["jobs", "wait", "task", &id, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&whole).unwrap()["status"], "COMPLETED");
    // Without an input it is {}.
    let (output, _) = good(&server, &["job", "submit", "task", "--wait"]);
    assert_eq!(serde_json::from_str::<Value>(&output).unwrap()["said"], Value::Null);
    let (output, _) = good(&server, &["job", "submit", "task", "--sync", "--wait", "60", "-d", r#"{"say": [1]}"#]);
    assert_eq!(serde_json::from_str::<Value>(&output).unwrap()["said"], json!([1]));
    let output = submit_from_stdin(&server, br#"{"say": "from stdin"}"#);
    assert!(output.status.success() && text(&output.stdout).contains("from stdin"), "{}", text(&output.stderr));
}

#[test]
fn the_options_of_a_job_are_sent() {
    let server = start();
    let submit = ["job", "submit", "task", "--timeout", "30", "--ttl", "60", "--low-priority"];
    let with_key = [&submit[..], &["--idempotency-key", "once", "-d", r#"{"say": 1}"#]].concat();
    let (first, _) = good(&server, &with_key);
    assert_eq!(good(&server, &with_key).0, first, "the same key makes no second job");
    let other = [&submit[..], &["--idempotency-key", "once", "-d", r#"{"say": 2}"#]].concat();
    bad(&server, &other, 1, "error: the idempotency key was used with another body");
    let told = bad(&server, &["job", "submit", "task", "--timeout", "1"], 1, "policy.executionTimeout = 1000");
    assert!(told.contains("(invalid_request)\n  caused by: status 400 Bad Request, request "), "{told}");
    bad(&server, &["job", "submit", "task", "--ttl", "1"], 1, "policy.ttl = 1000");
    bad(&server, &["job", "submit", "task", "--webhook", "ftp://example.org/"], 1, "an absolute http or https URL");
    bad(&server, &["job", "submit", "task", "--webhook"], 2, "--webhook <URL>");
    let (answer, _) = good(&server, &["job", "submit", "task", "--json"]);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((answer["id"].is_string(), &answer["status"]), (true, &json!("IN_QUEUE")));
}

#[test]
fn what_cannot_be_a_job_is_refused_before_it_is_sent() {
    let server = start();
    let told = bad(&server, &["job", "submit", "task", "-d", "plain text"], 2, "error: the input is not JSON");
    assert!(told.contains("\nhint: "), "{told}");
    bad(&server, &["job", "submit", "task", "-d", "@/nowhere"], 2, "cannot read /nowhere");
    bad(&server, &["job", "submit", "task", "--sync", "--wait", "301"], 2, "it may be 1 to 300");
    bad(&server, &["job", "submit", "nothing"], 1, "there is no such function");
    bad(&server, &["job", "list", "task", "--status", "DONE"], 2, "IN_QUEUE");
    for verb in ["status", "wait", "stream", "cancel", "retry", "logs"] {
        bad(&server, &["job", verb, "task", NO_JOB], 1, "there is no such job");
        bad(&server, &["job", verb, "task", "../health"], 1, "error: ");
        bad(&server, &["job", verb, "task"], 2, "<ID>");
    }
    let unreachable = server.cli(&["job", "list", "task", "--server", "http://127.0.0.1:1"]);
    assert_eq!(unreachable.status.code(), Some(3), "{}", text(&unreachable.stderr));
}

#[test]
fn a_failed_job_is_an_error_of_wait_and_has_logs_and_can_be_retried() {
    let server = start();
    let id = submit(&server, &json!({ "trap_before": 2 }));
    let told = bad(&server, &["job", "wait", "task", &id], 1, &format!("error: job {id} is FAILED: "));
    assert!(told.contains("(function_trapped)") && told.contains(&format!("gannet job retry task {id}")), "{told}");
    let (shown, _) = good(&server, &["job", "status", "task", &id]);
    assert!(shown.contains("error          function_trapped: "), "{shown}");
    wait_until("its log has arrived", || {
        good(&server, &["job", "logs", "task", &id]).0.contains("attempt 1 traps, as asked")
    });
    let (line, _) = good(&server, &["job", "logs", "task", &id, "--json"]);
    let line: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert_eq!(line["request"], status(&server, &id)["requestId"]);
    let (printed, told) = good(&server, &["job", "retry", "task", &id]);
    assert!(printed.is_empty() && told.contains(&format!("gannet job wait task {id}")), "{told}");
    good(&server, &["job", "wait", "task", &id]);
    assert_eq!(status(&server, &id)["attempt"], 2);
    bad(&server, &["job", "retry", "task", &id], 1, "the job is COMPLETED; only FAILED and TIMED_OUT jobs");
    // With --json, a failure is an answer, and the exit code still tells.
    let failed = server.cli(&["job", "submit", "task", "-d", r#"{"error": "why"}"#, "--wait", "--json"]);
    let answer: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!((failed.status.code(), &answer["error"]), (Some(1), &json!("why")), "{answer}");
    assert!(text(&failed.stderr).contains("is FAILED: why (function_error)"), "{}", text(&failed.stderr));
}

#[test]
fn a_stream_is_printed_line_by_line() {
    let server = start();
    let id = submit(&server, &json!({ "stream": 3, "every_ms": 50 }));
    let (printed, _) = good(&server, &["job", "stream", "task", &id]);
    assert_eq!(printed, "{\"n\":1}\n{\"n\":2}\n{\"n\":3}");
    assert_eq!(good(&server, &["job", "wait", "task", &id]).0, "[{\"n\":1},{\"n\":2},{\"n\":3}]");
    let id = submit(&server, &json!({ "error": "why" }));
    bad(&server, &["job", "stream", "task", &id], 1, "is FAILED: why");
}

#[test]
fn a_job_that_runs_is_cancelled() {
    let server = start();
    let id = submit(&server, &json!({ "spin": true }));
    wait_until("it runs", || status(&server, &id)["status"] == "IN_PROGRESS");
    let told = bad(&server, &["job", "wait", "task", &id, "--timeout", "1"], 1, "is still IN_PROGRESS");
    assert!(told.contains(&format!("hint: to wait for its output: gannet job wait task {id}")), "{told}");
    for _ in 0..2 {
        let (_, told) = good(&server, &["job", "cancel", "task", &id]);
        assert!(told.contains("is CANCELLED"), "{told}");
    }
    bad(&server, &["job", "wait", "task", &id], 1, &format!("error: job {id} is CANCELLED"));
    let id = submit(&server, &json!({ "say": 1 }));
    good(&server, &["job", "wait", "task", &id]);
    let (_, told) = good(&server, &["job", "cancel", "task", &id]);
    assert!(told.contains("is COMPLETED; it had ended before"), "{told}");
}

#[test]
fn a_queue_is_paused_shown_emptied_and_resumed() {
    let server = start();
    let (_, told) = good(&server, &["queue", "pause", "task"]);
    assert!(told.contains("the queue of task is paused"), "{told}");
    let ids: Vec<String> = (0..3).map(|n| submit(&server, &json!({ "say": n }))).collect();
    let (shown, _) = good(&server, &["job", "status", "task", &ids[0]]);
    assert!(shown.contains("waits because  paused: the queue is paused"), "{shown}");
    bad(&server, &["job", "logs", "task", &ids[0]], 1, "is IN_QUEUE and has had no attempt");
    let (shown, _) = good(&server, &["queue", "status", "task"]);
    assert!(shown.contains("waiting        3\n") && shown.contains("waits because  paused: "), "{shown}");
    let (health, _) = good(&server, &["queue", "status", "task", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&health).unwrap()["jobs"]["inQueue"], 3);
    let list = |arguments: &[&str]| good(&server, &[&["job", "list", "task"], arguments].concat());
    let (rows, told) = list(&[]);
    let rows: Vec<&str> = rows.lines().collect();
    assert!(rows[0].starts_with("ID ") && rows.len() == 4 && told.is_empty(), "{rows:?} {told}");
    assert!(rows[1].starts_with(&ids[0]) && rows[1].ends_with("paused") && rows[3].starts_with(&ids[2]), "{rows:?}");
    let (rows, told) = list(&["--limit", "2"]);
    assert!(rows.lines().count() == 3 && told.contains("the 2 oldest"), "{rows} {told}");
    assert_eq!(list(&["--status", "completed"]).0.lines().count(), 1, "only the titles");
    let listed: Value = serde_json::from_str(&list(&["--status", "IN_QUEUE", "--json"]).0).unwrap();
    assert_eq!((listed["jobs"].as_array().unwrap().len(), &listed["cursor"]), (3, &Value::Null));
    // Nobody can be asked here.
    bad(&server, &["queue", "purge", "task"], 2, "hint: add --yes to confirm");
    assert_eq!(status(&server, &ids[0])["status"], "IN_QUEUE");
    let (_, told) = good(&server, &["queue", "purge", "task", "--yes"]);
    assert!(told.contains("3 jobs were cancelled"), "{told}");
    let (answer, _) = good(&server, &["queue", "purge", "task", "--yes", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["removed"], 0);
    let id = submit(&server, &json!({ "say": "later" }));
    good(&server, &["queue", "resume", "task"]);
    assert!(good(&server, &["job", "wait", "task", &id]).0.contains("later"));
    for verb in ["pause", "resume", "status"] {
        bad(&server, &["queue", verb, "nothing"], 1, "there is no such function");
    }
    bad(&server, &["queue", "purge", "nothing", "--yes"], 1, "there is no such function");
}

#[test]
fn the_operator_names_the_tenant_of_a_job() {
    let server = Server::start_with(&Options { not_dev: true, ..Options::default() });
    let (operator, key) = (server.operator(), server.tenant("acme", &json!({})));
    assert_eq!(server.put(&key, "task", "task", "", "").status, 201);
    let run =
        |arguments: &[&str]| server.cli_as(&operator, &[&["job", "submit", "task", "--wait"], arguments].concat());
    let output = run(&["--tenant", "acme"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(run(&[]).status.code(), Some(2), "no tenant is named");
}

#[test]
fn every_command_has_an_example() {
    for command in ["job", "batch", "queue", "schedule", "hook", "webhook"] {
        let verbs = verbs(command);
        assert!(verbs.len() >= 4, "{command}: {verbs:?}");
        for verb in verbs {
            has_an_example(&[command, &verb]);
        }
    }
}

/// Returns the verbs of a command, as its help lists them.
#[track_caller]
fn verbs(command: &str) -> Vec<String> {
    let help = Command::new(binary()).args([command, "--help"]).output().unwrap();
    let help = text(&help.stdout);
    let listed = help.split("Commands:\n").nth(1).unwrap_or_else(|| panic!("{help}"));
    let listed = listed.lines().take_while(|line| !line.is_empty());
    // The text about a verb may take several lines; further ones are indented more.
    let verbs = listed.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    let verbs = verbs.filter_map(|rest| rest.split_whitespace().next());
    verbs.filter(|verb| *verb != "help").map(str::to_owned).collect()
}

/// Checks that the help of a command shows how it is used.
#[track_caller]
fn has_an_example(command: &[&str]) {
    let help = Command::new(binary()).args(command).arg("--help").output().unwrap();
    let (help, example) = (text(&help.stdout), format!("  gannet {}", command.join(" ")));
    let shown = help.split("Example").nth(1).unwrap_or_else(|| panic!("{command:?}: {help}"));
    let is_example = |line: &str| line == example || line.starts_with(&format!("{example} "));
    assert!(shown.lines().any(is_example), "{help}");
}
