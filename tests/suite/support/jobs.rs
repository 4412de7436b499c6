//! Calls of the job API of one function with one key.

use super::{Response, Server, wait_until};
use serde_json::{Value, json};

/// The job API of a function, as the owner of a key uses it.
#[derive(Clone, Copy)]
pub struct JobApi<'a> {
    pub server: &'a Server,
    pub key: &'a str,
    pub function: &'a str,
}

impl JobApi<'_> {
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Response {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, path, &[], text.as_bytes())
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut all = vec![("x-gannet-key", self.key)];
        all.extend(headers);
        self.server.send_bare(method, &format!("/v2/{}/{path}", self.function), &all, body)
    }

    /// Makes a call that must succeed.
    #[track_caller]
    pub fn get(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.ask(method, path, body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Submits a job and returns its id.
    #[track_caller]
    pub fn submit(&self, input: &Value) -> String {
        self.submit_body(&json!({ "input": input }))
    }

    #[track_caller]
    pub fn submit_body(&self, body: &Value) -> String {
        let accepted = self.get("POST", "run", body);
        assert_eq!(accepted["status"], "IN_QUEUE", "{accepted}");
        accepted["id"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub fn status(&self, id: &str) -> Value {
        self.get("GET", &format!("status/{id}"), &Value::Null)
    }

    #[track_caller]
    pub fn health(&self) -> Value {
        self.get("GET", "health", &Value::Null)
    }

    /// Waits until a job has ended.
    #[track_caller]
    pub fn ended(&self, id: &str) -> Value {
        let mut status = Value::Null;
        wait_until("the job has ended", || {
            status = self.status(id);
            !matches!(status["status"].as_str(), Some("IN_QUEUE" | "IN_PROGRESS"))
        });
        status
    }

    /// Waits until an attempt of a job runs, and returns the status then.
    #[track_caller]
    pub fn running(&self, id: &str) -> Value {
        let mut status = Value::Null;
        wait_until("the job runs", || {
            status = self.status(id);
            status["status"] == "IN_PROGRESS"
        });
        status
    }

    /// Waits until the request of an attempt is billed, and returns its receipt.
    #[track_caller]
    pub fn billed(&self, request: &Value) -> Value {
        let path = format!("requests/{}", request.as_str().unwrap());
        let mut receipt = Value::Null;
        wait_until("the attempt is billed", || {
            let found = self.server.control(self.key, "GET", &path, &Value::Null);
            receipt = if found.status == 200 { found.json() } else { Value::Null };
            receipt["billed"] == true
        });
        receipt
    }

    /// Returns how many requests of the tenant are in flight.
    pub fn in_flight(&self) -> u64 {
        let limits = self.server.control(self.key, "GET", "limits", &Value::Null).json();
        limits["used"]["concurrency"].as_u64().unwrap()
    }
}

/// Checks that a call of the job API was refused, in a form that clients do not take for the state of a job.
#[track_caller]
pub fn refused(answer: &Response, status: u16, code: &str, part: &str) {
    let body = answer.json();
    assert_eq!((answer.status, &body["code"]), (status, &json!(code)), "{body}");
    assert!(body["error"].as_str().unwrap().contains(part) && body["status"].is_null(), "{part}: {body}");
}
