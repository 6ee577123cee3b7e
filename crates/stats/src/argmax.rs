//! The probability that each of several independent scores is the largest: Thompson sampling without sampling.
//!
//! P(a is best) = ∫ f_a(x) ∏_{b≠a} F_b(x) dx, by composite Gauss-Legendre on panels whose ends are the
//! quantile-like points of every score, so that each function is smooth within a panel.

use crate::{dense, normal as standard, rng::Stream, special};

/// Ends of panels, in standard deviations from the mean.
const ENDS: [f64; 7] = [-7.0, -3.0, -1.2, 0.0, 1.2, 3.0, 7.0];
/// The same for more than three live scores, where the action is drawn from the result and 1e-3 would do.
const COARSE_ENDS: [f64; 7] = [-4.8, -2.6, -1.1, 0.0, 1.1, 2.6, 4.8];
/// More scores than this are integrated coarsely by [`general`] too.
const FINE_MAX: usize = 8;
/// Panels narrower than this many of the smallest live deviation are merged with the next, under coarse ends.
const NARROWEST: f64 = 0.9;
/// A score whose upper end lies below another's lower end cannot win: the error is below 1e-9 a score.
const REACH: f64 = 6.0;
/// Draws for correlated scores.
const DRAWS: u32 = 256;

const NODES_4: [(f64, f64); 4] = [
    (-0.861_136_311_594_052_6, 0.347_854_845_137_453_8),
    (-0.339_981_043_584_856_3, 0.652_145_154_862_546_2),
    (0.339_981_043_584_856_3, 0.652_145_154_862_546_2),
    (0.861_136_311_594_052_6, 0.347_854_845_137_453_8),
];
const NODES_8: [(f64, f64); 8] = [
    (-0.960_289_856_497_536_3, 0.101_228_536_290_376_26),
    (-0.796_666_477_413_626_7, 0.222_381_034_453_374_47),
    (-0.525_532_409_916_329, 0.313_706_645_877_887_3),
    (-0.183_434_642_495_649_8, 0.362_683_783_378_362),
    (0.183_434_642_495_649_8, 0.362_683_783_378_362),
    (0.525_532_409_916_329, 0.313_706_645_877_887_3),
    (0.796_666_477_413_626_7, 0.222_381_034_453_374_47),
    (0.960_289_856_497_536_3, 0.101_228_536_290_376_26),
];

/// The marginal distribution of one score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Marginal {
    /// Normal with mean and standard deviation.
    Normal(f64, f64),
    /// `location + scale · Beta(a, b)`; `scale` may be negative, `a` and `b` are at least 1.
    Beta {
        /// First shape.
        a: f64,
        /// Second shape.
        b: f64,
        /// Added.
        location: f64,
        /// Multiplied.
        scale: f64,
    },
    /// `location + scale · t(dof)`, `scale` positive.
    Student {
        /// Degrees of freedom.
        dof: f64,
        /// Added.
        location: f64,
        /// Multiplied.
        scale: f64,
    },
}

impl Marginal {
    /// The mean (of a Student with one degree of freedom or less: its centre).
    #[must_use]
    pub fn mean(&self) -> f64 {
        match *self {
            Self::Normal(mean, _) => mean,
            Self::Beta { a, b, location, scale } => location + scale * a / (a + b),
            Self::Student { location, .. } => location,
        }
    }

    /// The standard deviation (of a Student: its scale).
    #[must_use]
    pub fn spread(&self) -> f64 {
        match *self {
            Self::Normal(_, sd) => sd,
            Self::Beta { a, b, scale, .. } => {
                scale.abs() * libm::sqrt(a * b / (a + b + 1.0)) / (a + b)
            }
            Self::Student { scale, .. } => scale,
        }
    }

    fn pdf_cdf(&self, x: f64) -> (f64, f64) {
        match *self {
            Self::Normal(mean, sd) => {
                let (mut pdf, mut cdf) = ([0.0], [0.0]);
                standard::pdf_cdf(&[(x - mean) / sd], &mut pdf, &mut cdf);
                (pdf[0] / sd, cdf[0])
            }
            Self::Beta { a, b, location, scale } => {
                let u = (x - location) / scale;
                let below = special::beta_cdf(u, a, b);
                let cdf = if scale > 0.0 { below } else { 1.0 - below };
                (special::beta_pdf(u, a, b) / scale.abs(), cdf)
            }
            Self::Student { dof, location, scale } => {
                let t = (x - location) / scale;
                (special::student_pdf(t, dof) / scale, special::student_cdf(t, dof))
            }
        }
    }
}

/// Working memory of [`normal`], to be reused between calls.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    live: Vec<usize>,
    ends: Vec<f64>,
    x: Vec<f64>,
    weight: Vec<f64>,
    z: Vec<f64>,
    pdf: Vec<f64>,
    cdf: Vec<f64>,
}

/// Fills `p` with the probability that each normal score (`mean[a]`, `sd[a]`) is the largest; it sums to 1.
///
/// With every `sd` zero the first largest mean gets 1. Error below 2e-4 for many scores of very different spread, 1e-8 for up to three.
///
/// ```
/// let mut p = [0.0; 2];
/// pawl_stats::argmax::normal(&[0.0, 0.5], &[1.0, 2.0], &mut p, &mut Default::default());
/// assert!((p[0] - 0.411531637).abs() < 1e-9); // 1 − Φ(0.5/√5)
/// ```
pub fn normal(mean: &[f64], sd: &[f64], p: &mut [f64], scratch: &mut Scratch) {
    p.fill(0.0);
    if sd.iter().all(|&s| s <= 0.0) {
        p[first_largest(mean)] = 1.0;
        return;
    }
    let widest = sd.iter().fold(0.0_f64, |m, &s| m.max(s));
    // A score known exactly among uncertain ones is a very narrow one.
    let sd = |a: usize| sd[a].max(widest * 1e-6);
    let floor = (0..mean.len()).fold(f64::NEG_INFINITY, |m, a| m.max(mean[a] - REACH * sd(a)));
    scratch.live.clear();
    scratch.live.extend((0..mean.len()).filter(|&a| mean[a] + REACH * sd(a) >= floor));
    match scratch.live[..] {
        [a] => p[a] = 1.0,
        [a, b] => {
            let scale = libm::sqrt(sd(a) * sd(a) + sd(b) * sd(b));
            let above = standard::cdf((mean[a] - mean[b]) / scale);
            p[a] = above;
            p[b] = 1.0 - above;
        }
        _ => integrate_normals(mean, &sd, p, scratch),
    }
}

fn integrate_normals(mean: &[f64], sd: &dyn Fn(usize) -> f64, p: &mut [f64], s: &mut Scratch) {
    let coarse = s.live.len() > 3;
    let ends = if coarse { &COARSE_ENDS } else { &ENDS };
    let reach = ends[6];
    let lowest = s.live.iter().fold(f64::NEG_INFINITY, |m, &a| m.max(mean[a] - reach * sd(a)));
    let highest = s.live.iter().fold(f64::NEG_INFINITY, |m, &a| m.max(mean[a] + reach * sd(a)));
    s.ends.clear();
    for &a in &s.live {
        s.ends.extend(ends.iter().map(|e| mean[a] + e * sd(a)));
    }
    s.ends.retain(|&e| e >= lowest && e <= highest);
    s.ends.sort_unstable_by(f64::total_cmp);
    if coarse {
        merge_narrow(
            &mut s.ends,
            NARROWEST * s.live.iter().fold(f64::INFINITY, |m, &a| m.min(sd(a))),
        );
    }
    place_nodes(s);
    let n = s.x.len();
    let k = s.live.len();
    s.z.clear();
    for &a in &s.live {
        let (mean, inverse) = (mean[a], 1.0 / sd(a));
        s.z.extend(s.x.iter().map(|x| (x - mean) * inverse));
    }
    s.pdf.resize(n * k, 0.0);
    s.cdf.resize(n * k, 0.0);
    standard::pdf_cdf(&s.z, &mut s.pdf[..n * k], &mut s.cdf[..n * k]);
    for (row, &a) in s.live.iter().enumerate() {
        // z is free again: it holds the weight times the product of the others' distribution functions.
        p[a] = one_best(&s.cdf[..n * k], &s.pdf[row * n..][..n], &s.weight, row, &mut s.z[..n])
            / sd(a);
    }
    normalise(p);
}

/// Drops ends, but for the last, so that no panel is narrower than `narrow`.
fn merge_narrow(ends: &mut Vec<f64>, narrow: f64) {
    let highest = ends.last().copied().unwrap_or_default();
    let mut last = f64::NEG_INFINITY;
    ends.retain(|&e| {
        let keep = e == highest || e - last >= narrow;
        if keep {
            last = e;
        }
        keep
    });
}

/// ∫ f ∏ F over the nodes, for the score in `row`.
fn one_best(cdf: &[f64], pdf: &[f64], weight: &[f64], row: usize, product: &mut [f64]) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if crate::cpu::has_avx2() {
        // SAFETY: the CPU has AVX2, checked on the line above.
        #[expect(unsafe_code, reason = "a kernel compiled for AVX2 can only be called so")]
        return unsafe { one_best_avx2(cdf, pdf, weight, row, product) };
    }
    one_best_kernel(cdf, pdf, weight, row, product)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn one_best_avx2(cdf: &[f64], pdf: &[f64], weight: &[f64], row: usize, product: &mut [f64]) -> f64 {
    one_best_kernel(cdf, pdf, weight, row, product)
}

#[inline(always)]
fn one_best_kernel(
    cdf: &[f64],
    pdf: &[f64],
    weight: &[f64],
    row: usize,
    product: &mut [f64],
) -> f64 {
    product.copy_from_slice(weight);
    for (_, others) in cdf.chunks_exact(pdf.len()).enumerate().filter(|(o, _)| *o != row) {
        for (product, cdf) in product.iter_mut().zip(others) {
            *product *= cdf;
        }
    }
    dense::dot(product, pdf)
}

/// Gauss-Legendre nodes and weights on the panels between sorted `ends`.
fn place_nodes(s: &mut Scratch) {
    s.x.clear();
    s.weight.clear();
    let rule: &[(f64, f64)] = if s.live.len() <= 3 { &NODES_8 } else { &NODES_4 };
    for pair in s.ends.windows(2) {
        let half = (pair[1] - pair[0]) / 2.0;
        if half <= 0.0 {
            continue;
        }
        let centre = pair[0] + half;
        for (node, weight) in rule {
            s.x.push(centre + half * node);
            s.weight.push(half * weight);
        }
    }
}

/// The same for any [`Marginal`]s: slower, for posteriors that change seldom. Error below 1e-6 for up to eight
/// scores, 1e-3 for more.
#[must_use]
pub fn general(scores: &[Marginal]) -> Vec<f64> {
    let mut p = vec![0.0; scores.len()];
    let means: Vec<f64> = scores.iter().map(Marginal::mean).collect();
    if scores.iter().all(|m| m.spread() <= 0.0) {
        p[first_largest(&means)] = 1.0;
        return p;
    }
    let mut scratch = Scratch { live: vec![0; 3], ..Scratch::default() };
    for score in scores {
        scratch.ends.extend(panel_ends(score));
    }
    scratch.ends.sort_unstable_by(f64::total_cmp);
    if scores.len() > FINE_MAX {
        let spreads = scores.iter().map(Marginal::spread).filter(|s| *s > 0.0);
        merge_narrow(&mut scratch.ends, NARROWEST * spreads.fold(f64::INFINITY, f64::min));
        scratch.live.push(0); // four nodes a panel
    }
    place_nodes(&mut scratch);
    for (x, weight) in scratch.x.iter().zip(&scratch.weight) {
        let at: Vec<(f64, f64)> = scores.iter().map(|s| s.pdf_cdf(*x)).collect();
        // The product of all others from the products of those before and those after.
        let mut after = vec![1.0; scores.len()];
        for a in (0..scores.len() - 1).rev() {
            after[a] = after[a + 1] * at[a + 1].1;
        }
        let mut before = 1.0;
        for (a, (pdf, cdf)) in at.into_iter().enumerate() {
            p[a] += weight * pdf * before * after[a];
            before *= cdf;
        }
    }
    normalise(&mut p);
    p
}

fn panel_ends(score: &Marginal) -> Vec<f64> {
    const FINE: [f64; 15] =
        [-9.0, -6.0, -4.0, -3.0, -2.0, -1.2, -0.5, 0.0, 0.5, 1.2, 2.0, 3.0, 4.0, 6.0, 9.0];
    let (mean, spread) = (score.mean(), score.spread());
    let spread = spread.max(mean.abs() * 1e-12).max(1e-300);
    match *score {
        Marginal::Beta { location, scale, .. } => {
            let (low, high) = (location.min(location + scale), location.max(location + scale));
            FINE.iter().map(|e| (mean + e * spread).clamp(low, high)).collect()
        }
        Marginal::Student { .. } => {
            // Heavy tails: panels grow geometrically.
            let far = [-1e4, -1e3, -200.0, -50.0, -20.0, 20.0, 50.0, 200.0, 1e3, 1e4];
            FINE.iter().chain(&far).map(|e| mean + e * spread).collect()
        }
        Marginal::Normal(..) => FINE.iter().map(|e| mean + e * spread).collect(),
    }
}

/// The same for jointly normal scores, by 256 seeded draws: p = (wins + ½)/(256 + K/2).
///
/// `covariance` is `[k, k]`, row-major, positive semi-definite up to rounding.
pub fn correlated(mean: &[f64], covariance: &[f64], seed: u64, p: &mut [f64]) {
    let k = mean.len();
    let mut factor = covariance.to_vec();
    dense::cholesky_semidefinite(&mut factor, k);
    let mut stream = Stream::new(seed);
    let (mut z, mut scores) = (vec![0.0; k], vec![0.0; k]);
    p.fill(0.5);
    for _ in 0..DRAWS {
        z.iter_mut().for_each(|z| *z = stream.normal());
        for (a, score) in scores.iter_mut().enumerate() {
            *score = mean[a] + dense::dot(&factor[a * k..=a * k + a], &z[..=a]);
        }
        p[first_largest(&scores)] += 1.0;
    }
    normalise(p);
}

/// The index of the largest value, the first where several are equal. `values` is not empty.
#[must_use]
pub fn first_largest(values: &[f64]) -> usize {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best
}

fn normalise(p: &mut [f64]) {
    let sum: f64 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(mean: &[f64], sd: &[f64], expected: &[f64], tolerance: f64) {
        let mut p = vec![0.0; mean.len()];
        super::normal(mean, sd, &mut p, &mut Scratch::default());
        for (p, e) in p.iter().zip(expected) {
            assert!((p - e).abs() < tolerance, "{p} is not {e}");
        }
    }

    #[test]
    fn matches_reference_integrals() {
        // From the founding issue: adaptive quadrature of the defining integral to 9 digits.
        check(&[0.0, 0.5, 1.0], &[1.0; 3], &[0.150_330_583, 0.300_925_701, 0.548_743_717], 2e-9);
        check(
            &[0.0, 0.5, 1.0],
            &[1.0, 0.1, 0.01],
            &[0.158_667_350, 0.000_000_275, 0.841_332_374],
            2e-9,
        );
        check(
            &[0.9, 0.88, 0.5],
            &[0.01, 0.02, 0.5],
            &[0.642_564_313, 0.146_843_514, 0.210_592_173],
            2e-9,
        );
        check(&[0.0, 0.5], &[1.0, 2.0], &[0.411_531_637, 0.588_468_363], 2e-9);
    }

    #[test]
    fn betas_match_the_published_comparison() {
        // Beta(11, 91) against Beta(16, 86): the founding issue; by Evan Miller's closed-form sum for integers.
        let arm = |a, b| Marginal::Beta { a, b, location: 0.0, scale: 1.0 };
        let p = general(&[arm(11.0, 91.0), arm(16.0, 86.0)]);
        assert!((p[1] - 0.853_283_8).abs() < 5e-8, "{p:?}");
    }

    #[test]
    fn many_posteriors_are_integrated_coarsely_and_well() {
        // Sixty-four equal arms and one that is better: by symmetry the equal ones share what is left alike.
        let arm = |a: f64| Marginal::Beta { a, b: 20.0, location: 0.0, scale: 1.0 };
        let arms: Vec<Marginal> = (0..64).map(|i| arm(if i == 0 { 60.0 } else { 20.0 })).collect();
        let p = general(&arms);
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        for q in &p[2..] {
            assert!((q - p[1]).abs() < 1e-12);
        }
        // The better arm against the largest of 63: a million draws of the two (numpy, seed 1) gave .8871 ± .0003.
        let equal = general(&vec![arm(20.0); 64]);
        assert!(equal.iter().all(|q| (q - 1.0 / 64.0).abs() < 1e-12));
        assert!((p[0] - 0.8871).abs() < 2e-3, "{}", p[0]);
    }

    #[test]
    fn general_agrees_with_the_normal_kernel_and_student_with_many_degrees() {
        let (mean, sd) = ([0.2, 0.5, 0.45, 0.1], [0.3, 0.1, 0.2, 0.05]);
        let mut p = [0.0; 4];
        super::normal(&mean, &sd, &mut p, &mut Scratch::default());
        let normals: Vec<_> = (0..4).map(|a| Marginal::Normal(mean[a], sd[a])).collect();
        let students: Vec<_> = (0..4)
            .map(|a| Marginal::Student { dof: 1e7, location: mean[a], scale: sd[a] })
            .collect();
        for (a, b) in p.iter().zip(general(&normals)) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
        for (a, b) in p.iter().zip(general(&students)) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn correlated_draws_agree_with_independence_where_it_holds() {
        let mut exact = [0.0; 3];
        super::normal(&[0.0, 0.5, 1.0], &[1.0; 3], &mut exact, &mut Scratch::default());
        let eye = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        let mut mean = [0.0; 3];
        for seed in 0..100 {
            let mut p = [0.0; 3];
            correlated(&[0.0, 0.5, 1.0], &eye, seed, &mut p);
            mean.iter_mut().zip(p).for_each(|(m, p)| *m += p / 100.0);
        }
        for (m, e) in mean.iter().zip(exact) {
            // Three standard errors of 25,600 draws, and the half counts.
            assert!((m - e).abs() < 0.015, "{m} {e}");
        }
    }

    proptest! {
        #[test]
        fn many_scores_are_as_exact_as_promised(
            scores in prop::collection::vec((0.0..1.0_f64, -7.0..0.0_f64), 4..9),
        ) {
            // The fine rule of `general` on the same normals.
            let (mean, sd): (Vec<f64>, Vec<f64>) = scores.iter().map(|(m, e)| (*m, libm::exp(*e))).unzip();
            let mut p = vec![0.0; mean.len()];
            super::normal(&mean, &sd, &mut p, &mut Scratch::default());
            let fine: Vec<Marginal> = mean.iter().zip(&sd).map(|(m, s)| Marginal::Normal(*m, *s)).collect();
            for (p, exact) in p.iter().zip(general(&fine)) {
                prop_assert!((p - exact).abs() < 2e-4, "{p} {exact} of {mean:?} {sd:?}");
            }
        }

        #[test]
        fn sums_to_one_and_orders_by_mean_where_spreads_are_equal(
            mean in prop::collection::vec(-5.0..5.0_f64, 2..12), sd in 0.001..3.0_f64,
        ) {
            let sd = vec![sd; mean.len()];
            let mut p = vec![0.0; mean.len()];
            super::normal(&mean, &sd, &mut p, &mut Scratch::default());
            prop_assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            for a in 0..mean.len() {
                for b in 0..mean.len() {
                    if mean[a] > mean[b] {
                        prop_assert!(p[a] >= p[b] - 1e-4);
                    }
                }
            }
        }
    }
}
