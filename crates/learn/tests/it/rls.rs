//! Recursive least squares against a batch solve.

use pawl_learn::Example;
use pawl_model::{Encoded, HashKey, Prediction, context::Context, snapshot::Workspace};
use pawl_stats::rng::uniform;

use crate::environment::Bandit;

const LAMBDA: f64 = 2.5;

/// Solves the symmetric system `a`·θ = `b` by Gaussian elimination with row pivots.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let d = b.len();
    for column in 0..d {
        let pivot = (column..d).max_by(|i, j| a[*i][column].abs().total_cmp(&a[*j][column].abs()));
        a.swap(column, pivot.unwrap());
        b.swap(column, pivot.unwrap());
        for row in column + 1..d {
            let factor = a[row][column] / a[column][column];
            let pivot = a[column].clone();
            a[row].iter_mut().zip(pivot).for_each(|(v, p)| *v -= factor * p);
            b[row] -= factor * b[column];
        }
    }
    let mut theta = vec![0.0; d];
    for row in (0..d).rev() {
        let known: f64 = (row + 1..d).map(|k| a[row][k] * theta[k]).sum();
        theta[row] = (b[row] - known) / a[row][row];
    }
    theta
}

/// (Σ w x xᵀ + λI)⁻¹ Σ w y x over all examples at once (Hastie, Tibshirani & Friedman, "The Elements of Statistical
/// Learning", 2nd edition, equation 3.44, with weights), with numbers of different scale and a category.
#[test]
fn the_recursion_equals_the_ridge_of_all_examples() {
    let mut model = Bandit::new(&format!(
        "schema = 1\nname = \"m\"\nkind = \"regressor\"\n[features]\nx = {{ type = \"number\" }}\nz = {{ type = \"number\" }}\n\
         k = {{ type = \"category\", vocabulary = [\"u\", \"v\"] }}\n[learner]\nalgorithm = \"rls\"\nlambda = {LAMBDA}\n"
    ));
    let text = |t: u64| {
        let word = ["u", "v", "w"][t as usize % 3];
        format!("{{\"x\":{},\"z\":{},\"k\":\"{word}\"}}", uniform(1, t), 50.0 * uniform(2, t))
    };
    let (mut a, mut b) = (vec![vec![0.0; 6]; 6], vec![0.0; 6]);
    for t in 0..2000 {
        let text = text(t);
        let context = Context::read(&model.spec, &HashKey::default(), &text).unwrap();
        let x = Encoded::new(&model.spec, model.views.layout(0), &context, 0);
        let value = 3.0 * uniform(1, t) - 0.2 * 50.0 * uniform(2, t) + uniform(3, t);
        let weight = 0.5 + uniform(4, t);
        let example = Example { value, weight, ..Example::default() };
        model.learner.learn(&model.spec, &model.views, &example, &x, 0).unwrap();
        for (i, xi) in x.iter() {
            b[i] += weight * value * xi;
            x.iter().for_each(|(j, xj)| a[i][j] += weight * xi * xj);
        }
    }
    (0..6).for_each(|i| a[i][i] += LAMBDA);
    let theta = solve(a, b);
    let snapshot = model.snapshot();
    let mut work = Workspace::default();
    for t in 5000..5050 {
        let text = text(t);
        let context = Context::read(&model.spec, &HashKey::default(), &text).unwrap();
        let x = Encoded::new(&model.spec, model.views.layout(0), &context, 0);
        let expected: f64 = x.iter().map(|(i, v)| theta[i] * v).sum();
        let Prediction::Value(ours) = snapshot.predict(&context, &mut work) else { panic!() };
        assert!((ours - expected).abs() < 1e-9, "{ours} {expected}");
    }
}
