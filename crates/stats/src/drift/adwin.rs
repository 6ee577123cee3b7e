//! ADWIN: a window that is as long as the mean in it has not changed.
//!
//! Source: Bifet & Gavaldà, "Learning from time-changing data with adaptive windowing" (SDM 2007), the version
//! ADWIN2 with an exponential histogram, and the variance-based bound of section 4.1 (equation 3.1). The paper goes on with
//! what is left of the window after a cut, which cuts again and again while a change goes on; here, as for the other
//! detectors, a new window begins, so that one change is told once.

use serde::{Deserialize, Serialize};

/// Buckets of one size before two of them become one of the next: M of the paper.
const M: usize = 5;
/// A number of values that never comes: `every` is less.
const CUT: u32 = u32::MAX;
/// Fewest values on either side of a cut.
const SIDE_MIN: u64 = 5;

/// A run of values: their sum and Σ(x − mean)².
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Bucket {
    sum: f64,
    squares: f64,
}

impl Bucket {
    /// Two runs of `n` and `m` values as one.
    fn merge(self, n: f64, other: Self, m: f64) -> Self {
        let apart = self.sum / n - other.sum / m;
        let squares = self.squares + other.squares + apart * apart * n * m / (n + m);
        Self { sum: self.sum + other.sum, squares }
    }
}

/// Buckets of one size, the oldest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Row {
    len: usize,
    buckets: [Bucket; M + 1],
}

impl Row {
    fn push(&mut self, bucket: Bucket) {
        self.buckets[self.len] = bucket;
        self.len += 1;
    }

    fn pop_oldest(&mut self, count: usize) {
        self.buckets.copy_within(count..self.len, 0);
        self.len -= count;
    }
}

/// The detector.
///
/// ```
/// let mut adwin = pawl_stats::drift::Adwin::new(0.002, 32);
/// let x = |k: u32| if k < 1000 { 0.2 } else { 0.8 };
/// let alarm = (0..2000).position(|k| adwin.update(x(k))).unwrap();
/// assert!(alarm > 1000 && alarm < 1100);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adwin {
    delta: f64,
    every: u32,
    /// Values since the last look; [`CUT`] where that cut the window: the next value begins anew.
    since: u32,
    n: u64,
    whole: Bucket,
    /// Row `i` holds runs of 2ⁱ values.
    rows: Vec<Row>,
}

impl Adwin {
    /// A detector that is wrong about a stationary stream with probability `delta` at most at each look, and
    /// looks after every `every` values (32 is usual; 1 is the algorithm as published).
    #[must_use]
    pub fn new(delta: f64, every: u32) -> Self {
        // Room for 2⁶⁴ values: an update never allocates.
        let mut rows = Vec::with_capacity(64);
        rows.push(Row::default());
        Self { delta, every, since: 0, n: 0, whole: Bucket::default(), rows }
    }

    /// Values in the window.
    #[must_use]
    pub const fn width(&self) -> u64 {
        self.n
    }

    /// The mean of the window; 0 if it is empty.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.n == 0 { 0.0 } else { self.whole.sum / self.n as f64 }
    }

    /// Takes one value. True if the window was cut: the mean before some point in it differs from the mean after. Until
    /// the next value the window is what came after that point.
    pub fn update(&mut self, x: f64) -> bool {
        if self.since == CUT {
            self.begin();
        }
        let one = Bucket { sum: x, squares: 0.0 };
        self.whole = if self.n == 0 { one } else { self.whole.merge(self.n as f64, one, 1.0) };
        self.n += 1;
        self.rows[0].push(one);
        self.compress();
        self.since += 1;
        if self.since < self.every || self.n < 2 * SIDE_MIN {
            return false;
        }
        self.since = 0;
        while let Some(old) = self.find_cut() {
            self.since = CUT;
            let keep = self.n - old;
            while self.n > keep {
                self.drop_oldest();
            }
        }
        self.since == CUT
    }

    /// An empty window, in the same memory.
    fn begin(&mut self) {
        (self.since, self.n, self.whole) = (0, 0, Bucket::default());
        self.rows.clear();
        self.rows.push(Row::default());
    }

    fn compress(&mut self) {
        let mut row = 0;
        while self.rows[row].len > M {
            let size = (1_u64 << row) as f64;
            let [a, b, ..] = self.rows[row].buckets;
            self.rows[row].pop_oldest(2);
            if row + 1 == self.rows.len() {
                self.rows.push(Row::default());
            }
            row += 1;
            self.rows[row].push(a.merge(size, b, size));
        }
    }

    /// Of the splits of the window whose means are further apart than ε_cut, the values before the clearest one.
    fn find_cut(&self) -> Option<u64> {
        let n = self.n as f64;
        let variance = self.whole.squares / n;
        // δ' = δ / ln n: the correction for many splits.
        let confidence = libm::log(2.0 * libm::log(n) / self.delta);
        let (mut old_n, mut old_sum) = (0_u64, 0.0);
        let (mut found, mut clearest) = (None, 1.0);
        for (i, row) in self.rows.iter().enumerate().rev() {
            for bucket in &row.buckets[..row.len] {
                old_n += 1 << i;
                old_sum += bucket.sum;
                let new_n = self.n - old_n;
                if new_n < SIDE_MIN {
                    return found;
                }
                if old_n < SIDE_MIN {
                    continue;
                }
                let (a, b) = (old_n as f64, new_n as f64);
                // 1/m, m the harmonic mean of the two sizes as the paper defines it, less what a side must have.
                let short = (SIDE_MIN - 1) as f64;
                let inverse = (n - 2.0 * short) / ((a - short) * (b - short));
                let apart = (old_sum / a - (self.whole.sum - old_sum) / b).abs();
                // apart > √(2/m · σ² · ln(2/δ')) + 2/(3m) · ln(2/δ'), without the root.
                let linear = 2.0 / 3.0 * inverse * confidence;
                let root = 2.0 * inverse * variance * confidence;
                let beyond = apart - linear;
                if beyond > 0.0 && beyond * beyond > root {
                    let clear = apart / (libm::sqrt(root) + linear);
                    if clear > clearest {
                        (found, clearest) = (Some(old_n), clear);
                    }
                }
            }
        }
        found
    }

    fn drop_oldest(&mut self) {
        let Some(row) = self.rows.len().checked_sub(1) else { return };
        let size = 1_u64 << row;
        let oldest = self.rows[row].buckets[0];
        self.rows[row].pop_oldest(1);
        if self.rows[row].len == 0 && row > 0 {
            self.rows.pop();
        }
        let (n, m) = ((self.n - size) as f64, size as f64);
        self.n -= size;
        let sum = self.whole.sum - oldest.sum;
        let apart = if self.n == 0 { 0.0 } else { sum / n - oldest.sum / m };
        let squares = self.whole.squares - oldest.squares - apart * apart * n * m / (n + m);
        self.whole = Bucket { sum, squares: squares.max(0.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bound by hand on 1,000 zeros, then ones, with a look at each value. With j ones the split of W = 1000 + j
    /// into 1000 − z zeros and the rest has means 0 and j/(j + z), σ² = 1000j/W², 1/m = (W − 8)/((996 − z)(j + z − 4))
    /// and ln(2 ln W/.002) = 8.841. The clearest split has about z = 18 zeros beside the ones:
    /// j = 9: z = 19, 1/m = .0427, ε = ⅔ · .0427 · 8.841 + √(2 · .0427 · .00884 · 8.841) = .252 + .082 > 9/28 = .321;
    /// j = 10: z = 17, 1/m = .0445, ε = .262 + .088 = .350 < 10/27 = .370: the cut comes with the tenth one.
    #[test]
    fn the_first_cut_is_where_the_bound_says() {
        let mut adwin = Adwin::new(0.002, 1);
        let alarm = (0..2000).position(|k| adwin.update(if k < 1000 { 0.0 } else { 1.0 })).unwrap();
        assert_eq!(alarm, 1009);
        // What came before the cut is dropped, and nothing else.
        assert!((15..40).contains(&adwin.width()), "{}", adwin.width());
        assert!((adwin.mean() * adwin.width() as f64 - 10.0).abs() < 1e-9);
    }

    #[test]
    fn sums_and_variance_are_those_of_the_window() {
        let mut adwin = Adwin::new(1e-9, 32);
        let mut stream = crate::rng::Stream::new(5);
        let mut values = Vec::new();
        for _ in 0..3000 {
            let x = stream.uniform();
            values.push(x);
            adwin.update(x);
        }
        assert_eq!(adwin.width(), 3000);
        let mean = values.iter().sum::<f64>() / 3000.0;
        let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
        assert!((adwin.mean() - mean).abs() < 1e-12);
        assert!((adwin.whole.squares - squares).abs() < 1e-8);
        for _ in 0..5 {
            adwin.drop_oldest();
        }
        let kept = &values[3000 - adwin.width() as usize..];
        let mean = kept.iter().sum::<f64>() / kept.len() as f64;
        let squares: f64 = kept.iter().map(|x| (x - mean) * (x - mean)).sum();
        assert!((adwin.mean() - mean).abs() < 1e-12);
        assert!((adwin.whole.squares - squares).abs() < 1e-8);
    }

    #[test]
    fn after_a_cut_the_window_holds_the_new_mean_and_its_memory_stays_logarithmic() {
        let mut adwin = Adwin::new(0.002, 32);
        let mut stream = crate::rng::Stream::new(9);
        for k in 0..200_000 {
            let p = if k < 100_000 { 0.2 } else { 0.8 };
            adwin.update(f64::from(u8::from(stream.uniform() < p)));
        }
        assert!((adwin.mean() - 0.8).abs() < 0.01);
        assert!(adwin.width() > 90_000 && adwin.width() < 100_500, "{}", adwin.width());
        assert!(adwin.rows.len() <= 17);
        assert_eq!(adwin.rows.capacity(), 64);
    }
}
