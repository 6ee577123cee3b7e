//! Gradient learners against Vowpal Wabbit's output on a given file and against the laws of their updates.

use pawl_domain::spec::{
    ClipSpec, Descent, Gradient, Loss, Monitor, OnDrift, Online as Spec, Schedule, ScheduleUnit,
    Shape,
};
use pawl_learn::online::{Online, Scratch};
use pawl_stats::rng::Stream;
use proptest::prelude::*;

/// Label of the regression, class, features.
type Row = (f64, f64, Vec<(u32, f64)>);

const INTERCEPT: u32 = 4;

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for line in include_str!("vowpal_wabbit.csv").lines() {
        let Some(rest) = line.strip_prefix("example,") else { continue };
        let mut fields = rest.splitn(3, ',');
        let number = fields.next().unwrap().parse().unwrap();
        let class: f64 = fields.next().unwrap().parse().unwrap();
        let feature = |f: &str| {
            let (slot, v) = f.split_once(':').unwrap();
            (slot.parse().unwrap(), v.parse().unwrap())
        };
        let mut x: Vec<(u32, f64)> = fields.next().unwrap().split(' ').map(feature).collect();
        x.push((INTERCEPT, 1.0));
        rows.push((number, (class + 1.0) / 2.0, x));
    }
    assert_eq!(rows.len(), 60);
    rows
}

fn expected(kind: &str, mode: &str) -> Vec<f64> {
    let prefix = format!("{kind},{mode},");
    let line = include_str!("vowpal_wabbit.csv").lines().find_map(|l| l.strip_prefix(&prefix));
    line.unwrap().split(' ').map(|v| v.parse().unwrap()).collect()
}

fn spec(loss: Loss, rate: f64) -> Spec {
    let schedule = Schedule {
        shape: Shape::Constant,
        initial: rate,
        floor: 0.0,
        warm_up: 0.0,
        unit: ScheduleUnit::Examples,
    };
    Spec {
        rule: Descent::Sgd,
        loss,
        schedule,
        adaptive: true,
        normalized: true,
        invariant: true,
        l1: 0.0,
        l2: 0.0,
        beta: 1.0,
        clip: ClipSpec::default(),
        average: false,
        gradient: Gradient::Each,
        monitor: Monitor {
            warm_up: u64::MAX,
            loss_sigmas: 10.0,
            loss_factor: 2.0,
            gradient_factor: 1000.0,
            worse_factor: 1.2,
            rate_cut: 0.5,
            hold_max: 5000,
            drift_delta: 0.002,
            on_drift: OnDrift::Count,
        },
    }
}

fn plain(loss: Loss, rate: f64) -> Spec {
    Spec { adaptive: false, normalized: false, ..spec(loss, rate) }
}

fn compare(mode: &str, spec: &Spec, tolerance: f64) {
    let mut model = Online::new(spec.rule, 5, 1);
    let mut scratch = Scratch::default();
    let predictions = expected("predictions", mode);
    for (i, (number, class, x)) in rows().iter().enumerate() {
        let y = if spec.loss == Loss::Logistic { *class } else { *number };
        model.learn(spec, x, y, 1.0, &mut scratch).unwrap();
        let mut p = scratch.scores()[0];
        if spec.loss != Loss::Logistic {
            p = p.clamp(model.range()[0], model.range()[1]);
        }
        let apart = (p - predictions[i]).abs();
        assert!(apart <= tolerance * (1.0 + p.abs()), "{mode} {i}: {p} {}", predictions[i]);
    }
    for (slot, w) in expected("weights", mode).iter().enumerate() {
        let ours = model.weight(slot, 0);
        assert!((ours - w).abs() <= tolerance * (1.0 + w.abs()), "{mode} w{slot}: {ours} {w}");
    }
}

#[test]
fn squared_loss_is_vowpal_wabbits() {
    compare("squared", &spec(Loss::Squared, 0.5), 1e-5);
    compare("squared_sgd", &plain(Loss::Squared, 1e-4), 1e-5);
    compare("quantile", &spec(Loss::Quantile(0.8), 0.5), 1e-5);
}

/// Vowpal Wabbit's step of a logistic loss takes an approximation of Lambert's W, ours is exact: hence 5e-5.
#[test]
fn logistic_loss_is_vowpal_wabbits() {
    compare("logistic", &spec(Loss::Logistic, 0.5), 5e-5);
    compare("logistic_sgd", &plain(Loss::Logistic, 1e-3), 5e-5);
}

#[test]
fn ftrl_is_vowpal_wabbits() {
    let spec = Spec { rule: Descent::Ftrl, l1: 0.05, l2: 0.01, ..spec(Loss::Logistic, 0.1) };
    compare("ftrl", &spec, 1e-5);
}

/// McMahan et al., algorithm 1, by hand: α = .1, β = 1, λ₁ = .1, λ₂ = .5, two examples x = (1, 2), y = 1 then 0.
/// First: p = .5, g = (−.5, −1); σ = √n/α = (5, 10), z = g, n = (.25, 1); w₁ = (.5 − .1)/((1 + .5)/.1 + .5) =
/// .4/15.5, w₂ = .9/20.5. Second: s = w₁ + 2w₂ = .1136113, p = .5283723, g = (p, 2p), n = (.5291773, 2.1167092),
/// σ = ((√.5291773 − .5)/.1, (√2.1167092 − 1)/.1) = (2.2744575, 4.5489149),
/// z = (−.5 + .5283723 − 2.2744575·.0258065, −1 + 1.0567446 − 4.5489149·.0439024) = (−.0303234, −.1429637).
#[test]
fn ftrl_follows_the_published_algorithm() {
    let spec = Spec { l1: 0.1, l2: 0.5, ..spec(Loss::Logistic, 0.1) };
    let mut model = Online::new(Descent::Ftrl, 2, 1);
    let mut scratch = Scratch::default();
    let x = [(0, 1.0), (1, 2.0)];
    model.learn(&spec, &x, 1.0, 1.0, &mut scratch).unwrap();
    assert!((model.weight(0, 0) - 0.4 / 15.5).abs() < 1e-12);
    assert!((model.weight(1, 0) - 0.9 / 20.5).abs() < 1e-12);
    model.learn(&spec, &x, 0.0, 1.0, &mut scratch).unwrap();
    assert_eq!(model.weight(0, 0), 0.0); // |z| ≤ λ₁
    let w = (0.142_963_7 - 0.1) / ((1.0 + 2.116_709_2_f64.sqrt()) / 0.1 + 0.5);
    assert!((model.weight(1, 0) - w).abs() < 1e-8);
}

/// AdaGrad by hand (Duchi et al. 2011): one slot, x = 1, squared loss, rate .1, label 1: g = −2, n = 4, w = .1;
/// then g = −1.8, n = 7.24, w = .1 + .1·1.8/√7.24.
#[test]
fn adaptive_steps_are_adagrads() {
    let spec = Spec { invariant: false, normalized: false, ..spec(Loss::Squared, 0.1) };
    let mut model = Online::new(Descent::Sgd, 1, 1);
    let mut scratch = Scratch::default();
    for _ in 0..2 {
        model.learn(&spec, &[(0, 1.0)], 1.0, 1.0, &mut scratch).unwrap();
    }
    assert!((model.weight(0, 0) - (0.1 + 0.18 / 7.24_f64.sqrt())).abs() < 1e-12);
}

fn any_loss() -> impl Strategy<Value = Loss> {
    prop_oneof![
        Just(Loss::Squared),
        Just(Loss::Absolute),
        Just(Loss::Huber(0.5)),
        Just(Loss::Quantile(0.3)),
        Just(Loss::Logistic),
    ]
}

fn any_row() -> impl Strategy<Value = (Vec<(u32, f64)>, bool)> {
    (prop::collection::btree_map(0_u32..6, -3.0..3.0_f64, 1..6), any::<bool>())
        .prop_map(|(x, y)| (x.into_iter().collect(), y))
}

proptest! {
    /// With a constant rate and no scaling, weight 2 is the example twice.
    #[test]
    fn a_weight_is_a_repetition(
        loss in any_loss(), rows in prop::collection::vec(any_row(), 1..20), rate in 0.01..2.0_f64,
    ) {
        let spec = plain(loss, rate);
        let (mut heavy, mut twice) = (Online::new(Descent::Sgd, 6, 1), Online::new(Descent::Sgd, 6, 1));
        let mut scratch = Scratch::default();
        // Predictions are held within the labels so far: let both know the range before.
        for y in [0.0, 1.0] {
            heavy.learn(&spec, &[], y, 1.0, &mut scratch).unwrap();
            twice.learn(&spec, &[], y, 1.0, &mut scratch).unwrap();
        }
        for (x, y) in &rows {
            let y = f64::from(u8::from(*y));
            heavy.learn(&spec, x, y, 2.0, &mut scratch).unwrap();
            twice.learn(&spec, x, y, 1.0, &mut scratch).unwrap();
            twice.learn(&spec, x, y, 1.0, &mut scratch).unwrap();
        }
        for slot in 0..6 {
            let (a, b) = (heavy.weight(slot, 0), twice.weight(slot, 0));
            prop_assert!((a - b).abs() < 1e-10 * (1.0 + a.abs()), "{loss:?} {a} {b}");
        }
    }

    /// Whatever is scaled and adapted: more weight moves further, and none passes the label.
    #[test]
    fn no_weight_passes_the_label(
        loss in any_loss(), rows in prop::collection::vec(any_row(), 1..20), last in any_row(),
        normalized in any::<bool>(), adaptive in any::<bool>(),
    ) {
        let spec = Spec { normalized, adaptive, ..spec(loss, 0.5) };
        let mut scratch = Scratch::default();
        let mut model = Online::new(Descent::Sgd, 6, 1);
        // What a rescale takes from the weights is no step towards the label: all scales are set before.
        let largest: Vec<(u32, f64)> = (0..6).map(|slot| (slot, 3.0)).collect();
        for y in [0.0, 1.0] {
            model.learn(&spec, &largest, y, 1.0, &mut scratch).unwrap();
        }
        for (x, y) in &rows {
            model.learn(&spec, x, f64::from(u8::from(*y)), 1.0, &mut scratch).unwrap();
        }
        let (x, y) = last;
        let y = f64::from(u8::from(y));
        let mut reached = Vec::new();
        for weight in [0.1, 1.0, 10.0, 1e6] {
            let mut model = model.clone();
            model.learn(&spec, &x, y, weight, &mut scratch).unwrap();
            let start = scratch.scores()[0];
            let mut scores = Vec::new();
            model.scores(&x, &mut scores);
            reached.push((start, scores[0]));
        }
        let from = |p: f64| {
            if normalized && loss != Loss::Logistic { p.clamp(0.0, 1.0) } else { p }
        };
        for pair in reached.windows(2) {
            let ((start, a), (_, b)) = (pair[0], pair[1]);
            let towards = if loss == Loss::Logistic { 2.0 * y - 1.0 } else { y - from(start) };
            prop_assert!((b - a) * towards.signum() >= -1e-9 || towards == 0.0, "{loss:?} {a} {b}");
            if loss != Loss::Logistic && start == from(start) {
                prop_assert!((y - b) * towards >= -1e-9, "{loss:?} passes {y}: {start} {b}");
            }
        }
    }

    /// Slots that an example does not have cost nothing and change nothing.
    #[test]
    fn absent_features_change_nothing(rows in prop::collection::vec(any_row(), 1..30), shift in 1_usize..50) {
        let spec = spec(Loss::Logistic, 0.5);
        let (mut small, mut large) = (Online::new(Descent::Sgd, 6, 1), Online::new(Descent::Sgd, 6 + shift, 1));
        let mut scratch = Scratch::default();
        for (x, y) in &rows {
            let y = f64::from(u8::from(*y));
            small.learn(&spec, x, y, 1.0, &mut scratch).unwrap();
            let moved: Vec<(u32, f64)> = x.iter().map(|&(s, v)| (s + shift as u32, v)).collect();
            large.learn(&spec, &moved, y, 1.0, &mut scratch).unwrap();
        }
        for slot in 0..6 {
            prop_assert_eq!(small.weight(slot, 0).to_bits(), large.weight(slot + shift, 0).to_bits());
        }
    }

    /// At any rate from 1e-6 to 1e6 an invariant step lowers the loss of its own example.
    #[test]
    fn a_repeated_example_gets_no_worse(
        loss in any_loss(), row in any_row(),
        rate in prop::sample::select(vec![1e-6, 1e-3, 0.1, 1.0, 10.0, 1e3, 1e6]),
    ) {
        let spec = spec(loss, rate);
        let mut model = Online::new(Descent::Sgd, 6, 1);
        let mut scratch = Scratch::default();
        let (x, y) = row;
        let y = f64::from(u8::from(y));
        let mut last = f64::INFINITY;
        for _ in 0..50 {
            model.learn(&spec, &x, y, 1.0, &mut scratch).unwrap();
            let now = pawl_learn::online::loss::value(loss, scratch.scores()[0], y);
            prop_assert!(now <= last + 1e-12, "{loss:?} {now} {last}");
            last = now;
        }
    }
}

/// Softmax with three classes learns a rule that two hyperplanes separate, from rows of any weight.
#[test]
fn softmax_learns_three_classes() {
    let spec = spec(Loss::Softmax(3), 0.5);
    let mut model = Online::new(Descent::Sgd, 3, 3);
    let mut scratch = Scratch::default();
    let mut stream = Stream::new(11);
    let (mut wrong, n) = (0, 4000);
    for i in 0..n {
        let (a, b) = (2.0 * stream.uniform() - 1.0, 2.0 * stream.uniform() - 1.0);
        let class = if a > b.abs() { 0 } else { 1 + usize::from(b > 0.0) };
        let x = [(0, a), (1, b), (2, 1.0)];
        model.learn(&spec, &x, class as f64, 1.0, &mut scratch).unwrap();
        let scores = scratch.scores();
        let best = (0..3).max_by(|i, j| scores[*i].total_cmp(&scores[*j])).unwrap();
        wrong += usize::from(i >= n / 2 && best != class);
    }
    assert!(wrong < n / 2 / 20, "{wrong}");
}

/// A value that cannot be learned changes nothing, and going back restores what was.
#[test]
fn what_is_not_finite_is_refused_and_what_went_wrong_is_undone() {
    let spec = spec(Loss::Squared, 0.5);
    let mut model = Online::new(Descent::Sgd, 5, 1);
    let mut scratch = Scratch::default();
    let rows = rows();
    for (number, _, x) in &rows[..30] {
        model.learn(&spec, x, *number, 1.0, &mut scratch).unwrap();
    }
    model.mark_good();
    let good = model.clone();
    for y in [f64::NAN, f64::INFINITY, 1e308, -1e200] {
        assert!(model.learn(&spec, &rows[0].2, y, 1.0, &mut scratch).is_err());
        assert_eq!(model, good);
    }
    for (number, _, x) in &rows[30..] {
        model.learn(&spec, x, 1e9 * number, 1.0, &mut scratch).unwrap();
    }
    assert_ne!(model, good);
    model.go_back();
    assert_eq!(model, good);
}
