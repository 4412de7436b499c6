//! Pseudo-random weights, and their bytes in each format. The decoding of the bytes is implemented here a second
//! time, independently of the SDK, from ggml's description of its blocks.

/// A pseudo-random number generator, which returns the same numbers each time.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    pub fn below(&mut self, n: u32) -> u32 {
        self.next() % n
    }

    /// Returns a number between −1 and 1.
    pub fn float(&mut self) -> f32 {
        f32::from(i16::try_from(self.below(4001)).unwrap() - 2000) / 2000.0
    }

    pub fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }
}

/// Returns the bytes of the f16 for a number that f16 represents exactly; its magnitude must be between 2^-14 and
/// 65504.
fn f16(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    let exponent = ((bits >> 23) & 255) as i32 - 112;
    assert!((1..31).contains(&exponent) && bits.trailing_zeros() >= 13, "{value} is no f16");
    let half = ((bits >> 16) & 0x8000) | ((exponent as u32) << 10) | ((bits >> 13) & 0x3ff);
    u16::try_from(half).unwrap().to_le_bytes()
}

/// Returns a scale that f16 represents exactly.
fn scale(random: &mut Random) -> f32 {
    (32 + random.below(32)) as f32 / 1024.0
}

/// Returns a block of a format: its bytes, and the weights that they encode.
fn block(format: &str, random: &mut Random) -> (Vec<u8>, Vec<f64>) {
    let (d, m) = (scale(random), scale(random));
    let wide = |value: f32| f64::from(value);
    match format {
        "f32" => {
            let values = random.floats(32);
            (bytemuck::cast_slice(&values).to_vec(), values.into_iter().map(f64::from).collect())
        }
        "f16" => {
            let values: Vec<f32> =
                (0..32).map(|_| scale(random) * if random.below(2) == 0 { 1.0 } else { -1.0 }).collect();
            (values.iter().flat_map(|value| f16(*value)).collect(), values.into_iter().map(f64::from).collect())
        }
        "q8_0" => {
            let quants: Vec<i8> = (0..32).map(|_| random.next() as i8).collect();
            let bytes = f16(d).into_iter().chain(quants.iter().map(|q| *q as u8)).collect();
            (bytes, quants.iter().map(|q| wide(d) * f64::from(*q)).collect())
        }
        "q4_0" | "q4_1" => {
            let quants: Vec<u8> = (0..16).map(|_| random.next() as u8).collect();
            let halves = quants.iter().map(|q| q & 15).chain(quants.iter().map(|q| q >> 4));
            let weight = |q: u8| {
                if format == "q4_0" { wide(d) * (f64::from(q) - 8.0) } else { wide(d) * f64::from(q) + wide(m) }
            };
            let least = if format == "q4_1" { f16(m).to_vec() } else { Vec::new() };
            ([f16(d).to_vec(), least, quants.clone()].concat(), halves.map(weight).collect())
        }
        "q4_k" => {
            let scales: Vec<u8> = (0..8).map(|_| random.below(64) as u8).collect();
            let leasts: Vec<u8> = (0..8).map(|_| random.below(64) as u8).collect();
            let mut packed = [0u8; 12];
            for j in 0..4 {
                packed[j] = scales[j] | ((scales[j + 4] >> 4) << 6);
                packed[j + 4] = leasts[j] | ((leasts[j + 4] >> 4) << 6);
                packed[j + 8] = (scales[j + 4] & 15) | ((leasts[j + 4] & 15) << 4);
            }
            let quants: Vec<u8> = (0..128).map(|_| random.next() as u8).collect();
            let mut weights = Vec::new();
            for part in 0..8 {
                for i in 0..32 {
                    let byte = quants[part / 2 * 32 + i];
                    let q = if part % 2 == 0 { byte & 15 } else { byte >> 4 };
                    let (factor, offset) = (wide(d) * f64::from(scales[part]), wide(m) * f64::from(leasts[part]));
                    weights.push(factor * f64::from(q) - offset);
                }
            }
            ([f16(d).to_vec(), f16(m).to_vec(), packed.to_vec(), quants].concat(), weights)
        }
        "q6_k" => {
            let quants: Vec<u8> = (0..256).map(|_| random.below(64) as u8).collect();
            let scales: Vec<i8> = (0..16).map(|_| random.next() as i8).collect();
            let (mut low, mut high) = (vec![0u8; 128], vec![0u8; 64]);
            for (at, q) in quants.iter().enumerate() {
                let (side, quarter, i) = (at / 128, at % 128 / 32, at % 32);
                low[side * 64 + quarter % 2 * 32 + i] |= (q & 15) << (4 * (quarter / 2));
                high[side * 32 + i] |= (q >> 4) << (2 * quarter);
            }
            let weights = quants.iter().enumerate();
            let weights =
                weights.map(|(at, q)| wide(d) * f64::from(scales[at / 16]) * (f64::from(*q) - 32.0)).collect();
            ([low, high, scales.iter().map(|s| *s as u8).collect(), f16(d).to_vec()].concat(), weights)
        }
        other => panic!("{other}"),
    }
}

pub struct Weights {
    pub bytes: Vec<u8>,
    pub rows: Vec<Vec<f64>>,
}

pub fn weights(format: &str, rows: usize, inner: usize, random: &mut Random) -> Weights {
    let mut all = Weights { bytes: Vec::new(), rows: Vec::new() };
    for _ in 0..rows {
        let mut row = Vec::new();
        while row.len() < inner {
            let (bytes, values) = block(format, random);
            all.bytes.extend(bytes);
            row.extend(values);
        }
        all.rows.push(row);
    }
    all
}
