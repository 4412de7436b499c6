//! A handler of background jobs. A job is a POST of `{"id": …, "input": …}` to `/`; the JSON that comes back is its
//! output. What this one does depends on the input:
//!
//! | input | what follows |
//! |---|---|
//! | `{"say": "x"}` | the output `{"said": "x"}`, with `attempt` if the input has `"tell_attempt": true` |
//! | `{"stream": 3, "every_ms": 10}` | three lines of JSON, which are the parts of the job's stream |
//! | `{"sleep_ms": 100}` | the output `{"slept_ms": 100}`, later |
//! | `{"fail": "why"}`, `{"error": "why"}` | a failed job, by a status and by an output with `error` |
//! | `{"trap_before": 2}` | attempts before the second trap |
//! | `{"large": 1000}` | an output with a text of 1,000 bytes |
//! | `{"seen": true}` | the job's id and the attempt, from the body and from the headers |
//! | `{"spin": true}` | it computes until it is ended |
//! | `{"progress": [1, "x"], "every_ms": 10}` | it reports each value as its progress and pauses after it; the output is the job and the attempt |
//! | `{"late": "x"}` | the same output; behind it, the log has what came of telling `"x"` |
//!
//! A request that is no job can send the same, and sees that there is no job to tell about.

use gannet_sdk::http::{Request, Response};
use gannet_sdk::{Error, Result, job};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Deserialize)]
struct Job {
    id: String,
    input: Input,
}

#[derive(Deserialize)]
struct Input {
    say: Option<Value>,
    #[serde(default)]
    tell_attempt: bool,
    stream: Option<u32>,
    #[serde(default)]
    every_ms: u64,
    sleep_ms: Option<u64>,
    fail: Option<String>,
    error: Option<String>,
    trap_before: Option<u32>,
    large: Option<usize>,
    seen: Option<bool>,
    spin: Option<bool>,
    progress: Option<Vec<Value>>,
    late: Option<String>,
}

fn this_job() -> Result<Response> {
    let job = job::current()?;
    Ok(Response::json(json!({ "job": job.id, "attempt": job.attempt }).to_string()))
}

#[gannet_sdk::handler]
fn task(request: Request) -> Result<Response> {
    let job: Job = serde_json::from_slice(request.body()).map_err(|error| Error::new(400, error.to_string()))?;
    let attempt: u32 = request.header("x-gannet-job-attempt").and_then(|text| text.parse().ok()).unwrap_or_default();
    let input = job.input;
    if let Some(first) = input.trap_before {
        assert!(attempt >= first, "attempt {attempt} traps, as asked");
    }
    if let Some(count) = input.stream {
        let every = Duration::from_millis(input.every_ms);
        return Ok(Response::stream("application/x-ndjson", move |body| {
            for n in 1..=count {
                std::thread::sleep(every);
                body.write(format!("{}\n", json!({ "n": n })).as_bytes())?;
            }
            Ok(())
        }));
    }
    if let Some(why) = input.fail {
        return Err(Error::new(500, why));
    }
    if input.spin == Some(true) {
        let mut n = 0u64;
        loop {
            n = std::hint::black_box(n.wrapping_add(1));
        }
    }
    if let Some(all) = input.progress {
        for progress in all {
            job::progress(&progress)?;
            std::thread::sleep(Duration::from_millis(input.every_ms));
        }
        return this_job();
    }
    if let Some(late) = input.late {
        return Ok(this_job()?.after(move || {
            std::thread::sleep(Duration::from_millis(300));
            println!("told late: {:?}", job::progress(&late));
        }));
    }
    if let Some(ms) = input.sleep_ms {
        std::thread::sleep(Duration::from_millis(ms));
        return Ok(Response::json(json!({ "slept_ms": ms }).to_string()));
    }
    if let Some(bytes) = input.large {
        return Ok(Response::json(json!({ "large": "x".repeat(bytes) }).to_string()));
    }
    if input.seen == Some(true) {
        let id = request.header("x-gannet-job-id").unwrap_or_default();
        return Ok(Response::json(json!({ "body_id": job.id, "header_id": id, "attempt": attempt }).to_string()));
    }
    if let Some(error) = input.error {
        return Ok(Response::json(json!({ "error": error }).to_string()));
    }
    let mut output = json!({ "said": input.say });
    if input.tell_attempt {
        output["attempt"] = attempt.into();
    }
    Ok(Response::json(output.to_string()))
}
