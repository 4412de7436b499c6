//! Workers that are killed while a function in one of them serves a call by a function in the other: the component
//! `caller` in two places, each with a class of its own.

use crate::support::{KEY, Options, Response, Server, ledger, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const CONFIG: &str = "spares = 0\n[prices]\ncpu_micro_units_per_s = 1000000\n\
    [[gpus]]\nindex = 0\nclass = \"one\"\n[[gpus]]\nindex = 0\nclass = \"two\"\n";

/// A server with the function `a` in one worker and `b` in another, with one permit each.
struct Apart {
    server: Server,
    worker_a: i32,
    worker_b: i32,
}

impl Apart {
    fn start() -> Self {
        let server = Server::start_with(&Options { config: Some(CONFIG), ..Options::default() });
        let workers = [("a", "one"), ("b", "two")].map(|(name, class)| {
            let limits = "[limits]\nconcurrency = 1\ntimeout_ms = 60000\nqueue_ms = 30000\n";
            let manifest = format!("{limits}[gpu]\nclass = [{class:?}]\n");
            assert_eq!(server.put(KEY, "caller", name, &manifest, "").status, 201);
            let before = server.children("__worker");
            assert_eq!(server.call(name, "/echo", b"x").text(), "x");
            let new: Vec<i32> = server.children("__worker").into_iter().filter(|pid| !before.contains(pid)).collect();
            let [worker] = new[..] else { panic!("one more worker for {name}: {new:?}") };
            worker
        });
        let [worker_a, worker_b] = workers;
        Self { server, worker_a, worker_b }
    }

    /// Has `a` call `b`, kills a worker while `b` serves that, and returns the answer of `a` and the id of the call.
    fn kill_in_call(&self, worker: i32) -> (Response, Value) {
        let server = &self.server;
        std::thread::scope(|scope| {
            // A POST is not sent to a second worker.
            let path = "/call?to=b&path=%2Fwait%3Fms%3D50000";
            let calling = scope.spawn(|| server.call("a", path, b"x"));
            let mut call = Value::Null;
            wait_until("b serves the call", || {
                let logs = server.get_json("/api/v1/functions/b/logs");
                let lines = logs["lines"].as_array().unwrap();
                let line = lines.iter().find(|line| line["text"] == "POST /wait");
                call = line.map_or(Value::Null, |line| line["request"].clone());
                call.is_string()
            });
            kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL).unwrap();
            (calling.join().unwrap(), call)
        })
    }

    fn billed(&self, request: &Value) -> Value {
        let path = format!("/api/v1/requests/{}", request.as_str().unwrap());
        let mut receipt = Value::Null;
        wait_until("the request is billed", || {
            let found = self.server.send("GET", &path, &[], b"");
            receipt = if found.status == 200 { found.json() } else { Value::Null };
            receipt["billed"] == true
        });
        receipt
    }

    /// Checks that all permits are free, that both functions work, and that the ledger has a line for each request.
    fn goes_on(&self, requests: [&Value; 2]) {
        let server = &self.server;
        let in_flight = || server.get_json("/api/v1/limits")["used"]["concurrency"].clone();
        wait_until("all permits are back", || in_flight() == 0);
        let answer = server.call("a", "/call?to=b&path=%2Fecho", b"again");
        assert_eq!((answer.status, answer.text()), (200, "again".into()));
        assert_eq!(server.terminate(), Some(0));
        assert_eq!(requests.map(|request| ledger::lines_of(&server.data, request)), [1, 1]);
    }
}

#[test]
fn a_caller_is_told_that_the_worker_of_the_called_function_was_killed() {
    let apart = Apart::start();
    let (answer, call) = apart.kill_in_call(apart.worker_b);
    assert_eq!((answer.status, answer.header("x-called-error")), (502, "function_killed"), "{}", answer.text());
    assert_eq!(answer.header("x-gannet-error"), "", "the caller itself did not fail");
    let (parent, child) = (apart.billed(&json!(answer.header("x-request-id"))), apart.billed(&call));
    assert_eq!((&child["error"], &child["parent"]), (&json!("function_killed"), &parent["request"]), "{child}");
    assert_eq!((&parent["error"], &parent["sibling_calls"]), (&Value::Null, &json!(1)), "{parent}");
    assert!(apart.server.children("__worker").contains(&apart.worker_a), "its own worker lives");
    apart.goes_on([&parent["request"], &call]);
}

#[test]
fn a_call_ends_when_the_worker_of_its_caller_is_killed() {
    let apart = Apart::start();
    let (answer, call) = apart.kill_in_call(apart.worker_a);
    answer.is_problem(502, "function_killed", "signal 9");
    let (parent, child) = (apart.billed(&json!(answer.header("x-request-id"))), apart.billed(&call));
    assert_eq!((&child["error"], &child["parent"]), (&json!("client_closed"), &parent["request"]), "{child}");
    assert_eq!(parent["error"], "function_killed", "{parent}");
    assert!(apart.server.children("__worker").contains(&apart.worker_b), "the worker of the called function lives");
    apart.goes_on([&parent["request"], &call]);
}
