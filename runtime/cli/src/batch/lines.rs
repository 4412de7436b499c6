//! Divides a file with an input on each line into the inputs of one call each.

use crate::failure::Failure;
use serde_json::value::RawValue;
use std::io::BufRead;

/// Inputs that one call may have. The server's limit.
const INPUTS_MAX: usize = 5_000;
/// Bytes of the inputs of one call, if it has more than one: below the server's limit of 20 MiB.
const BYTES_MAX: usize = 16 << 20;

/// The inputs of a file.
pub struct Lines<R> {
    read: R,
    number: u64,
    /// A line that was read and belongs to the next call.
    ahead: String,
    /// Bytes that were read.
    pub bytes: u64,
}

impl<R: BufRead> Lines<R> {
    pub fn new(read: R) -> Self {
        Self { read, number: 0, ahead: String::new(), bytes: 0 }
    }

    /// Returns the inputs of the next call as a list in JSON, byte for byte as they are in the file. None at its end.
    pub fn next_call(&mut self) -> Result<Option<String>, Failure> {
        let (mut list, mut count) = (String::from("["), 0);
        while count < INPUTS_MAX && self.look_ahead()? {
            let text = self.ahead.trim();
            if count > 0 && list.len() + text.len() >= BYTES_MAX {
                break;
            }
            if count > 0 {
                list.push(',');
            }
            list.push_str(text);
            count += 1;
            self.ahead.clear();
        }
        list.push(']');
        Ok((count > 0).then_some(list))
    }

    /// Reads the next input, unless it was read already. Returns false at the end.
    fn look_ahead(&mut self) -> Result<bool, Failure> {
        while self.ahead.trim().is_empty() {
            self.ahead.clear();
            let read = self.read.read_line(&mut self.ahead);
            let read = read.map_err(|error| Failure::usage("the inputs cannot be read").because(error))?;
            if read == 0 {
                return Ok(false);
            }
            self.number += 1;
            self.bytes += read as u64;
        }
        match serde_json::from_str::<&RawValue>(self.ahead.trim()) {
            Ok(_) => Ok(true),
            Err(error) => Err(Failure::usage(format!("line {} is not JSON", self.number)).because(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_divided_into_calls_of_so_many_lines_as_they_are() {
        let calls = |text: &str| {
            let mut lines = Lines::new(text.as_bytes());
            std::iter::from_fn(|| lines.next_call().transpose()).collect::<Result<Vec<_>, _>>()
        };
        assert_eq!(calls("{\"a\" : 1.0}\r\n\n \"x\"").unwrap(), [r#"[{"a" : 1.0},"x"]"#]);
        assert!(calls("\n \n").unwrap().is_empty());
        let counts = |lines: usize| -> Vec<usize> {
            let calls = calls(&"1\n".repeat(lines)).unwrap();
            calls.iter().map(|call| call.matches('1').count()).collect()
        };
        assert_eq!((counts(5_000), counts(10_001)), (vec![5_000], vec![5_000, 5_000, 1]));
        let long = format!("\"{}\"\n", "x".repeat(9 << 20));
        assert_eq!(calls(&long.repeat(3)).unwrap().len(), 3, "two of them are too long for one call");
        assert!(format!("{:?}", calls("1\n\n{").unwrap_err()).contains("line 3 is not JSON"));
    }
}
