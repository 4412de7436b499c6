//! Converts texts to tokens and back, by Hugging Face's library.

use crate::gpu::{Error, Result};
use crate::nn::{Gguf, Value};
use std::collections::HashMap;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, PreTokenizerWrapper};

/// GGUF's kind of control tokens, which are no text.
const CONTROL: i64 = 3;
/// GGUF's kind of user-defined tokens: control tokens that were added when the model was trained further.
const USER_DEFINED: i64 = 4;
/// Bytes of a text that are encoded at once. The library uses a hundred times as much memory meanwhile.
const PART_BYTES: usize = 64 << 10;

/// A byte-level BPE tokenizer: converts texts to tokens and back.
///
/// ```no_run
/// # use gannet_sdk::{asset::Asset, llm::Tokenizer, nn::Gguf};
/// let asset = Asset::open("weights")?;
/// let tokenizer = Tokenizer::from_gguf(&Gguf::read(&mut asset.reader(), asset.len())?)?;
/// let tokens = tokenizer.encode("Hello!")?;
/// # Ok::<(), gannet_sdk::gpu::Error>(())
/// ```
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The bytes of all tokens, one token after the other. Special tokens have none.
    bytes: Vec<u8>,
    /// End of each token in `bytes`, by its id.
    ends: Vec<u32>,
    special: HashMap<String, u32>,
}

/// Maps the letters of a byte-level vocabulary to bytes (Radford et al., 2019). Printable bytes are their own letters;
/// the others, in their order, have the letters from U+0100.
fn letters() -> HashMap<char, u8> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut letters: HashMap<char, u8> = (0..=255).filter(printable).map(|byte| (char::from(byte), byte)).collect();
    let others = (0..=255u8).filter(|byte| !printable(byte));
    letters.extend(others.zip(256u32..).filter_map(|(byte, letter)| Some((char::from_u32(letter)?, byte))));
    letters
}

/// Returns the pre-tokenizer, which cuts a text into words before merging, by its name in GGUF.
fn cut(name: &str) -> Result<PreTokenizerWrapper> {
    let words = || PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true));
    match name {
        "gpt-2" | "default" => Ok(words()),
        // Cuts out each digit, then words.
        "smollm" => Ok(PreTokenizerWrapper::Sequence(Sequence::new(vec![
            PreTokenizerWrapper::Digits(Digits::new(true)),
            words(),
        ]))),
        other => Err(Error::Unsupported(format!("the pre-tokenizer {other:?}; known are \"gpt-2\" and \"smollm\""))),
    }
}

impl Tokenizer {
    /// Reads the byte-level BPE tokenizer of a GGUF file.
    ///
    /// A missing or invalid entry is `InvalidArgument`. A tokenizer other than `gpt2`, or a pre-tokenizer other than
    /// `gpt-2` and `smollm`, is `Unsupported`.
    ///
    /// ```
    /// # use gannet_sdk::{gpu, llm::Tokenizer, nn::Gguf};
    /// fn open(gguf: &Gguf) -> gpu::Result<Tokenizer> {
    ///     Tokenizer::from_gguf(gguf)
    /// }
    /// ```
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let missing = |name: &str| Error::InvalidArgument(format!("the gguf file has no {name}"));
        let texts = |name: &str| gguf.get(name).and_then(Value::texts).ok_or_else(|| missing(name));
        let kind = gguf.get("tokenizer.ggml.model").and_then(Value::text).unwrap_or_default();
        if kind != "gpt2" {
            return Err(Error::Unsupported(format!("the tokenizer {kind:?}; known is \"gpt2\"")));
        }
        let (tokens, merges) = (texts("tokenizer.ggml.tokens")?, texts("tokenizer.ggml.merges")?);
        let kinds = gguf.get("tokenizer.ggml.token_type").and_then(Value::integers).unwrap_or_default();
        let cut = cut(gguf.get("tokenizer.ggml.pre").and_then(Value::text).unwrap_or("default"))?;
        Self::new(tokens, merges, kinds, cut)
    }

    fn new(tokens: &[String], merges: &[String], kinds: &[i64], cut: PreTokenizerWrapper) -> Result<Self> {
        let failed = |error: tokenizers::Error| Error::InvalidArgument(format!("the tokenizer is not sound: {error}"));
        let vocabulary: Vocab = tokens.iter().cloned().zip(0u32..).collect();
        let halves = merges.iter().map(|merge| merge.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())));
        let halves: Option<Merges> = halves.collect();
        let halves =
            halves.ok_or_else(|| Error::InvalidArgument("a merge of the tokenizer is not two tokens".into()))?;
        let model = BPE::builder().vocab_and_merges(vocabulary, halves).build().map_err(failed)?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_pre_tokenizer(Some(cut));
        let mut special = HashMap::new();
        let letters = letters();
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(tokens.len()));
        for (id, text) in (0u32..).zip(tokens) {
            let kind = kinds.get(id as usize).copied().unwrap_or(1);
            if kind == CONTROL || kind == USER_DEFINED {
                special.insert(text.clone(), id);
            } else {
                bytes.extend(text.chars().filter_map(|letter| letters.get(&letter)));
            }
            ends.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        let added: Vec<_> =
            special.keys().map(|text| AddedToken::from(text.as_str(), true).normalized(false)).collect();
        inner.add_special_tokens(added).map_err(failed)?;
        Ok(Self { inner, bytes, ends, special })
    }

    /// Returns the tokens of a text. The text of a special token in it becomes that token.
    ///
    /// ```
    /// # use gannet_sdk::{gpu, llm::Tokenizer};
    /// fn count(tokenizer: &Tokenizer, text: &str) -> gpu::Result<usize> {
    ///     Ok(tokenizer.encode(text)?.len())
    /// }
    /// ```
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(self.part(rest));
            let encoded = self.inner.encode_fast(part, false);
            let encoded =
                encoded.map_err(|error| Error::InvalidArgument(format!("the text cannot be encoded: {error}")))?;
            tokens.extend_from_slice(encoded.get_ids());
            rest = behind;
        }
        Ok(tokens)
    }

    /// Returns how many bytes of a text can be encoded on their own, without a change to any token. A part ends behind
    /// an ASCII word, because no known pre-tokenizer looks at what is before such a place, and never inside of a
    /// special token. If there is no such place within `4 * PART_BYTES`, the text is longer than any context, and is
    /// cut anywhere.
    fn part(&self, text: &str) -> usize {
        let ends = |at: usize, pair: &[u8]| match pair {
            [word, behind] if word.is_ascii_alphanumeric() && behind.is_ascii() && !behind.is_ascii_alphanumeric() => {
                Some(at + 1)
            }
            _ => None,
        };
        let in_special = |at: &usize| {
            self.special.keys().any(|special| {
                let from = at.saturating_sub(special.len());
                let around = text.as_bytes().get(from..(at + special.len()).min(text.len())).unwrap_or_default();
                around
                    .windows(special.len().max(1))
                    .zip(from..)
                    .any(|(window, start)| window == special.as_bytes() && start < *at && at < &(start + special.len()))
            })
        };
        let pairs = text.as_bytes().windows(2).enumerate().take(4 * PART_BYTES).skip(PART_BYTES);
        let end = pairs.filter_map(|(at, pair)| ends(at, pair)).find(|at| !in_special(at));
        end.unwrap_or_else(|| text.floor_char_boundary(4 * PART_BYTES))
    }

    /// Id of the special token with this text; `None` if there is none.
    ///
    /// ```
    /// # use gannet_sdk::llm::Tokenizer;
    /// fn end(tokenizer: &Tokenizer) -> Option<u32> {
    ///     tokenizer.special("<|im_end|>")
    /// }
    /// ```
    pub fn special(&self, text: &str) -> Option<u32> {
        self.special.get(text).copied()
    }

    /// The bytes of a token. They are empty for a special or unknown token, and need not be whole characters.
    ///
    /// ```
    /// # use gannet_sdk::llm::Tokenizer;
    /// fn text(tokenizer: &Tokenizer, token: u32) -> String {
    ///     String::from_utf8_lossy(tokenizer.bytes(token)).into_owned()
    /// }
    /// ```
    pub fn bytes(&self, token: u32) -> &[u8] {
        let at = token as usize;
        let start = at.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(at).copied().unwrap_or(start);
        self.bytes.get(start as usize..end as usize).unwrap_or_default()
    }

    /// Number of tokens. Token ids are below it.
    ///
    /// ```
    /// # use gannet_sdk::llm::Tokenizer;
    /// fn knows(tokenizer: &Tokenizer, token: u32) -> bool {
    ///     (token as usize) < tokenizer.count()
    /// }
    /// ```
    pub fn count(&self) -> usize {
        self.ends.len()
    }
}

/// Decodes UTF-8 in pieces. Bytes of an incomplete character wait for the rest of it; invalid bytes become U+FFFD.
///
/// ```
/// # use gannet_sdk::llm::Decoder;
/// let mut decoder = Decoder::default();
/// assert_eq!(decoder.push(b"a\xf0\x9f\x90"), "a");
/// assert_eq!(decoder.push(b"\xa6"), "\u{1f426}");
/// assert_eq!(decoder.push(b"\xff!"), "\u{fffd}!");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    waiting: Vec<u8>,
}

impl Decoder {
    /// Adds bytes, and returns the characters that are complete now.
    ///
    /// ```
    /// # use gannet_sdk::llm::Decoder;
    /// assert_eq!(Decoder::default().push(b"abc"), "abc");
    /// ```
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.waiting.extend_from_slice(bytes);
        let mut text = String::new();
        let mut kept = 0;
        for chunk in self.waiting.utf8_chunks() {
            text.push_str(chunk.valid());
            kept += chunk.valid().len();
            let invalid = chunk.invalid();
            let at_end = kept + invalid.len() == self.waiting.len();
            // Invalid bytes at the end may be the beginning of a character.
            let begun = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            let waits = at_end && begun;
            if !invalid.is_empty() && !waits {
                text.push(char::REPLACEMENT_CHARACTER);
                kept += invalid.len();
            }
        }
        self.waiting.drain(..kept);
        text
    }

    /// Returns the rest at the end of the text. An incomplete character becomes U+FFFD.
    ///
    /// ```
    /// # use gannet_sdk::llm::Decoder;
    /// let mut decoder = Decoder::default();
    /// decoder.push(b"\xf0\x9f");
    /// assert_eq!(decoder.end(), "\u{fffd}");
    /// ```
    pub fn end(&mut self) -> String {
        let rest = std::mem::take(&mut self.waiting);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_letter() {
        let letters = letters();
        let mut bytes: Vec<u8> = letters.values().copied().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!((letters[&'Ġ'], letters[&'Ċ'], letters[&'a']), (b' ', b'\n', b'a'));
    }

    #[test]
    fn texts_become_tokens_and_tokens_bytes() {
        let tokens: Vec<String> =
            ["a", "b", "ab", "Ġ", "1", "<|end|>", "Ġab"].iter().map(ToString::to_string).collect();
        let merges: Vec<String> = ["a b", "Ġ ab"].iter().map(ToString::to_string).collect();
        let kinds = [1, 1, 1, 1, 1, CONTROL, 1];
        let tokenizer = Tokenizer::new(&tokens, &merges, &kinds, cut("smollm").unwrap()).unwrap();
        assert_eq!(tokenizer.encode("ab ab11<|end|>a").unwrap(), [2, 6, 4, 4, 5, 0]);
        assert_eq!((tokenizer.bytes(6), tokenizer.bytes(5), tokenizer.bytes(99)), (&b" ab"[..], &b""[..], &b""[..]));
        assert!(Tokenizer::new(&tokens, &["ab".to_owned()], &kinds, cut("gpt-2").unwrap()).is_err());
        // A long text is encoded in parts. Wherever they end, no word and no special token is cut.
        for head in [0, 3, 8] {
            for unit in ["ab ab1<|end|>", "ab'ab\n", "1 ab  ", "<|end|>", "é.ab.", "é"] {
                let text = "b".repeat(head) + &unit.repeat(2 * PART_BYTES / unit.len());
                let whole = tokenizer.inner.encode_fast(text.as_str(), false).unwrap();
                assert_eq!(tokenizer.encode(&text).unwrap(), whole.get_ids(), "{head} {unit:?}");
            }
        }
        assert!(cut("llama-bpe").is_err());
    }
}
