//! Stop texts: an answer ends before the first stop text, even if that is split between pieces.

use super::tokenizer::Decoder;

/// Decodes the text of an answer, and holds back its end while that may be the beginning of a stop text.
pub(super) struct HeldText<'a> {
    stop: &'a [String],
    decoder: Decoder,
    held: String,
}

impl<'a> HeldText<'a> {
    pub(super) fn new(stop: &'a [String]) -> Self {
        Self { stop, decoder: Decoder::default(), held: String::new() }
    }

    /// Adds bytes. Returns the text that can be sent now, and whether a stop text ended the answer.
    pub(super) fn push(&mut self, bytes: &[u8]) -> (String, bool) {
        self.held.push_str(&self.decoder.push(bytes));
        let found = self.stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| self.held.find(stop.as_str()));
        if let Some(at) = found.min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let begun = |stop: &String| {
            let prefixes = stop.char_indices().map(|(at, _)| at).rev();
            prefixes
                .filter(|at| *at > 0)
                .find(|at| self.held.ends_with(stop.get(..*at).unwrap_or_default()))
                .unwrap_or(0)
        };
        let kept = self.stop.iter().map(begun).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// Returns the text that was held back, at the end of the answer.
    pub(super) fn end(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.held);
        rest.push_str(&self.decoder.end());
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(stop: &[&str], parts: &[&str]) -> (String, bool) {
        let stop: Vec<String> = stop.iter().map(ToString::to_string).collect();
        let mut text = HeldText::new(&stop);
        let mut all = String::new();
        for part in parts {
            let (piece, stopped) = text.push(part.as_bytes());
            all.push_str(&piece);
            if stopped {
                return (all, true);
            }
        }
        (all + &text.end(), false)
    }

    #[test]
    fn a_stop_text_ends_an_answer_wherever_it_is_cut() {
        assert_eq!(told(&["END"], &["one E", "N", "D two"]), ("one ".into(), true));
        assert_eq!(told(&["END", "ne"], &["o", "n", "e"]), ("o".into(), true));
        assert_eq!(told(&["END"], &["one E", "N", "d"]), ("one ENd".into(), false));
        assert_eq!(told(&["aab"], &["a", "a", "a", "b"]), ("a".into(), true));
        assert_eq!(told(&[""], &["a"]), ("a".into(), false));
        assert_eq!(told(&["é!"], &["x", "é", "?"]), ("xé?".into(), false));
    }
}
