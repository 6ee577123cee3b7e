//! The rates of a gradient step, coordinate by coordinate, with the same bits however wide the CPU computes.

use crate::dense::dot;

/// What is renewed, and what comes of it; every slice is as long as `v`.
#[derive(Debug)]
pub struct Rates<'a> {
    /// Values of the features present, none of them 0.
    pub v: &'a [f64],
    /// Sums of squared gradients.
    pub n: &'a mut [f64],
    /// Largest |v| so far.
    pub s: &'a mut [f64],
    /// The rates.
    pub rate: &'a mut [f64],
    /// Memory: |v|/s, then v².
    pub work: &'a mut [f64],
}

/// Adds the squared gradient `squared`·v² to each sum where `adaptive`, renews each scale where `normalized`, and gives
/// each coordinate its rate: 1, 1/√n, 1/s² or 1/(s·√n). Returns Σ v²·rate and, where normalised, Σ (v/s)².
pub fn rates(adaptive: bool, normalized: bool, squared: f64, r: Rates<'_>) -> (f64, f64) {
    #[cfg(target_arch = "x86_64")]
    if crate::cpu::has_avx2() {
        // SAFETY: the CPU has AVX2, checked on the line above.
        #[expect(unsafe_code, reason = "a kernel compiled for AVX2 can only be called so")]
        return unsafe { rates_avx2(adaptive, normalized, squared, r) };
    }
    rates_kernel(adaptive, normalized, squared, r)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn rates_avx2(adaptive: bool, normalized: bool, squared: f64, r: Rates<'_>) -> (f64, f64) {
    rates_kernel(adaptive, normalized, squared, r)
}

#[inline(always)]
fn rates_kernel(adaptive: bool, normalized: bool, squared: f64, r: Rates<'_>) -> (f64, f64) {
    match (adaptive, normalized) {
        (false, false) => of::<false, false>(squared, r),
        (false, true) => of::<false, true>(squared, r),
        (true, false) => of::<true, false>(squared, r),
        (true, true) => of::<true, true>(squared, r),
    }
}

#[inline(always)]
fn of<const ADAPTIVE: bool, const NORMALIZED: bool>(squared: f64, r: Rates<'_>) -> (f64, f64) {
    let len = r.v.len();
    let (v, n, s) = (r.v, &mut r.n[..len], &mut r.s[..len]);
    let (rate, work) = (&mut r.rate[..len], &mut r.work[..len]);
    for i in 0..len {
        let size = v[i].abs();
        if ADAPTIVE {
            // Not 0: a rate would be infinite.
            n[i] = (n[i] + squared * (v[i] * v[i])).max(f64::MIN_POSITIVE);
        }
        if NORMALIZED {
            s[i] = s[i].max(size);
            work[i] = size / s[i];
        }
        let root = if ADAPTIVE { n[i].sqrt() } else { 1.0 };
        rate[i] = match (ADAPTIVE, NORMALIZED) {
            (true, true) => 1.0 / (root * s[i]),
            (true, false) => 1.0 / root,
            (false, true) => 1.0 / (s[i] * s[i]),
            (false, false) => 1.0,
        };
    }
    let norm = if NORMALIZED { dot(work, work) } else { 0.0 };
    for i in 0..len {
        work[i] = v[i] * v[i];
    }
    (dot(work, rate), norm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    #[test]
    fn a_masked_cpu_gives_the_same_bits() {
        let mut stream = Stream::new(8);
        for len in [1, 3, 4, 7, 21, 64] {
            let v: Vec<f64> = (0..len).map(|_| stream.normal()).collect();
            let n: Vec<f64> = (0..len).map(|_| stream.uniform()).collect();
            let run = |masked: bool, adaptive: bool, normalized: bool| {
                crate::cpu::mask(masked);
                let (mut n, mut s) = (n.clone(), vec![0.5; len]);
                let (mut rate, mut work) = (vec![0.0; len], vec![0.0; len]);
                let r = Rates { v: &v, n: &mut n, s: &mut s, rate: &mut rate, work: &mut work };
                let (reach, norm) = rates(adaptive, normalized, 0.3, r);
                crate::cpu::mask(false);
                (n, s, rate, reach.to_bits(), norm.to_bits())
            };
            for (adaptive, normalized) in
                [(true, true), (true, false), (false, true), (false, false)]
            {
                assert_eq!(run(false, adaptive, normalized), run(true, adaptive, normalized));
            }
        }
    }
}
