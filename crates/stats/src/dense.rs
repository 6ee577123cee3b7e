//! Small dense symmetric matrices, row-major `[d, d]`: products, rank-one updates, Cholesky.
//!
//! Sums run over four lanes in a fixed order, so that a vectorised build gives the same bits.

/// A matrix that is not positive definite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotPositiveDefinite {
    /// The first row whose pivot is not positive.
    pub row: usize,
}

/// Σ aᵢbᵢ over the shorter of the two.
#[must_use]
#[inline(always)]
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut lanes = [0.0_f64; 4];
    let (left, left_rest) = a.as_chunks::<4>();
    let (right, right_rest) = b.as_chunks::<4>();
    for (x, y) in left.iter().zip(right) {
        for i in 0..4 {
            lanes[i] += x[i] * y[i];
        }
    }
    let mut rest = 0.0;
    for (x, y) in left_rest.iter().zip(right_rest) {
        rest += x * y;
    }
    (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]) + rest
}

/// y += s·x.
#[inline(always)]
pub fn axpy(s: f64, x: &[f64], y: &mut [f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += s * x;
    }
}

/// A symmetric update `m −= t·tᵀ` that keeps `m` symmetric to the bit. `m` is `[d, d]` with d = `t.len()`.
///
/// Compiled for AVX2 too where the CPU has it: without fused operations both give the same bits.
pub fn downdate(m: &mut [f64], t: &[f64]) {
    #[cfg(target_arch = "x86_64")]
    if crate::cpu::has_avx2() {
        // SAFETY: the CPU has AVX2, checked on the line above.
        #[expect(unsafe_code, reason = "a kernel compiled for AVX2 can only be called so")]
        unsafe {
            downdate_avx2(m, t);
        }
        return;
    }
    downdate_kernel(m, t);
}

#[inline(always)]
fn downdate_kernel(m: &mut [f64], t: &[f64]) {
    for (row, ti) in m.chunks_exact_mut(t.len()).zip(t) {
        if *ti != 0.0 {
            axpy(-ti, t, row);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn downdate_avx2(m: &mut [f64], t: &[f64]) {
    downdate_kernel(m, t);
}

/// The lower Cholesky factor of the symmetric `m` (`[d, d]`), in place; the upper triangle is left as it was.
///
/// # Errors
/// If a pivot is not positive and finite.
pub fn cholesky(m: &mut [f64], d: usize) -> Result<(), NotPositiveDefinite> {
    for i in 0..d {
        let (above, row) = m.split_at_mut(i * d);
        for j in 0..i {
            let other = &above[j * d..j * d + d];
            row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
        }
        let pivot = row[i] - dot(&row[..i], &row[..i]);
        if !(pivot > 0.0 && pivot.is_finite()) {
            return Err(NotPositiveDefinite { row: i });
        }
        row[i] = libm::sqrt(pivot);
    }
    Ok(())
}

/// As [`cholesky`], where pivots that are not positive are taken as 0: for sampling from a semi-definite covariance.
pub fn cholesky_semidefinite(m: &mut [f64], d: usize) {
    for i in 0..d {
        let (above, row) = m.split_at_mut(i * d);
        for j in 0..i {
            let other = &above[j * d..j * d + d];
            let value = row[j] - dot(&row[..j], &other[..j]);
            row[j] = if other[j] > 0.0 { value / other[j] } else { 0.0 };
        }
        row[i] = libm::sqrt((row[i] - dot(&row[..i], &row[..i])).max(0.0));
    }
}

/// The inverse of the symmetric positive definite `m` (`[d, d]`), in place, symmetric to the bit.
///
/// # Errors
/// If `m` is not positive definite; its content is then undefined.
pub fn invert(m: &mut [f64], d: usize) -> Result<(), NotPositiveDefinite> {
    cholesky(m, d)?;
    // L⁻¹ transposed, row j of `u` holding column j of L⁻¹, so that every inner loop runs along a row.
    let mut u = vec![0.0; d * d];
    for j in 0..d {
        u[j * d + j] = 1.0 / m[j * d + j];
        for i in j + 1..d {
            let sum = dot(&m[i * d + j..i * d + i], &u[j * d + j..j * d + i]);
            u[j * d + i] = -sum / m[i * d + i];
        }
    }
    for i in 0..d {
        for j in 0..=i {
            let value = dot(&u[i * d + i..i * d + d], &u[j * d + i..j * d + d]);
            m[i * d + j] = value;
            m[j * d + i] = value;
        }
    }
    Ok(())
}

/// xᵀMx for the leading block of the symmetric `m` (`[d, d]`) that `x` covers.
///
/// Compiled for AVX2 too, with the same bits.
#[must_use]
pub fn quadratic(m: &[f64], d: usize, x: &[f64]) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if crate::cpu::has_avx2() {
        // SAFETY: the CPU has AVX2, checked on the line above.
        #[expect(unsafe_code, reason = "a kernel compiled for AVX2 can only be called so")]
        return unsafe { quadratic_avx2(m, d, x) };
    }
    quadratic_kernel(m, d, x)
}

/// Columns of a block whose products are gathered on the stack: no sum runs across lanes until the end.
const GATHERED: usize = 64;

#[inline(always)]
fn quadratic_kernel(m: &[f64], d: usize, x: &[f64]) -> f64 {
    let mut sum = 0.0;
    for (block, part) in x.chunks(GATHERED).enumerate() {
        let mut gathered = [0.0; GATHERED];
        let gathered = &mut gathered[..part.len()];
        let column = block * GATHERED;
        for (i, &xi) in x.iter().enumerate() {
            axpy(xi, &m[i * d + column..][..part.len()], gathered);
        }
        sum += dot(gathered, part);
    }
    sum
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn quadratic_avx2(m: &[f64], d: usize, x: &[f64]) -> f64 {
    quadratic_kernel(m, d, x)
}

/// y = m·x for the symmetric `m`.
pub fn multiply(m: &[f64], x: &[f64], y: &mut [f64]) {
    for (row, y) in m.chunks_exact(x.len()).zip(y) {
        *y = dot(row, x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn random_definite(d: usize, seed: u64) -> Vec<f64> {
        let mut s = Stream::new(seed);
        let g: Vec<f64> = (0..d * d).map(|_| s.normal()).collect();
        let mut m = vec![0.0; d * d];
        for i in 0..d {
            for j in 0..d {
                m[i * d + j] = dot(&g[i * d..i * d + d], &g[j * d..j * d + d]);
            }
            m[i * d + i] += 0.1;
        }
        m
    }

    #[test]
    fn inverse_times_matrix_is_the_identity() {
        for d in [1, 2, 5, 20, 63] {
            let m = random_definite(d, d as u64);
            let mut inverse = m.clone();
            invert(&mut inverse, d).unwrap();
            let mut column = vec![0.0; d];
            for i in 0..d {
                multiply(&inverse, &m[i * d..i * d + d], &mut column);
                for (j, v) in column.iter().enumerate() {
                    let identity = f64::from(u8::from(i == j));
                    assert!((v - identity).abs() < 1e-8, "d={d} {i},{j}: {v}");
                }
            }
        }
    }

    #[test]
    fn an_indefinite_matrix_is_refused() {
        assert_eq!(cholesky(&mut [1.0, 2.0, 2.0, 1.0], 2), Err(NotPositiveDefinite { row: 1 }));
        assert_eq!(cholesky(&mut [f64::NAN], 1), Err(NotPositiveDefinite { row: 0 }));
    }

    #[test]
    fn a_quadratic_form_is_the_double_sum_with_either_kernel() {
        for d in [1, 5, 21, 64, 65, 150] {
            let m = random_definite(d, 3);
            let mut s = Stream::new(4);
            let x: Vec<f64> = (0..d.div_ceil(2)).map(|_| s.normal()).collect();
            let mut expected = 0.0;
            for (i, a) in x.iter().enumerate() {
                for (j, b) in x.iter().enumerate() {
                    expected += a * m[i * d + j] * b;
                }
            }
            let value = quadratic(&m, d, &x);
            assert!((value / expected - 1.0).abs() < 1e-11, "{d}: {value} {expected}");
            assert_eq!(value.to_bits(), quadratic_kernel(&m, d, &x).to_bits());
        }
    }

    #[test]
    fn downdates_stay_symmetric_to_the_bit() {
        let d = 17;
        let mut m = random_definite(d, 1);
        let mut s = Stream::new(9);
        for _ in 0..100 {
            let t: Vec<f64> = (0..d).map(|_| s.normal() * 0.01).collect();
            let mut narrow = m.clone();
            downdate_kernel(&mut narrow, &t);
            downdate(&mut m, &t);
            assert_eq!(m, narrow, "the kernels differ");
        }
        for i in 0..d {
            for j in 0..d {
                assert_eq!(m[i * d + j].to_bits(), m[j * d + i].to_bits());
            }
        }
    }
}
