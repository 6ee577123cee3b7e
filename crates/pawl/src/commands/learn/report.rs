//! What `pawl learn` prints.

use std::fmt::Write as _;

use pawl_domain::{
    CheckedSpec,
    spec::{Kind, Loss},
};
use pawl_engine::{Enrolled, Tally};
use serde_json::{Value, json};

/// What came of learning.
pub struct Report<'a> {
    /// The spec.
    pub spec: &'a CheckedSpec,
    /// The learner.
    pub enrolled: &'a Enrolled,
    /// What was counted.
    pub tally: &'a Tally,
    /// Rows without a label.
    pub unlabelled: u64,
    /// From file open to the last weight.
    pub seconds: f64,
}

impl Report<'_> {
    fn loss_name(&self) -> String {
        match self.spec.policy().online.as_ref().map(|o| o.loss) {
            None | Some(Loss::Squared) => "squared loss".to_owned(),
            Some(Loss::Absolute) => "absolute loss".to_owned(),
            Some(Loss::Huber(delta)) => format!("Huber loss at {delta}"),
            Some(Loss::Quantile(tau)) => format!("loss of the quantile {tau}"),
            Some(Loss::Logistic | Loss::Softmax(_)) => "log loss".to_owned(),
        }
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let p = self.enrolled.progress();
        let mut out = String::new();
        let shown = |loss: Option<f64>| loss.map_or("–".to_owned(), |l| format!("{l:.5}"));
        let examples = self.enrolled.examples();
        // Writing to a string cannot fail.
        let _infallible = writeln!(
            out,
            "{examples} examples in {:.2} s: {:.0} a second",
            self.seconds,
            examples as f64 / self.seconds.max(1e-9)
        );
        let _infallible = writeln!(
            out,
            "progressive {}: {} over all, {} of late",
            self.loss_name(),
            shown(p.mean()),
            shown(p.recent_mean())
        );
        for (n, what) in [
            (self.unlabelled, "rows had no label"),
            (self.tally.undeclared, "labels were not those of the spec"),
            (self.enrolled.refused(), "examples were refused: their update was not finite"),
        ] {
            if n > 0 {
                let _infallible = writeln!(out, "{n} {what}");
            }
        }
        if self.spec.kind() == Kind::Classifier && p.weight > 0.0 {
            let _infallible = writeln!(
                out,
                "accuracy {:.4}, calibration error {:.4}",
                p.correct / p.weight,
                p.calibration_error()
            );
            let _infallible = writeln!(
                out,
                "\n{:>10} {:>12} {:>12} {:>12}",
                "predicted", "examples", "mean", "frequency"
            );
            for (i, [weight, sum, hits]) in p.bins.iter().enumerate().filter(|(_, b)| b[0] > 0.0) {
                let _infallible = writeln!(
                    out,
                    "{:>10} {weight:>12.0} {:>12.4} {:>12.4}",
                    format!(".{i}-{}", if i == 9 { "1".to_owned() } else { format!(".{}", i + 1) }),
                    sum / weight,
                    hits / weight
                );
            }
        }
        out
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let p = self.enrolled.progress();
        let mut value = json!({
            "model": self.spec.name(),
            "examples": self.enrolled.examples(),
            "seconds": self.seconds,
            "loss": p.mean(),
            "recent_loss": p.recent_mean(),
            "unlabelled": self.unlabelled,
            "undeclared": self.tally.undeclared,
            "refused": self.enrolled.refused(),
            "state_sha256": self.enrolled.sha256().to_string(),
        });
        if self.spec.kind() == Kind::Classifier && p.weight > 0.0 {
            value["accuracy"] = json!(p.correct / p.weight);
            value["calibration_error"] = json!(p.calibration_error());
            let bin = |[weight, sum, hits]: &[f64; 3]| json!({"weight": weight, "mean": sum / weight.max(f64::MIN_POSITIVE), "frequency": hits / weight.max(f64::MIN_POSITIVE)});
            value["calibration"] = p.bins.iter().map(bin).collect();
        }
        value
    }
}
