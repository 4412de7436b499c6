//! Headers of GGUF files (versions 2 and 3), with the metadata of a model, and the format, shape and byte range of each
//! tensor. The data is not read.
//!
//! Files are not trusted: counts and lengths are checked against the bytes of the file before memory is allocated for
//! them.

use super::tensor::{DType, Tensor};
use crate::gpu::{Error, Result};
use std::collections::BTreeMap;
use std::io::{self, Read};

/// The most metadata entries of a file, and the most tensors.
const ENTRIES_MAX: u64 = 65_536;
/// The most bytes of a text.
const TEXT_BYTES_MAX: u64 = 4 << 20;
/// The most items of an array.
const ITEMS_MAX: u64 = 4 << 20;
/// The most bytes of a header.
const HEADER_BYTES_MAX: u64 = 256 << 20;
/// The most dimensions of a tensor.
const DIMENSIONS_MAX: u32 = 4;

/// The value of a metadata entry.
///
/// ```
/// # use gannet_sdk::nn::Value;
/// assert_eq!(Value::Integer(30).integer(), Some(30));
/// assert_eq!(Value::Text("llama".into()).integer(), None);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number of any type. A `u64` beyond `i64` is `i64::MAX`.
    Integer(i64),
    /// An `f32` or `f64`.
    Float(f64),
    /// A Boolean.
    Bool(bool),
    /// A text. Bytes that are not UTF-8 are replaced by U+FFFD.
    Text(String),
    /// An array of texts.
    Texts(Vec<String>),
    /// An array of whole numbers or Booleans.
    Integers(Vec<i64>),
    /// An array of `f32` or `f64`.
    Floats(Vec<f64>),
}

impl Value {
    /// The whole number; `None` for all other kinds of value.
    ///
    /// ```
    /// # use gannet_sdk::nn::Value;
    /// assert_eq!(Value::Integer(576).integer(), Some(576));
    /// ```
    pub fn integer(&self) -> Option<i64> {
        if let Self::Integer(value) = self { Some(*value) } else { None }
    }

    /// The floating-point number; `None` for all other kinds of value.
    ///
    /// ```
    /// # use gannet_sdk::nn::Value;
    /// assert_eq!(Value::Float(1e-5).float(), Some(1e-5));
    /// ```
    pub fn float(&self) -> Option<f64> {
        if let Self::Float(value) = self { Some(*value) } else { None }
    }

    /// The text; `None` for all other kinds of value.
    ///
    /// ```
    /// # use gannet_sdk::nn::Value;
    /// assert_eq!(Value::Text("llama".into()).text(), Some("llama"));
    /// ```
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(value) = self { Some(value) } else { None }
    }

    /// The array of texts; `None` for all other kinds of value.
    ///
    /// ```
    /// # use gannet_sdk::nn::Value;
    /// assert_eq!(Value::Texts(vec!["a".into()]).texts().map(<[_]>::len), Some(1));
    /// ```
    pub fn texts(&self) -> Option<&[String]> {
        if let Self::Texts(value) = self { Some(value) } else { None }
    }

    /// The array of whole numbers; `None` for all other kinds of value.
    ///
    /// ```
    /// # use gannet_sdk::nn::Value;
    /// assert_eq!(Value::Integers(vec![1, 2]).integers(), Some(&[1, 2][..]));
    /// ```
    pub fn integers(&self) -> Option<&[i64]> {
        if let Self::Integers(value) = self { Some(value) } else { None }
    }
}

/// The header of a GGUF file.
///
/// ```no_run
/// # use gannet_sdk::{asset::Asset, nn::Gguf};
/// let asset = Asset::open("weights")?;
/// let gguf = Gguf::read(&mut asset.reader(), asset.len())?;
/// let layers = gguf.integer("llama.block_count")?;
/// let output = gguf.tensor("token_embd.weight")?.matrix(&asset)?;
/// # Ok::<(), gannet_sdk::gpu::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Gguf {
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Tensor>,
}

/// Reads the header's values one by one, and never more than `most` bytes.
struct HeaderReader<'a, R> {
    from: &'a mut R,
    read: u64,
    most: u64,
}

fn corrupt(what: impl std::fmt::Display) -> Error {
    Error::InvalidArgument(format!("the gguf file is not sound: {what}"))
}

impl<R: Read> HeaderReader<'_, R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.exactly(&mut bytes)?;
        Ok(bytes)
    }

    fn exactly(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.read += bytes.len() as u64;
        if self.read > self.most {
            let most = self.most;
            return Err(match most {
                HEADER_BYTES_MAX => corrupt(format_args!("its header passes {most} bytes")),
                _ => corrupt(format_args!("it ends at byte {most}, in its header")),
            });
        }
        let at = self.read;
        self.from.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => corrupt(format_args!("it ends before byte {at}, in its header")),
            _ => corrupt(error),
        })
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn count(&mut self, what: &str, most: u64) -> Result<u64> {
        let count = self.u64()?;
        // Each item takes at least a byte.
        let most = most.min(self.most.saturating_sub(self.read));
        if count > most { Err(corrupt(format_args!("{count} {what}; the most is {most}"))) } else { Ok(count) }
    }

    fn text(&mut self) -> Result<String> {
        let length = self.count("bytes of a text", TEXT_BYTES_MAX)?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.exactly(&mut bytes)?;
        // Tokens of a vocabulary may be invalid UTF-8.
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn scalar(&mut self, kind: u32) -> Result<Value> {
        Ok(match kind {
            0 => Value::Integer(u8::from_le_bytes(self.bytes()?).into()),
            1 => Value::Integer(i8::from_le_bytes(self.bytes()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.bytes()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.bytes()?).into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.bytes()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.bytes()?).into()),
            7 => Value::Bool(u8::from_le_bytes(self.bytes()?) != 0),
            8 => Value::Text(self.text()?),
            10 => Value::Integer(i64::try_from(self.u64()?).unwrap_or(i64::MAX)),
            11 => Value::Integer(i64::from_le_bytes(self.bytes()?)),
            12 => Value::Float(f64::from_le_bytes(self.bytes()?)),
            other => return Err(corrupt(format_args!("a value of the kind {other}"))),
        })
    }

    fn value(&mut self) -> Result<Value> {
        let kind = self.u32()?;
        if kind != 9 {
            return self.scalar(kind);
        }
        let kind = self.u32()?;
        let count = self.count("items of an array", ITEMS_MAX)?;
        let mut all = match kind {
            8 => Value::Texts(Vec::new()),
            6 | 12 => Value::Floats(Vec::new()),
            _ => Value::Integers(Vec::new()),
        };
        for _ in 0..count {
            match (&mut all, self.scalar(kind)?) {
                (Value::Texts(all), Value::Text(item)) => all.push(item),
                (Value::Floats(all), Value::Float(item)) => all.push(item),
                (Value::Integers(all), Value::Integer(item)) => all.push(item),
                (Value::Integers(all), Value::Bool(item)) => all.push(item.into()),
                _ => return Err(corrupt(format_args!("an array of the kind {kind}"))),
            }
        }
        Ok(all)
    }

    /// Reads a tensor, whose `range` is empty and begins at its offset in the data. The real range is known only when
    /// the whole header was read.
    fn tensor(&mut self) -> Result<(String, Tensor)> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        if dimensions > DIMENSIONS_MAX {
            return Err(corrupt(format_args!(
                "tensor {name:?} has {dimensions} dimensions; the most is {DIMENSIONS_MAX}"
            )));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(self.u64()?);
        }
        // The file has the innermost dimension first.
        shape.reverse();
        let dtype = match self.u32()? {
            0 => DType::F32,
            1 => DType::F16,
            2 => DType::Q4_0,
            3 => DType::Q4_1,
            8 => DType::Q8_0,
            12 => DType::Q4_K,
            14 => DType::Q6_K,
            other => {
                return Err(Error::Unsupported(format!(
                    "tensor {name:?} has the format {other}; known are F32 0, F16 1, Q4_0 2, Q4_1 3, Q8_0 8, Q4_K 12, Q6_K 14"
                )));
            }
        };
        let offset = self.u64()?;
        Ok((name, Tensor { dtype, shape, range: offset..offset }))
    }
}

impl Gguf {
    /// Reads the header of a file of `file_bytes` bytes.
    ///
    /// An invalid header, or a tensor outside the file, is `InvalidArgument`. Another version, or a tensor in a format
    /// that is none of [`DType`], is `Unsupported`.
    ///
    /// ```
    /// # use gannet_sdk::nn::Gguf;
    /// let told = Gguf::read(&mut &b"PK.."[..], 4).unwrap_err();
    /// assert!(told.message().contains("not sound"));
    /// ```
    pub fn read(from: &mut impl Read, file_bytes: u64) -> Result<Self> {
        let mut header = HeaderReader { from, read: 0, most: file_bytes.min(HEADER_BYTES_MAX) };
        if header.bytes()? != *b"GGUF" {
            return Err(corrupt("it does not begin with GGUF"));
        }
        let version = header.u32()?;
        if !(2..=3).contains(&version) {
            return Err(Error::Unsupported(format!("gguf version {version}; known are 2 and 3")));
        }
        let tensors = header.count("tensors", ENTRIES_MAX)?;
        let entries = header.count("entries", ENTRIES_MAX)?;
        let mut gguf = Self::default();
        for _ in 0..entries {
            let name = header.text()?;
            let value = header.value()?;
            gguf.metadata.insert(name, value);
        }
        let mut found = Vec::new();
        for _ in 0..tensors {
            found.push(header.tensor()?);
        }
        let alignment = gguf.metadata.get("general.alignment").and_then(Value::integer).unwrap_or(32);
        let alignment = u64::try_from(alignment).ok().filter(|n| n.is_power_of_two());
        let alignment = alignment.ok_or_else(|| corrupt("its alignment is no power of two"))?;
        let data = header.read.next_multiple_of(alignment);
        for (name, mut tensor) in found {
            let count = tensor.shape.iter().try_fold(1u64, |product, n| product.checked_mul(*n));
            let bytes = count.and_then(|count| tensor.dtype.bytes(count));
            let start = data.checked_add(tensor.range.start);
            let range = start.zip(bytes).and_then(|(start, bytes)| Some(start..start.checked_add(bytes)?));
            tensor.range = range.ok_or_else(|| corrupt(format_args!("tensor {name:?} of shape {:?}", tensor.shape)))?;
            tensor.check(file_bytes).map_err(|error| corrupt(format_args!("tensor {name:?}: {}", error.message())))?;
            gguf.tensors.insert(name, tensor);
        }
        Ok(gguf)
    }

    /// The metadata entry with this name; `None` if there is none.
    ///
    /// ```
    /// # use gannet_sdk::nn::{Gguf, Value};
    /// fn template(gguf: &Gguf) -> Option<&str> {
    ///     gguf.get("tokenizer.chat_template").and_then(Value::text)
    /// }
    /// ```
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.metadata.get(name)
    }

    /// The metadata entry with this name, which must be a whole number from 1 to 2³² − 1. Everything else is
    /// `InvalidArgument`.
    ///
    /// ```
    /// # use gannet_sdk::{gpu, nn::Gguf};
    /// fn layers(gguf: &Gguf) -> gpu::Result<u32> {
    ///     gguf.integer("llama.block_count")
    /// }
    /// ```
    pub fn integer(&self, name: &str) -> Result<u32> {
        let value = self.get(name);
        let number = value.and_then(Value::integer).and_then(|value| u32::try_from(value).ok()).filter(|n| *n > 0);
        number.ok_or_else(|| match value {
            Some(value) => corrupt(format_args!("{name} is {value:?}, and should be a whole number above 0")),
            None => corrupt(format_args!("it has no entry {name}")),
        })
    }

    /// The tensor with this name; `NotFound` if there is none.
    ///
    /// ```
    /// # use gannet_sdk::{gpu, nn::{Gguf, Tensor}};
    /// fn embedding(gguf: &Gguf) -> gpu::Result<&Tensor> {
    ///     gguf.tensor("token_embd.weight")
    /// }
    /// ```
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| Error::NotFound(format!("the gguf file has no tensor {name:?}")))
    }

    /// A tensor that must be a matrix of `rows` rows of `inner` weights. Any other shape is `InvalidArgument`.
    ///
    /// ```
    /// # use gannet_sdk::{gpu, nn::{Gguf, Tensor}};
    /// fn weights(file: &Gguf) -> gpu::Result<Tensor> {
    ///     file.matrix("blk.0.attn_q.weight", 576, 576)
    /// }
    /// ```
    pub fn matrix(&self, name: &str, rows: u32, inner: u32) -> Result<Tensor> {
        self.tensor(name)?.checked(name, |tensor| tensor.check_matrix(rows, inner))
    }

    /// A tensor that must have `length` values of F32. Any other length or format is `InvalidArgument`.
    ///
    /// ```
    /// # use gannet_sdk::{gpu, nn::{Gguf, Tensor}};
    /// fn values(file: &Gguf) -> gpu::Result<Tensor> {
    ///     file.vector("output_norm.weight", 576)
    /// }
    /// ```
    pub fn vector(&self, name: &str, length: u32) -> Result<Tensor> {
        self.tensor(name)?.checked(name, |tensor| tensor.check_vector(length))
    }

    /// The names of all tensors.
    ///
    /// ```
    /// # use gannet_sdk::nn::Gguf;
    /// fn layers(gguf: &Gguf) -> usize {
    ///     gguf.names().filter(|name| name.ends_with("attn_q.weight")).count()
    /// }
    /// ```
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }

    /// A file with two entries and a tensor of Q8_0.
    fn file() -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(1u64.to_le_bytes());
        out.extend(2u64.to_le_bytes());
        text(&mut out, "llama.block_count");
        out.extend(4u32.to_le_bytes());
        out.extend(30u32.to_le_bytes());
        text(&mut out, "tokenizer.ggml.tokens");
        out.extend(9u32.to_le_bytes());
        out.extend(8u32.to_le_bytes());
        out.extend(2u64.to_le_bytes());
        text(&mut out, "a");
        text(&mut out, "b");
        text(&mut out, "w");
        out.extend(2u32.to_le_bytes());
        out.extend(64u64.to_le_bytes());
        out.extend(2u64.to_le_bytes());
        out.extend(8u32.to_le_bytes());
        out.extend(0u64.to_le_bytes());
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend([0; 136]);
        out
    }

    fn read(bytes: &[u8]) -> Result<Gguf> {
        Gguf::read(&mut &*bytes, bytes.len() as u64)
    }

    #[test]
    fn a_header_tells_what_is_in_a_file() {
        let file = file();
        let gguf = read(&file).unwrap();
        assert_eq!(gguf.integer("llama.block_count").unwrap(), 30);
        assert_eq!(gguf.get("tokenizer.ggml.tokens").unwrap().texts().unwrap(), ["a", "b"]);
        let tensor = gguf.tensor("w").unwrap();
        let end = file.len() as u64;
        assert_eq!((tensor.shape.as_slice(), tensor.range.clone()), (&[2u64, 64][..], end - 136..end));
        assert!(gguf.tensor("v").is_err() && gguf.integer("tokenizer.ggml.tokens").is_err());
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_refused() {
        let file = file();
        for length in 0..file.len() {
            assert!(read(&file[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_file_with_any_byte_changed_never_panics() {
        let file = file();
        for at in 0..file.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = file.clone();
                changed[at] = value;
                let _ = read(&changed);
            }
        }
    }
}
