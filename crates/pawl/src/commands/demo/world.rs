//! The demo's world: requests, list prices, and how good each action is at each task.

use pawl_stats::rng::{Stream, mix};

/// The actions, the incumbent first.
pub const ACTIONS: [&str; 5] =
    ["gpt-4o", "gpt-4o-mini", "claude-3-5-sonnet", "claude-3-5-haiku", "llama-3.1-70b"];
/// The action that silently becomes worse half-way.
pub const FALLEN: usize = 2;
/// The weight of cost in the demo's objective.
pub const COST_WEIGHT: f64 = 20.0;

const TASKS: [&str; 6] = ["chat", "code", "math", "extract", "translate", "summarise"];

/// Public list prices in USD a million tokens, input and output, late 2024: openai.com/api/pricing,
/// anthropic.com/pricing, and groq.com/pricing for Llama 3.1 70B.
const PRICES: [(f64, f64); 5] = [(2.5, 10.0), (0.15, 0.6), (3.0, 15.0), (0.8, 4.0), (0.59, 0.79)];

/// Probability that an answer is good, `[action][task]`.
const QUALITY: [[f64; 6]; 5] = [
    [0.93, 0.86, 0.84, 0.94, 0.93, 0.93],
    [0.90, 0.68, 0.66, 0.93, 0.88, 0.91],
    [0.93, 0.95, 0.88, 0.94, 0.90, 0.92],
    [0.88, 0.80, 0.62, 0.92, 0.84, 0.90],
    [0.89, 0.70, 0.60, 0.88, 0.78, 0.87],
];
/// What is left of the fallen action's quality.
const FALL: f64 = 0.6;

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    task: usize,
    prompt_tokens: f64,
    paid: bool,
    seed: u64,
}

/// Request `i` of the seeded workload.
pub fn request(seed: u64, i: u64) -> Request {
    let mut stream = Stream::new(mix(seed).wrapping_add(i));
    let task = stream.below(6) as usize;
    let prompt_tokens = (200.0 * (0.8 * stream.normal()).exp()).clamp(20.0, 8000.0).round();
    let paid = stream.uniform() < 0.3;
    Request { task, prompt_tokens, paid, seed: stream.bits() }
}

impl Request {
    /// The body of the decide request.
    pub fn body(&self) -> String {
        let tier = if self.paid { "paid" } else { "free" };
        format!(
            r#"{{"context":{{"task":"{}","prompt_tokens":{},"user_tier":"{tier}"}}}}"#,
            TASKS[self.task], self.prompt_tokens
        )
    }

    /// What `action` would have given: quality 0 or 1, cost in USD.
    pub fn outcome(&self, action: usize, fallen: bool) -> (f64, f64) {
        let mut stream = Stream::new(self.seed ^ mix(action as u64 + 1));
        let good = stream.uniform() < expected_quality(action, self.task, fallen);
        let output_tokens = (150.0 * (0.5 * stream.normal()).exp()).round();
        (f64::from(u8::from(good)), self.cost(action, output_tokens))
    }

    fn cost(&self, action: usize, output_tokens: f64) -> f64 {
        let (input, output) = PRICES[action];
        (self.prompt_tokens * input + output_tokens * output) / 1e6
    }

    /// The expected score of `action`.
    pub fn expected(&self, action: usize, fallen: bool) -> f64 {
        // The mean of the log-normal output length above.
        let cost = self.cost(action, 150.0 * 0.125_f64.exp());
        expected_quality(action, self.task, fallen) - COST_WEIGHT * cost
    }

    /// The best expected score of any action.
    pub fn best(&self, fallen: bool) -> f64 {
        (0..ACTIONS.len()).map(|a| self.expected(a, fallen)).fold(f64::NEG_INFINITY, f64::max)
    }
}

fn expected_quality(action: usize, task: usize, fallen: bool) -> f64 {
    QUALITY[action][task] * if fallen && action == FALLEN { FALL } else { 1.0 }
}
