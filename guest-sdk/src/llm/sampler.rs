//! Chooses the next token by temperature, top-p and penalties, as OpenAI's API defines them.

use crate::openai::Sampling;
use crate::random;
use std::collections::HashMap;

/// Chooses the tokens of one answer from logits. Penalties apply to the tokens that it has chosen before.
///
/// ```
/// # use gannet_sdk::{llm::Sampler, openai::Sampling};
/// let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() });
/// assert_eq!(sampler.choose(&[0.1, 0.7, 0.2]), 1);
/// ```
#[derive(Debug)]
pub struct Sampler {
    how: Sampling,
    random: fastrand::Rng,
    /// How often each token was chosen, by its id.
    seen: HashMap<u32, u32>,
}

/// Returns the index of the largest value, the lowest index of equal ones.
fn largest(logits: impl Iterator<Item = f32>) -> u32 {
    let best = logits.zip(0u32..).fold((f32::NEG_INFINITY, 0), |best, now| if now.0 > best.0 { now } else { best });
    best.1
}

impl Sampler {
    /// A sampler for one answer. Without a seed, its random numbers differ from those of all other instances.
    ///
    /// ```
    /// # use gannet_sdk::{llm::Sampler, openai::Sampling};
    /// let seeded = || Sampler::new(Sampling { seed: Some(7), ..Sampling::default() });
    /// let logits = [0.0; 100];
    /// assert_eq!(seeded().choose(&logits), seeded().choose(&logits));
    /// ```
    pub fn new(how: Sampling) -> Self {
        let random = how.seed.map_or_else(random::generator, fastrand::Rng::with_seed);
        Self { how, random, seen: HashMap::new() }
    }

    /// Returns the id of the next token. `logits` has a value for each token id.
    ///
    /// ```
    /// # use gannet_sdk::{llm::Sampler, openai::Sampling};
    /// let mut sampler = Sampler::new(Sampling { top_p: 0.1, ..Sampling::default() });
    /// assert_eq!(sampler.choose(&[9.0, 0.0, 0.0]), 0);
    /// ```
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        let token = if self.how.temperature <= 0.0 && self.penalties() == [0.0; 2] {
            largest(logits.iter().copied())
        } else {
            self.among(logits)
        };
        *self.seen.entry(token).or_default() += 1;
        token
    }

    fn penalties(&self) -> [f64; 2] {
        [self.how.presence_penalty, self.how.frequency_penalty]
    }

    #[allow(clippy::cast_possible_truncation)]
    fn among(&mut self, logits: &[f32]) -> u32 {
        let mut logits = logits.to_vec();
        let [presence, frequency] = self.penalties();
        for (token, count) in &self.seen {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit -= (presence + frequency * f64::from(*count)) as f32;
            }
        }
        if self.how.temperature <= 0.0 {
            return largest(logits.into_iter());
        }
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let chance = |logit: f32| (f64::from(logit - most) / self.how.temperature).exp();
        let mut chances: Vec<(f64, u32)> = logits.into_iter().map(chance).zip(0u32..).collect();
        let sum: f64 = chances.iter().map(|(chance, _)| chance).sum();
        let mut kept = sum;
        if self.how.top_p < 1.0 {
            // Tokens below this cannot be among those kept: all of them together have less than `1 - top_p`. They need
            // no sorting.
            let least = (1.0 - self.how.top_p) * sum / chances.len() as f64;
            chances.retain(|(chance, _)| *chance >= least);
            chances.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let mut upto = 0.0;
            let count = chances.iter().position(|(chance, _)| {
                upto += chance;
                upto >= self.how.top_p * sum
            });
            chances.truncate(count.map_or(chances.len(), |count| count + 1));
            kept = chances.iter().map(|(chance, _)| chance).sum();
        }
        let mut point = self.random.f64() * kept;
        let chosen = chances.iter().find(|(chance, _)| {
            point -= chance;
            point < 0.0
        });
        chosen.or(chances.last()).map_or(0, |(_, token)| *token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(how: &Sampling, logits: &[f32]) -> Vec<u32> {
        let mut counts = vec![0; logits.len()];
        for seed in 0..4000 {
            let mut sampler = Sampler::new(Sampling { seed: Some(seed), ..how.clone() });
            counts[sampler.choose(logits) as usize] += 1;
        }
        counts
    }

    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        let logits = [0.0, 3.0f32.ln(), f32::NEG_INFINITY];
        let found = counts(&Sampling::default(), &logits);
        assert!((2850..3150).contains(&found[1]) && found[2] == 0, "{found:?}");
        let cold = counts(&Sampling { temperature: 0.5, ..Sampling::default() }, &logits);
        assert!((3450..3750).contains(&cold[1]), "nine of ten: {cold:?}");
        let nucleus = counts(&Sampling { top_p: 0.7, ..Sampling::default() }, &logits);
        assert_eq!(nucleus[1], 4000);
    }

    #[test]
    fn penalties_keep_a_token_from_coming_again() {
        let how = Sampling { temperature: 0.0, frequency_penalty: 2.0, ..Sampling::default() };
        let mut sampler = Sampler::new(how);
        let chosen: Vec<u32> = (0..4).map(|_| sampler.choose(&[3.0, 2.0, 0.0])).collect();
        // 3 2 0, then 1 2 0, 1 0 0, −1 0 0.
        assert_eq!(chosen, [0, 1, 0, 1]);
    }
}
