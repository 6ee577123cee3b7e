//! The floor where the truth is known: worlds that are linear and not, in which the incumbent is best, nobody is, or a cheap
//! action is as good. The true sum of what the policy kept is compared with the floor after every decision.

use pawl_stats::rng::{mix, uniform};

use crate::driven::Driven;

const ROUNDS: u64 = 3000;
const FEATURES: usize = 4;

/// One world.
struct World {
    seed: u64,
    actions: usize,
    keep: f64,
    /// The share of decisions whose quality is observed.
    observed: f64,
    linear: bool,
    /// How much better the incumbent is everywhere.
    lead: f64,
    /// The last action is as good as the incumbent.
    twin: bool,
    /// From this round on every other action is bad.
    turns: u64,
}

/// What came of it.
struct Outcome {
    /// The least that the true sum ever was.
    least: f64,
    /// The share of the incumbent's cost that was saved.
    saving: f64,
    /// Decisions after the turn whose mean quality was below the floor.
    below: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let draw = |k: u64| uniform(seed, 1000 + k);
        Self {
            seed,
            actions: 2 + (draw(0) * 8.0) as usize,
            keep: [0.9, 0.95, 0.98][(draw(1) * 3.0) as usize],
            observed: [1.0, 1.0, 0.2, 0.05][(draw(2) * 4.0) as usize],
            linear: draw(3) < 0.5,
            lead: if draw(4) < 0.4 { 0.15 } else { 0.0 },
            twin: draw(5) < 0.4,
            turns: if draw(6) < 0.2 { ROUNDS / 2 } else { ROUNDS },
        }
    }

    fn spec(&self) -> String {
        let actions: Vec<String> = (0..self.actions).map(|a| format!("\"a{a}\"")).collect();
        let features: String =
            (0..FEATURES).map(|j| format!("x{j} = {{ type = \"number\" }}\n")).collect();
        format!(
            "schema = 1\nname = \"world\"\nkind = \"policy\"\nactions = [{}]\n[features]\n{features}\
             [metrics]\nquality = {{ bounds = [0, 1] }}\ncost = {{ goal = \"min\", explore = false, features = [] }}\n\
             [objective]\nincumbent = \"a0\"\nminimize = \"cost\"\nkeep = {{ quality = {} }}\n\
             [learner]\nalgorithm = \"linear_thompson\"\nalpha = 0.25\nlambda = 3.0\n",
            actions.join(", "),
            self.keep
        )
    }

    fn x(&self, t: u64) -> [f64; FEATURES] {
        core::array::from_fn(|j| 2.0 * uniform(self.seed, 1 << 20 | (t * 8 + j as u64)) - 1.0)
    }

    /// The true mean quality of an action.
    fn mean(&self, action: usize, x: &[f64; FEATURES], t: u64) -> f64 {
        let own = if self.twin && action + 1 == self.actions { 0 } else { action };
        let weight = |j: usize| 2.0 * uniform(self.seed, (own * FEATURES + j) as u64) - 1.0;
        let dot: f64 = x.iter().enumerate().map(|(j, x)| weight(j) * x).sum();
        let shape = if self.linear { dot / 2.0 } else { libm::sin(4.0 * dot) * x[0].abs() };
        let lead = if own == 0 { self.lead } else { 0.0 };
        let bad = if action > 0 && t >= self.turns { 0.5 } else { 0.0 };
        (0.7 + 0.2 * shape + lead - bad).clamp(0.02, 0.98)
    }

    fn cost(&self, action: usize) -> f64 {
        if action == 0 { 1.0 } else { 0.05 + 0.9 * uniform(self.seed, 500 + action as u64) }
    }

    fn run(&self) -> Outcome {
        let mut driven = Driven::new(&self.spec());
        let (mut d, mut least, mut cost, mut below) = (0.0, 0.0_f64, 0.0, 0);
        for t in 0..ROUNDS {
            let x = self.x(t);
            let context = format!(
                "{{\"x0\":{:?},\"x1\":{:?},\"x2\":{:?},\"x3\":{:?}}}",
                x[0], x[1], x[2], x[3]
            );
            let answer = driven.decide(&context, self.seed, t);
            let served = answer.probabilities.iter().enumerate();
            let mean = served.map(|(a, p)| p * self.mean(a, &x, t)).sum::<f64>();
            d += mean - self.keep * self.mean(0, &x, t);
            below += u64::from(t >= self.turns && mean < self.keep * self.mean(0, &x, t));
            least = least.min(d);
            let action = answer.action;
            cost += self.cost(action);
            let good = uniform(self.seed, 1 << 40 | t) < self.mean(action, &x, t);
            let values = [("cost", self.cost(action)), ("quality", f64::from(u8::from(good)))];
            let seen = uniform(self.seed, 1 << 41 | t) < self.observed;
            driven.feedback(answer.id, if seen { &values } else { &values[..1] }, t);
        }
        Outcome { least, saving: 1.0 - cost / ROUNDS as f64, below }
    }
}

/// Broken at any time in at most 1 % of the worlds. `PAWL_WORLDS` says how many.
#[test]
fn the_floor_holds_at_any_time() {
    let worlds = std::env::var("PAWL_WORLDS").map_or(30, |n| n.parse::<u64>().unwrap());
    let (mut broken, mut saving, mut twins) = (Vec::new(), 0.0, 0.0_f64);
    let mut below = Vec::new();
    for seed in 0..worlds {
        let world = World::new(mix(seed));
        let outcome = world.run();
        if world.turns < ROUNDS {
            below.push(outcome.below);
        }
        if outcome.least < 0.0 {
            broken.push((seed, outcome.least));
        }
        if world.twin && world.observed == 1.0 && world.keep < 0.95 && world.turns == ROUNDS {
            (saving, twins) = (saving + outcome.saving, twins + 1.0);
        }
    }
    println!("{} of {worlds} broken: {broken:?}", broken.len());
    below.sort_unstable();
    let of = |q: f64| below.get(((below.len() as f64 - 1.0) * q) as usize).copied().unwrap_or(0);
    println!(
        "where the others turn bad half-way ({} worlds): decisions below the floor afterwards, of {}: median {}, 95 % {}, most {}",
        below.len(),
        ROUNDS / 2,
        of(0.5),
        of(0.95),
        of(1.0)
    );
    println!(
        "where a cheap action is as good, a tenth may be lost and all is observed: {:.3} saved",
        saving / twins
    );
    assert!(broken.len() as f64 <= (0.01 * worlds as f64).max(0.5).floor(), "{broken:?}");
    assert!(twins == 0.0 || saving / twins > 0.1, "it never lets go: {saving} of {twins}");
}
