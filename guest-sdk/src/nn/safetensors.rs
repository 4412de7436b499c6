//! Headers of safetensors files, with the format, shape and byte range of each tensor. A header is its length, a
//! little-endian `u64`, and JSON. The data is not read.

use super::tensor::{DType, Tensor};
use crate::gpu::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read;

/// The largest header. The format's own library has the same limit.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// The header of a safetensors file.
///
/// ```no_run
/// # use gannet_sdk::{asset::Asset, nn::SafeTensors};
/// let asset = Asset::open("weights")?;
/// let tensors = SafeTensors::read(&mut asset.reader(), asset.len())?;
/// let words = tensors.tensor("embeddings.word_embeddings.weight")?.matrix(&asset)?;
/// # Ok::<(), gannet_sdk::gpu::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct SafeTensors {
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum HeaderEntry {
    Tensor {
        dtype: String,
        shape: Vec<u64>,
        data_offsets: (u64, u64),
    },
    /// `__metadata__`, which contains texts about the file.
    Other(serde::de::IgnoredAny),
}

fn corrupt(what: impl std::fmt::Display) -> Error {
    Error::InvalidArgument(format!("the safetensors file is not sound: {what}"))
}

impl SafeTensors {
    /// Reads the header of a file of `file_bytes` bytes.
    ///
    /// Tensors in formats other than F32 and F16 are left out. An invalid header, or a tensor that does not fit its
    /// shape or the file, is `InvalidArgument`.
    ///
    /// ```
    /// # use gannet_sdk::nn::SafeTensors;
    /// let header = br#"{"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#;
    /// let file = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 8]].concat();
    /// let tensors = SafeTensors::read(&mut &file[..], file.len() as u64)?;
    /// assert_eq!(tensors.tensor("w")?.shape, [1, 2]);
    /// # Ok::<(), gannet_sdk::gpu::Error>(())
    /// ```
    pub fn read(from: &mut impl Read, file_bytes: u64) -> Result<Self> {
        let mut length = [0; 8];
        from.read_exact(&mut length).map_err(corrupt)?;
        let length = u64::from_le_bytes(length);
        let most = file_bytes.saturating_sub(8).min(HEADER_BYTES_MAX);
        if length > most {
            return Err(corrupt(format_args!("a header of {length} bytes; the most is {most}")));
        }
        let mut header = vec![0; usize::try_from(length).unwrap_or(0)];
        from.read_exact(&mut header).map_err(corrupt)?;
        let entries: BTreeMap<String, HeaderEntry> = serde_json::from_slice(&header).map_err(corrupt)?;
        let data = 8 + length;
        let mut tensors = BTreeMap::new();
        for (name, entry) in entries {
            let HeaderEntry::Tensor { dtype, shape, data_offsets: (start, end) } = entry else { continue };
            let dtype = match dtype.as_str() {
                "F32" => DType::F32,
                "F16" => DType::F16,
                // Tensors of other formats are left out; `tensor` returns an error for them.
                _ => continue,
            };
            let range = data.checked_add(start).zip(data.checked_add(end));
            let (start, end) = range.ok_or_else(|| corrupt(format_args!("tensor {name:?} ends beyond all bytes")))?;
            let tensor = Tensor { dtype, shape, range: start..end };
            tensor.check(file_bytes).map_err(|error| corrupt(format_args!("tensor {name:?}: {}", error.message())))?;
            tensors.insert(name, tensor);
        }
        Ok(Self { tensors })
    }

    /// A tensor of F32 or F16 by its name; `NotFound` if there is none.
    ///
    /// ```
    /// # use gannet_sdk::{gpu, nn::{SafeTensors, Tensor}};
    /// fn words(tensors: &SafeTensors) -> gpu::Result<&Tensor> {
    ///     tensors.tensor("embeddings.word_embeddings.weight")
    /// }
    /// ```
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors
            .get(name)
            .ok_or_else(|| Error::NotFound(format!("the safetensors file has no tensor {name:?} of F32 or F16")))
    }

    /// A tensor that must be a matrix of `rows` rows of `inner` weights. Any other shape is `InvalidArgument`.
    ///
    /// ```
    /// # use gannet_sdk::{gpu, nn::{SafeTensors, Tensor}};
    /// fn weights(file: &SafeTensors) -> gpu::Result<Tensor> {
    ///     file.matrix("encoder.layer.0.output.dense.weight", 576, 576)
    /// }
    /// ```
    pub fn matrix(&self, name: &str, rows: u32, inner: u32) -> Result<Tensor> {
        self.tensor(name)?.checked(name, |tensor| tensor.check_matrix(rows, inner))
    }

    /// A tensor that must have `length` values of F32. Any other length or format is `InvalidArgument`.
    ///
    /// ```
    /// # use gannet_sdk::{gpu, nn::{SafeTensors, Tensor}};
    /// fn values(file: &SafeTensors) -> gpu::Result<Tensor> {
    ///     file.vector("encoder.layer.0.output.dense.bias", 576)
    /// }
    /// ```
    pub fn vector(&self, name: &str, length: u32) -> Result<Tensor> {
        self.tensor(name)?.checked(name, |tensor| tensor.check_vector(length))
    }

    /// The names of all tensors of F32 or F16.
    ///
    /// ```
    /// # use gannet_sdk::nn::SafeTensors;
    /// fn layers(tensors: &SafeTensors) -> usize {
    ///     tensors.names().filter(|name| name.ends_with("attention.self.query.weight")).count()
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

    fn read(header: &str, data: usize) -> Result<SafeTensors> {
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat();
        SafeTensors::read(&mut &file[..], file.len() as u64)
    }

    #[test]
    fn what_is_not_sound_is_refused() {
        let entry = |shape: &str, offsets: &str| {
            format!(
                r#"{{"__metadata__":{{"format":"pt"}},"w":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#
            )
        };
        assert!(read(&entry("[2]", "[0,8]"), 8).is_ok());
        for (header, data) in [
            (entry("[2]", "[0,8]"), 7),
            (entry("[2]", "[0,4]"), 8),
            (entry("[2]", "[8,0]"), 8),
            (entry("[18446744073709551615,2]", "[0,8]"), 8),
            (entry("[2]", "[18446744073709551615,18446744073709551615]"), 8),
            ("[]".to_owned(), 8),
            ("{".to_owned(), 8),
        ] {
            assert!(read(&header, data).is_err(), "{header}");
        }
        assert!(SafeTensors::read(&mut &u64::MAX.to_le_bytes()[..], 8).is_err());
        assert!(read(r#"{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}"#, 4).unwrap().tensor("w").is_err());
    }
}
