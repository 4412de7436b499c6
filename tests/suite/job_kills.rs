//! Rounds in which workers, the server or both are killed while clients submit, poll and cancel jobs: nothing is lost,
//! nothing is done twice, and the bill has one line for each attempt.

use crate::support::{KEY, Options, Server, ledger, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const CONFIG: &str = "[prices]\ncpu_micro_units_per_s = 1000000\ngpu_micro_units_per_s = 1000000\n";
const MANIFEST: &str = "[limits]\nconcurrency = 8\n[jobs]\nbackoff_s = 0\nretries = 100\n";
const CLIENTS: u64 = 8;

/// What clients know after all rounds.
#[derive(Default)]
struct Known {
    /// The jobs that were accepted, and what each was given.
    accepted: HashMap<String, u64>,
    /// The output of each job as it was seen first.
    completed: HashMap<String, Value>,
    cancelled: Vec<String>,
}

/// What one client saw in one round.
#[derive(Default)]
struct Seen {
    accepted: Vec<(String, u64)>,
    completed: Vec<(String, Value)>,
    cancelled: Vec<String>,
    /// What it submitted last, if the server was gone before it answered.
    unanswered: Option<u64>,
}

fn start(data: &Path) -> Server {
    Server::start_with(&Options { data: Some(data), config: Some(CONFIG), ..Options::default() })
}

/// A third of the jobs take a while, so that kills hit their attempts.
fn input(say: u64) -> Value {
    if say.is_multiple_of(3) {
        json!({ "progress": [say], "every_ms": 30 })
    } else {
        json!({ "say": say, "tell_attempt": true })
    }
}

/// Makes a call, and returns None if the server ended before it had answered. An answer is never an error.
fn call(server: &Server, method: &str, path: &str, key: Option<u64>, body: &Value) -> Option<Value> {
    let key = key.map(|say| format!("say-{say}"));
    let mut headers = vec![("x-gannet-key", KEY)];
    headers.extend(key.as_deref().map(|key| ("idempotency-key", key)));
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let answer = server.try_send(method, &format!("/v2/task/{path}"), &headers, text.as_bytes())?;
    let body = serde_json::from_slice::<Value>(answer.body.as_ref().ok()?).ok()?;
    assert_eq!(answer.status, 200, "{path}: {body}");
    Some(body)
}

/// Submits a job. The same submission again gives the same job.
fn submit(server: &Server, say: u64) -> Option<String> {
    let accepted = call(server, "POST", "run", Some(say), &json!({ "input": input(say) }))?;
    Some(accepted["id"].as_str().unwrap().to_owned())
}

/// Submits, polls and cancels until the server or the round is over.
fn one_client(server: &Server, first: u64, is_over: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    for say in (first..first + 100).take_while(|_| !is_over.load(Ordering::Relaxed)) {
        let Some(id) = submit(server, say) else {
            seen.unanswered = Some(say);
            return seen;
        };
        seen.accepted.push((id.clone(), say));
        if say % 5 == 4 {
            let Some(answer) = call(server, "POST", &format!("cancel/{id}"), None, &Value::Null) else { return seen };
            if answer["status"] == "CANCELLED" {
                seen.cancelled.push(id);
                continue;
            }
        }
        let path = format!("status-sync/{id}?wait=1000");
        let Some(answer) = call(server, "GET", &path, None, &Value::Null) else { return seen };
        if answer["status"] == "COMPLETED" {
            seen.completed.push((id, answer["output"].clone()));
        }
    }
    seen
}

fn kill_workers(server: &Server) {
    for worker in server.children("__worker") {
        let _ = kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL);
    }
}

/// Kills workers while jobs run, and lets the round end once further jobs have run.
fn kill_only_workers(server: &Server, round: u64) {
    let is_running = || {
        let health = server.get_json("/v2/task/health");
        health["jobs"]["inProgress"].as_u64().unwrap() > 0
    };
    for kill in 0..2 {
        let before = server.metric("requests_total");
        wait_until("jobs run", || server.metric("requests_total") >= before + (round * 3 + kill) % 8 && is_running());
        kill_workers(server);
    }
    let before = server.metric("requests_total");
    wait_until("jobs run again", || server.metric("requests_total") >= before + CLIENTS);
}

/// Lets clients work while something is killed. Returns what they saw, and whether the server is gone.
fn one_round(server: &Server, round: u64) -> (Vec<Seen>, bool) {
    let (is_over, only_workers) = (AtomicBool::new(false), round % 3 == 2);
    let before = server.metric("requests_total");
    let seen = std::thread::scope(|scope| {
        let one = |client: u64| {
            let is_over = &is_over;
            scope.spawn(move || one_client(server, round * 1_000 + client * 100, is_over))
        };
        let clients: Vec<_> = (0..CLIENTS).map(one).collect();
        // Somewhere in the middle of what the clients do, and of a different part of it in each round.
        wait_until("the clients are at work", || server.metric("requests_total") >= before + (round * 7) % 40);
        if only_workers {
            kill_only_workers(server, round);
            is_over.store(true, Ordering::Relaxed);
        } else {
            if round % 3 == 1 {
                kill_workers(server);
            }
            server.kill();
        }
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    (seen, !only_workers)
}

impl Known {
    /// Adds what clients saw. Those that got no answer submit the same again.
    fn add(&mut self, server: &Server, all: Vec<Seen>) {
        for seen in all {
            self.accepted.extend(seen.accepted);
            self.cancelled.extend(seen.cancelled);
            if let Some(say) = seen.unanswered {
                self.accepted.insert(submit(server, say).expect("the server is there"), say);
            }
            for (id, output) in seen.completed {
                let first = self.completed.entry(id.clone()).or_insert_with(|| output.clone());
                assert_eq!(*first, output, "{id}");
            }
        }
    }

    /// Checks how a job has ended. Returns the number of its attempts, and whether it was cancelled.
    fn check(&self, server: &Server, id: &str, say: u64) -> (u64, bool) {
        let mut done = Value::Null;
        wait_until("the job has ended", || {
            done = server.get_json(&format!("/v2/task/status/{id}"));
            !matches!(done["status"].as_str(), Some("IN_QUEUE" | "IN_PROGRESS"))
        });
        let is_cancelled = done["status"] == "CANCELLED";
        assert!(is_cancelled || done["status"] == "COMPLETED", "{done}");
        assert!(is_cancelled || !self.cancelled.iter().any(|cancelled| cancelled == id), "{done}");
        if let Some(first) = self.completed.get(id) {
            assert_eq!(done["output"], *first, "a result never changes");
        }
        let attempt = done["attempt"].as_u64().unwrap_or(0);
        if !is_cancelled {
            let expected = match input(say)["say"].as_u64() {
                Some(say) => json!({ "said": say, "attempt": attempt }),
                None => json!({ "job": id, "attempt": attempt }),
            };
            assert_eq!(done["output"], expected, "{done}");
        }
        (attempt, is_cancelled)
    }
}

/// Returns how many jobs the server keeps.
fn kept(server: &Server) -> usize {
    let (mut count, mut cursor) = (0, String::new());
    loop {
        let page = server.get_json(&format!("/v2/task/jobs?limit=1000{cursor}"));
        count += page["jobs"].as_array().unwrap().len();
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return count,
        }
    }
}

/// The lines of each job: how many there are of each of its attempts.
type Lines = HashMap<String, BTreeMap<u64, u64>>;

/// Reads the ledger. Nobody pays for what the end of the server has interrupted.
fn lines_of_attempts(data: &Path, are_workers_killed: bool) -> Lines {
    let mut lines = Lines::new();
    let (mut killed, mut interrupted) = (0, 0);
    for receipt in ledger::receipts(data) {
        let Some(job) = receipt["job"].as_str() else { continue };
        *lines.entry(job.to_owned()).or_default().entry(receipt["attempt"].as_u64().unwrap()).or_default() += 1;
        killed += u32::from(receipt["error"] == "function_killed");
        if receipt["error"] == "server_restarted" {
            interrupted += 1;
            assert_eq!((&receipt["guest_us"], &receipt["gpu_ns"]), (&json!(0), &json!(0)), "{receipt}");
        }
    }
    assert!(interrupted > 0, "no kill of the server hit an attempt");
    assert!(killed > 0 || !are_workers_killed, "no kill of a worker hit an attempt");
    lines
}

/// Checks that the ledger has a line for each attempt of each job and no other, whatever was killed.
fn check_lines(mut lines: Lines, attempts: &HashMap<String, (u64, bool)>) {
    for (id, (attempt, is_cancelled)) in attempts {
        let found = lines.remove(id).unwrap_or_default();
        let numbers: Vec<u64> = found.keys().copied().collect();
        // A cancel may be faster than the record of an attempt that has begun. What that used is on the bill.
        let is_right =
            [*attempt, attempt + u64::from(*is_cancelled)].iter().any(|last| (1..=*last).eq(numbers.clone()));
        assert!(is_right, "{id}: {found:?} of {attempt}, cancelled: {is_cancelled}");
        assert!(found.values().all(|count| *count == 1), "{id}: {found:?}");
    }
    assert!(lines.is_empty(), "lines of jobs that nobody submitted: {lines:?}");
}

#[test]
fn rounds_of_kills_lose_nothing_and_complete_nothing_twice() {
    let folder = tempfile::TempDir::new().unwrap();
    let data = folder.path().join("data");
    let mut server = start(&data);
    let deployed = server.put(KEY, "task", "task", MANIFEST, "");
    assert!(deployed.status < 300, "{}", deployed.text());
    let rounds: u64 = std::env::var("GANNET_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let mut known = Known::default();
    for round in 0..rounds {
        let (seen, is_gone) = one_round(&server, round);
        if is_gone {
            server = start(&data);
        }
        known.add(&server, seen);
    }
    assert!(!known.completed.is_empty() && !known.cancelled.is_empty(), "the clients did something");
    let check = |(id, say): (&String, &u64)| (id.clone(), known.check(&server, id, *say));
    let attempts: HashMap<String, (u64, bool)> = known.accepted.iter().map(check).collect();
    assert_eq!(kept(&server), known.accepted.len(), "a submission that was made again made no second job");
    assert_eq!(server.terminate(), Some(0));
    check_lines(lines_of_attempts(&data, rounds > 2), &attempts);
}
