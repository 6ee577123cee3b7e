//! The recursion against batch solves, and under a million steps of forgetting.

#![expect(clippy::needless_range_loop, reason = "indices of matrices")]

use pawl_stats::rng::Stream;

use super::*;

fn encoded(values: &[f64]) -> Encoded {
    Encoded { dense: values.to_vec(), ..Encoded::default() }
}

/// Solves (A + λI)θ = b by Gaussian elimination with pivoting: another method than the code under test.
fn solve(mut m: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let d = b.len();
    for column in 0..d {
        let pivot =
            (column..d).max_by(|i, j| m[*i][column].abs().total_cmp(&m[*j][column].abs())).unwrap();
        m.swap(column, pivot);
        b.swap(column, pivot);
        for row in column + 1..d {
            let factor = m[row][column] / m[column][column];
            for k in column..d {
                m[row][k] -= factor * m[column][k];
            }
            b[row] -= factor * b[column];
        }
    }
    for row in (0..d).rev() {
        for k in row + 1..d {
            b[row] -= m[row][k] * b[k];
        }
        b[row] /= m[row][row];
    }
    b
}

#[test]
fn the_recursion_equals_a_batch_solve() {
    let (d, n, lambda, prior) = (7, 1000, 0.7, 0.4);
    let mut stream = Stream::new(11);
    let mut linear = Linear::new(d, d, lambda);
    let mut m = vec![vec![0.0; d]; d];
    let mut b = vec![0.0; d];
    for _ in 0..n {
        let mut x: Vec<f64> = (0..d).map(|_| stream.normal()).collect();
        x[d - 1] = x[0] + x[1]; // rank-deficient
        let y = x[0] - 0.5 * x[2] + 0.1 * stream.normal();
        linear.learn(&encoded(&x), y, 1.0).unwrap();
        for i in 0..d {
            b[i] += (y - prior) * x[i];
            for j in 0..d {
                m[i][j] += x[i] * x[j];
            }
        }
    }
    (0..d).for_each(|i| m[i][i] += lambda);
    let expected = solve(m, b);
    let p = &linear.posterior;
    for i in 0..d {
        let theta = p.u[i] - prior * p.v[i];
        assert!((theta - expected[i]).abs() < 1e-10, "{i}: {theta} {}", expected[i]);
    }
}

#[test]
fn forgetting_stays_definite_for_a_million_steps() {
    let (d, lambda, gamma) = (4, 1.0, 0.99_f64);
    let mut stream = Stream::new(5);
    let mut linear = Linear::new(d, d, lambda);
    let mut m = vec![vec![0.0; d]; d];
    let mut b = vec![0.0; d];
    for step in 0..1_000_000_u32 {
        // One direction only for long stretches: the others are forgotten down to the ridge.
        let t = stream.normal();
        let x =
            if step % 1000 < 900 { [t, 2.0 * t, -t, 0.0] } else { [t, 0.0, stream.normal(), 1.0] };
        let y = 0.3 * x[0] + x[2] + 0.1 * stream.normal();
        linear.decay(gamma);
        linear.accumulate(&encoded(&x), y, 1.0);
        for i in 0..d {
            b[i] = gamma * b[i] + y * x[i];
            for j in 0..d {
                m[i][j] = gamma * m[i][j] + x[i] * x[j];
            }
        }
        if step % 50 == 49 {
            linear.rebuild().unwrap();
        }
    }
    linear.rebuild().unwrap();
    (0..d).for_each(|i| m[i][i] += lambda);
    for (theta, expected) in linear.posterior.u.iter().zip(solve(m, b)) {
        assert!((theta - expected).abs() < 1e-8, "{theta} {expected}");
    }
    for axis in 0..d {
        let mut x = vec![0.0; d];
        x[axis] = 1.0;
        let variance = linear.posterior.variance(&encoded(&x));
        assert!(variance > 0.0 && variance <= 1.0 / lambda + 1e-12, "{variance}");
    }
}

#[test]
fn variances_alone_are_exact_for_orthogonal_slots() {
    // With one-hot slots the true posterior is diagonal: the filter must give shrunken means.
    let mut linear = Linear::new(0, 3, 2.0);
    let mut sums = [0.0; 3];
    let mut counts = [0.0; 3];
    let mut stream = Stream::new(2);
    for i in 0..300_usize {
        let slot = i % 3;
        let y = stream.normal() + slot as f64;
        let x = Encoded { diagonal: vec![(slot as u32, 1.0)], ..Encoded::default() };
        linear.learn(&x, y, 1.0).unwrap();
        sums[slot] += y;
        counts[slot] += 1.0;
    }
    for slot in 0..3 {
        assert!((linear.posterior.u[slot] - sums[slot] / (counts[slot] + 2.0)).abs() < 1e-12);
        assert!((linear.posterior.variances[slot] - 1.0 / (counts[slot] + 2.0)).abs() < 1e-12);
    }
}

#[test]
fn sparse_and_dense_vectors_mean_the_same() {
    let mut dense = Linear::new(5, 5, 1.0);
    let mut mixed = Linear::new(5, 5, 1.0);
    let mut stream = Stream::new(8);
    let mut last = (Encoded::default(), Encoded::default());
    for _ in 0..400 {
        let (a, b) = (stream.normal(), stream.normal());
        let hot = 2 + stream.below(3) as usize;
        let mut x = vec![a, b, 0.0, 0.0, 0.0];
        x[hot] = 1.0;
        let split =
            Encoded { dense: vec![a, b], sparse: vec![(hot as u32, 1.0)], diagonal: vec![] };
        let y = a - b + hot as f64;
        dense.learn(&encoded(&x), y, 1.0).unwrap();
        mixed.learn(&split, y, 1.0).unwrap();
        last = (encoded(&x), split);
    }
    let (p, q) = (&dense.posterior, &mixed.posterior);
    assert!((p.mean(&last.0, 0.5) - q.mean(&last.1, 0.5)).abs() < 1e-10);
    assert!((p.variance(&last.0) - q.variance(&last.1)).abs() < 1e-12);
}
