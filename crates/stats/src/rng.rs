//! Counter-based random numbers (SplitMix64): value `k` of stream `seed` is a pure function of both.
//!
//! Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014), with
//! Stafford's mix 13.

use crate::special::normal_quantile;

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
/// 2⁻⁵³: the spacing of the uniform grid.
const UNIT: f64 = 1.0 / (1_u64 << 53) as f64;

/// The 64-bit finaliser of SplitMix64.
#[must_use]
pub const fn mix(mut z: u64) -> u64 {
    z ^= z >> 30;
    z = z.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^= z >> 27;
    z = z.wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Value `k` of stream `seed`.
///
/// ```
/// // First output of SplitMix64 seeded with 0, as published with the generator.
/// assert_eq!(pawl_stats::rng::raw(0, 0), 0xE220_A839_7B1D_CDAF);
/// ```
#[must_use]
pub const fn raw(seed: u64, k: u64) -> u64 {
    mix(seed.wrapping_add(k.wrapping_add(1).wrapping_mul(GOLDEN)))
}

/// Value `k` of stream `seed` as a number in [0, 1) on a grid of 2⁻⁵³.
#[must_use]
pub fn uniform(seed: u64, k: u64) -> f64 {
    (raw(seed, k) >> 11) as f64 * UNIT
}

/// A stream read in order.
#[derive(Clone, Debug)]
pub struct Stream {
    seed: u64,
    next: u64,
}

impl Stream {
    /// The stream `seed`, from its first value.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, next: 0 }
    }

    /// The next 64 random bits.
    pub const fn bits(&mut self) -> u64 {
        let value = raw(self.seed, self.next);
        self.next += 1;
        value
    }

    /// The next number in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * UNIT
    }

    /// A number in 0..n, without modulo bias (Lemire 2019, with the widening product only: the
    /// bias is below n·2⁻⁶⁴). `n` must be positive.
    pub const fn below(&mut self, n: u64) -> u64 {
        ((self.bits() as u128 * n as u128) >> 64) as u64
    }

    /// A standard normal, by inversion.
    pub fn normal(&mut self) -> f64 {
        // Centred on the grid, so that neither 0 nor 1 is met.
        normal_quantile(self.uniform() + UNIT / 2.0)
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i as u64 + 1) as usize;
            items.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_published_stream() {
        // SplitMix64 with seed 1234567, the test vector of the Rosetta Code task "Pseudo-random numbers/Splitmix64".
        let mut stream = Stream::new(1_234_567);
        let expected: [u64; 5] = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(expected.map(|_| stream.bits()), expected);
    }

    #[test]
    fn normals_have_the_moments_of_a_normal() {
        let mut stream = Stream::new(7);
        let n = 200_000;
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..n {
            let z = stream.normal();
            sum += z;
            squares += z * z;
        }
        let (mean, variance) = (sum / f64::from(n), squares / f64::from(n));
        assert!(mean.abs() < 4.0 / f64::from(n).sqrt(), "{mean}");
        assert!((variance - 1.0).abs() < 4.0 * (2.0 / f64::from(n)).sqrt(), "{variance}");
    }

    #[test]
    fn shuffle_is_a_permutation() {
        let mut items: Vec<u32> = (0..1000).collect();
        Stream::new(3).shuffle(&mut items);
        let mut sorted = items.clone();
        sorted.sort_unstable();
        assert_ne!(items, sorted);
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
    }
}
