//! Key-value storage as a request asks for it: `/kv?op=…&bucket=…&key=…`. A number is in `by`, `count` or `bytes`; the value
//! is the body.

use gannet_sdk::http::{Request, Response};
use gannet_sdk::keyvalue::Bucket;
use gannet_sdk::{Error, Result};

fn number(request: &Request, name: &str) -> u64 {
    request.query(name).and_then(|text| text.parse().ok()).unwrap_or_default()
}

pub(crate) fn answer(request: &Request) -> Result<Response> {
    let asked = |name: &str| request.query(name).unwrap_or_default();
    let bucket = Bucket::open(&asked("bucket"))?;
    // A key may be longer than a URL can be.
    let key = match number(request, "key_bytes") {
        0 => asked("key"),
        bytes => "k".repeat(usize::try_from(bytes)?),
    };
    let done = match asked("op").as_str() {
        "get" => match bucket.get(&key)? {
            Some(value) => return Ok(Response::bytes("application/octet-stream", value)),
            None => return Err(Error::new(404, "there is no such key")),
        },
        "set" => bucket.set(&key, request.body()).map(|()| "set".to_owned())?,
        "delete" => bucket.delete(&key).map(|()| "deleted".to_owned())?,
        "exists" => bucket.exists(&key)?.to_string(),
        "add" => bucket.increment(&key, number(request, "by"))?.to_string(),
        "keys" => {
            let mut keys = bucket.keys().collect::<std::result::Result<Vec<_>, _>>()?;
            keys.sort();
            keys.join("\n")
        }
        // `count` keys with values of `bytes` bytes, all in one call.
        "fill" => {
            let value = vec![b'x'; usize::try_from(number(request, "bytes"))?];
            bucket.set_many((0..number(request, "count")).map(|n| (format!("{key}{n}"), value.clone())))?;
            "filled".to_owned()
        }
        "read" => {
            let values = bucket.get_many((0..number(request, "count")).map(|n| format!("{key}{n}")))?;
            let found: Vec<String> =
                values.iter().map(|value| value.as_ref().map_or("-".into(), |value| value.len().to_string())).collect();
            found.join(" ")
        }
        "clear" => {
            bucket.delete_many((0..number(request, "count")).map(|n| format!("{key}{n}")))?;
            "cleared".to_owned()
        }
        other => return Err(Error::new(400, format!("there is no {other:?}"))),
    };
    Ok(Response::text(done))
}
