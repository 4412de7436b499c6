//! The job API of one function, as `gannet job` and `gannet queue` call it.
//!
//! A response stays the text that the server sent: an output belongs to the function, so it is never read into numbers
//! and written again.

use crate::client::{Client, problem, read_body, segment, with_query};
use crate::connection::Connection;
use crate::failure::{Failure, Outcome};
use crate::printer;
use clap::ValueEnum;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::fmt;
use std::io::Write;
use std::marker::PhantomData;
use ureq::http::Response;
use ureq::{AsSendBody, Body};

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[value(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    #[value(alias = "in-queue")]
    InQueue,
    #[value(alias = "in-progress")]
    InProgress,
    Completed,
    Failed,
    Cancelled,
    #[value(alias = "timed-out")]
    TimedOut,
}

impl State {
    /// Whether it is final.
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::InQueue | Self::InProgress)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

/// A job. What only changes its state is answered with its ID and its state alone.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    pub id: String,
    pub status: State,
    /// Milliseconds that it waited.
    pub delay_time: Option<u64>,
    /// Milliseconds that its latest attempt ran.
    pub execution_time: Option<u64>,
    /// Its output, or its progress while it runs.
    pub output: Option<Box<RawValue>>,
    pub error: Option<String>,
    pub error_code: Option<String>,
    pub wait_reason: Option<String>,
    /// Number of its latest attempt.
    #[serde(default)]
    pub attempt: u32,
    /// The request of its latest attempt.
    pub request_id: Option<String>,
}

/// A successful response whose body is a `T`.
#[derive(Debug)]
pub struct Sent<T> {
    text: String,
    view: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Sent<T> {
    /// Reads the response.
    pub fn view(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.text).map_err(|error| {
            Failure::server("the server's response has an unknown form")
                .because(error)
                .hint("--json prints the response as it is")
        })
    }

    /// Prints the response as the server sent it.
    pub fn print_json(&self) {
        printer::line(self.text.trim_end());
    }

    /// Prints the response as the server sent it, or shows what it says.
    pub fn print(&self, as_json: bool, show: impl FnOnce(T)) -> Outcome {
        if as_json {
            self.print_json();
        } else {
            show(self.view()?);
        }
        Ok(())
    }
}

/// Why a call failed that may be repeated.
pub enum CallError {
    /// The server refused it for now.
    NotNow(Failure),
    /// No response, or not all of it, arrived.
    NoResponse(Failure),
    /// It would fail again.
    Final(Failure),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotNow(failure) | CallError::NoResponse(failure) | CallError::Final(failure) => failure,
        }
    }
}

/// The job API of one function.
pub struct JobApi {
    client: Client,
    /// The function.
    pub name: String,
}

impl JobApi {
    /// Asks the server where its functions are: the job API is at the same address.
    pub fn new(connection: &Connection, name: &str) -> Result<Self, Failure> {
        let client = Client::new(connection)?;
        let (_, functions_url) = client.tenant_and_functions()?;
        Ok(Self { client: client.for_functions(functions_url.as_deref())?, name: name.to_owned() })
    }

    /// Calls with GET.
    pub fn get<T>(&self, call: &str, query: &[(&str, &str)]) -> Result<Sent<T>, CallError> {
        self.call("GET", &call_path(&self.name, call, query), &[], ())
    }

    /// Reads a job.
    pub fn status(&self, id: &str) -> Result<Sent<JobView>, Failure> {
        Ok(self.get(&of_job("status", id), &[])?)
    }

    /// Calls with POST and without a body.
    pub fn post<T>(&self, call: &str) -> Result<Sent<T>, Failure> {
        Ok(self.call("POST", &call_path(&self.name, call, &[]), &[], ())?)
    }

    /// Calls with POST and a body of JSON.
    pub fn post_json<T>(
        &self,
        call: &str,
        query: &[(&str, &str)],
        headers: &[(String, String)],
        body: &str,
    ) -> Result<Sent<T>, Failure> {
        Ok(self.try_post_json(call, query, headers, body)?)
    }

    /// Calls with POST and a body of JSON. Tells whether the call may be repeated.
    pub fn try_post_json<T>(
        &self,
        call: &str,
        query: &[(&str, &str)],
        headers: &[(String, String)],
        body: &str,
    ) -> Result<Sent<T>, CallError> {
        let mut all = vec![("content-type".to_owned(), "application/json".to_owned())];
        all.extend_from_slice(headers);
        self.call("POST", &call_path(&self.name, call, query), &all, body)
    }

    /// Calls with GET, and copies the body to a writer as it arrives.
    pub fn copy(&self, call: &str, query: &[(&str, &str)], to: &mut dyn Write) -> Outcome {
        let mut response = self.client.successful("GET", &call_path(&self.name, call, query), &[], ())?;
        let mut body = response.body_mut().as_reader();
        let copied = std::io::copy(&mut body, to).and_then(|_| to.flush());
        copied.map_err(|error| Failure::server("the response was not copied to its end").because(error))
    }

    /// Calls with DELETE.
    pub fn delete<T>(&self, call: &str) -> Result<Sent<T>, Failure> {
        Ok(self.call("DELETE", &call_path(&self.name, call, &[]), &[], ())?)
    }

    fn call<T>(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: impl AsSendBody,
    ) -> Result<Sent<T>, CallError> {
        let mut response = self.client.send(method, path, headers, body).map_err(CallError::NoResponse)?;
        if !response.status().is_success() {
            let may_pass = may_pass(&response);
            let failure = problem(&mut response);
            return Err(if may_pass { CallError::NotNow(failure) } else { CallError::Final(failure) });
        }
        let body = read_body(&mut response).map_err(CallError::NoResponse)?;
        match String::from_utf8(body) {
            Ok(text) => Ok(Sent { text, view: PhantomData }),
            Err(error) => Err(CallError::Final(Failure::server("the response is not UTF-8").because(error))),
        }
    }
}

/// Returns a call that is about a job.
pub fn of_job(call: &str, id: &str) -> String {
    format!("{call}/{}", segment(id))
}

fn call_path(name: &str, call: &str, query: &[(&str, &str)]) -> String {
    let path = format!("/v2/{}/{call}", segment(name));
    if query.is_empty() { path } else { with_query(&path, query) }
}

/// Whether the same call may succeed later.
fn may_pass(response: &Response<Body>) -> bool {
    let status = response.status();
    let is_permanent = response.headers().get("x-should-retry").is_some_and(|value| value == "false");
    !is_permanent && (status.is_server_error() || status.as_u16() == 429)
}

/// Explains why a job waits.
pub fn explained(reason: &str) -> String {
    let meaning = match reason {
        "capacity" => "all permits or GPUs are in use",
        "loading" => "the function is being loaded",
        "crash_loop" => "the function fails again and again",
        "quota" => "a limit of the tenant is used up",
        "paused" => "the queue is paused, or the tenant is suspended",
        _ => return reason.to_owned(),
    };
    format!("{reason}: {meaning}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_are_one_segment_of_a_path() {
        assert_eq!(call_path("task", "run", &[]), "/v2/task/run");
        let call = of_job("status-sync", "../x?y");
        assert_eq!(call_path("a/b", &call, &[("wait", "1000")]), "/v2/a%2Fb/status-sync/..%2Fx%3Fy?wait=1000");
    }

    #[test]
    fn a_state_has_the_name_of_the_api() {
        for state in State::value_variants() {
            let read: State = serde_json::from_str(&format!("{:?}", state.to_string())).unwrap();
            assert_eq!((read, state.is_terminal()), (*state, !state.to_string().starts_with("IN_")));
        }
    }

    #[test]
    fn an_output_is_kept_as_it_was_sent() {
        let output = "{\"z\": 123456789012345678901234567890, \"a\":1.50}";
        let text = format!("{{\"id\": \"x\", \"status\": \"COMPLETED\", \"output\": {output}, \"new\": 1}}");
        let sent = Sent::<JobView> { text, view: PhantomData };
        assert_eq!(sent.view().unwrap().output.unwrap().get(), output);
        assert!(Sent::<JobView> { text: "{}".into(), view: PhantomData }.view().is_err());
    }
}
