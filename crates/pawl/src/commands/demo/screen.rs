//! What the demo shows: a table that renews itself in a terminal, plain lines elsewhere.

use std::{
    collections::VecDeque,
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use super::world::{ACTIONS, COST_WEIGHT};

/// Requests over which the live shares are counted.
const RECENT: usize = 1000;

/// Everything counted so far.
#[derive(Debug)]
pub struct Totals {
    begun: Instant,
    /// Requests answered and learned from.
    pub requests: u64,
    /// By action.
    pub chosen: [u64; 5],
    recent: VecDeque<usize>,
    quality: f64,
    cost: f64,
    /// What every single action would have given: quality and cost.
    single: [(f64, f64); 5],
    regret: f64,
    freshness: Vec<Duration>,
    fallen_at: Option<u64>,
}

/// One request's share of the totals.
pub struct Sample {
    /// The chosen action.
    pub action: usize,
    /// What every action would have given.
    pub outcomes: [(f64, f64); 5],
    /// Expected score lost against the best action.
    pub regret: f64,
    /// Whether one action had become worse.
    pub fallen: bool,
}

impl Totals {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
            requests: 0,
            chosen: [0; 5],
            recent: VecDeque::new(),
            quality: 0.0,
            cost: 0.0,
            single: [(0.0, 0.0); 5],
            regret: 0.0,
            freshness: Vec::new(),
            fallen_at: None,
        }
    }

    /// Counts one request.
    pub fn add(&mut self, sample: &Sample) {
        self.requests += 1;
        self.chosen[sample.action] += 1;
        self.recent.push_back(sample.action);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        let (quality, cost) = sample.outcomes[sample.action];
        self.quality += quality;
        self.cost += cost;
        self.regret += sample.regret;
        for (total, one) in self.single.iter_mut().zip(sample.outcomes) {
            total.0 += one.0;
            total.1 += one.1;
        }
        if sample.fallen && self.fallen_at.is_none() {
            self.fallen_at = Some(self.requests);
        }
    }

    /// Counts the time from an acknowledgement to a decision that had learned from it.
    pub fn fresh(&mut self, after: Duration) {
        self.freshness.push(after);
    }

    /// The single action with the best score over everything so far.
    fn best_single(&self) -> usize {
        let score = |a: &usize| self.single[*a].0 - COST_WEIGHT * self.single[*a].1;
        (0..5).max_by(|a, b| score(a).total_cmp(&score(b))).unwrap_or(0)
    }

    fn freshness_ms(&self, quantile: f64) -> f64 {
        let mut sorted = self.freshness.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let at = ((last as f64) * quantile) as usize;
        sorted.get(at).map_or(0.0, |d| d.as_secs_f64() * 1e3)
    }

    fn mean(&self, sum: f64) -> f64 {
        sum / (self.requests.max(1)) as f64
    }

    fn line(&self) -> String {
        let (incumbent_quality, incumbent_cost) = self.single[0];
        format!(
            "{:6.1} s  {:7} requests  quality {:.3} (gpt-4o {:.3})  cost {:.5} USD  saving {:4.1} %  regret {:6.1}  fresh p50 {:.1} ms",
            self.begun.elapsed().as_secs_f64(),
            self.requests,
            self.mean(self.quality),
            self.mean(incumbent_quality),
            self.mean(self.cost),
            100.0 * (1.0 - self.cost / incumbent_cost.max(1e-12)),
            self.regret,
            self.freshness_ms(0.5)
        )
    }

    fn table(&self) -> Vec<String> {
        let mut lines = vec![self.line(), String::new()];
        lines.push("  action               share of the last 1,000".to_owned());
        for (a, name) in ACTIONS.iter().enumerate() {
            let count = self.recent.iter().filter(|r| **r == a).count();
            let share = count as f64 / self.recent.len().max(1) as f64;
            let bar = "█".repeat((share * 40.0).round() as usize);
            lines.push(format!("  {name:20} {:5.1} %  {bar}", 100.0 * share));
        }
        lines.push(match self.fallen_at {
            None => String::new(),
            Some(_) => "  claude-3-5-sonnet silently became worse: watch its share".to_owned(),
        });
        lines
    }

    /// The end of the demo.
    pub fn summary(&self) -> String {
        let best = self.best_single();
        let (quality, cost) = self.single[best];
        let (incumbent_quality, incumbent_cost) = self.single[0];
        format!(
            "\n{} decisions over HTTP, each learned from before the next few.\n\
             quality       {:.3}   (always gpt-4o: {:.3}; best single action {}: {:.3})\n\
             cost          {:.2} USD   (always gpt-4o: {:.2}; {}: {:.2})\n\
             saving        {:.1} % against gpt-4o\n\
             regret        {:.1} in all, {:.4} a request\n\
             freshness     p50 {:.1} ms, p99 {:.1} ms from acknowledged feedback to a decision that used it\n",
            self.requests,
            self.mean(self.quality),
            self.mean(incumbent_quality),
            ACTIONS[best],
            self.mean(quality),
            self.cost,
            incumbent_cost,
            ACTIONS[best],
            cost,
            100.0 * (1.0 - self.cost / incumbent_cost.max(1e-12)),
            self.regret,
            self.mean(self.regret),
            self.freshness_ms(0.5),
            self.freshness_ms(0.99)
        )
    }
}

/// Draws the totals.
pub struct Screen {
    terminal: bool,
    drawn: usize,
    last: Instant,
}

impl Screen {
    /// A screen on standard output.
    pub fn new() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), drawn: 0, last: Instant::now() }
    }

    /// Shows the totals: in place in a terminal, as a line every two seconds elsewhere.
    pub fn draw(&mut self, totals: &Totals) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.terminal {
            if self.drawn > 0 {
                write!(out, "\x1b[{}A", self.drawn)?;
            }
            let lines = totals.table();
            self.drawn = lines.len();
            for line in lines {
                writeln!(out, "\x1b[2K{line}")?;
            }
        } else if self.last.elapsed() >= Duration::from_secs(2) || totals.requests == 0 {
            self.last = Instant::now();
            writeln!(out, "{}", totals.line())?;
        }
        out.flush()
    }
}
