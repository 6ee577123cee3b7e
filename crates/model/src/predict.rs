//! Regressors and classifiers: what a snapshot predicts.

use pawl_domain::spec::{CheckedSpec, Kind, Loss};
use pawl_stats::logistic::{sigmoid, softmax};

use crate::{
    context::Context,
    snapshot::{Estimates, Snapshot, Workspace},
};

/// What was predicted.
#[derive(Clone, Debug, PartialEq)]
pub enum Prediction {
    /// A number.
    Value(f64),
    /// The probability of each class, in the order of the spec; they sum to 1.
    Classes(Vec<f64>),
}

impl Prediction {
    /// As a record keeps it: `prediction`, or `prediction=CLASS` for each class.
    #[must_use]
    pub fn named(&self, spec: &CheckedSpec) -> Vec<(String, f64)> {
        match self {
            Self::Value(v) => vec![("prediction".to_owned(), *v)],
            Self::Classes(p) => {
                let named = spec.classes().iter().zip(p);
                named.map(|(class, p)| (format!("prediction={class}"), *p)).collect()
            }
        }
    }
}

impl Snapshot {
    /// Predicts. The same context gives the same prediction, bit for bit. Of a policy, the first metric of its first
    /// action.
    #[must_use]
    pub fn predict(&self, context: &Context<'_>, work: &mut Workspace) -> Prediction {
        self.encode(context, &[0], work);
        let x = work.encoded(self.views.of_metric[0]);
        let metric = &self.spec.metrics()[0];
        let loss = self.spec.policy().online.as_ref().map(|o| o.loss);
        if let (Some(Loss::Softmax(classes)), Estimates::Online(models)) =
            (loss, &self.metrics[0].estimates)
        {
            let mut p: Vec<f64> =
                (0..classes).map(|k| models[0].score(&x.diagonal, k, classes)).collect();
            softmax(&mut p);
            return Prediction::Classes(p);
        }
        let (score, _) = self.estimate(0, metric, 0, x);
        let logistic = loss == Some(Loss::Logistic);
        if self.spec.kind() == Kind::Classifier {
            let p = sigmoid(score);
            return Prediction::Classes(vec![1.0 - p, p]);
        }
        let value = match self.metrics[0].seen {
            _ if logistic => sigmoid(score),
            Some([low, high]) => score.clamp(low, high),
            None => score,
        };
        Prediction::Value(metric.bounds.map_or(value, |[low, high]| value.clamp(low, high)))
    }
}
