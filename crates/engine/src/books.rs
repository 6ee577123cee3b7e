//! The books of a policy: what was served and what came of it, by hour, beside what the incumbent would have given.

use std::collections::BTreeMap;

use pawl_domain::{
    ActionName,
    event::{Decided, Outcome},
    spec::Kind,
};
use pawl_judge::{Compared, Evidence};
use pawl_model::counts::Count;
use serde::{Deserialize, Serialize};

use crate::{enrolled::Enrolled, state::Model};

/// A probability of the incumbent below this compares nothing: one value would weigh as much as a million others.
const PROBABILITY_MIN: f64 = 1e-6;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Hours become days when the newest one is so much later, …
const HOURS_KEPT_MS: u64 = 3 * DAY_MS;
/// … and days are forgotten.
const DAYS_KEPT_MS: u64 = 92 * DAY_MS;

/// The pages, by the time at which they begin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Books {
    pages: BTreeMap<u64, Page>,
    /// Pages before this time are days.
    days_until: u64,
}

/// What was decided within an hour or a day, and what came of it until now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// Decisions by the action that was chosen.
    pub decisions: BTreeMap<ActionName, u64>,
    /// What was measured.
    pub metrics: BTreeMap<String, Entry>,
}

/// One metric of a page.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Where the incumbent could be drawn, beside what it would have given.
    pub compared: Compared,
    /// Where it could not: it was not eligible, another action was pinned, another than the chosen one was taken, or another
    /// system decided.
    pub apart: Count,
}

impl Entry {
    fn merge(&mut self, other: &Self) {
        self.compared.merge(&other.compared);
        self.apart.n += other.apart.n;
        self.apart.sum += other.apart.sum;
        self.apart.squares += other.apart.squares;
    }
}

impl Page {
    /// Takes what another page has.
    pub fn merge(&mut self, other: &Self) {
        for (action, n) in &other.decisions {
            *self.decisions.entry(action.clone()).or_default() += n;
        }
        for (metric, entry) in &other.metrics {
            self.metrics.entry(metric.clone()).or_default().merge(entry);
        }
    }
}

impl Books {
    /// The pages that end after `from_ms`: when each begins, how long it is, what it says.
    pub fn since(&self, from_ms: u64) -> impl Iterator<Item = (u64, u64, &Page)> {
        let length = |begins: u64| if begins < self.days_until { DAY_MS } else { HOUR_MS };
        let pages = self.pages.iter().map(move |(begins, page)| (*begins, length(*begins), page));
        pages.filter(move |(begins, length, _)| begins + length > from_ms)
    }

    /// When the page of a time begins, where there may be one.
    const fn page_of(&self, at_ms: u64) -> u64 {
        at_ms - at_ms % if at_ms < self.days_until { DAY_MS } else { HOUR_MS }
    }

    fn decided(&mut self, at_ms: u64, action: &ActionName) {
        let begins = self.page_of(at_ms);
        let page = match self.pages.get_mut(&begins) {
            Some(page) => page,
            None => {
                self.turn(begins);
                self.pages.entry(begins).or_default()
            }
        };
        match page.decisions.get_mut(action) {
            Some(n) => *n += 1,
            None => drop(page.decisions.insert(action.clone(), 1)),
        }
    }

    /// A page begins: old hours become days, old days go.
    fn turn(&mut self, begins: u64) {
        let days_until = begins.saturating_sub(HOURS_KEPT_MS) / DAY_MS * DAY_MS;
        if days_until > self.days_until {
            let hours = self.pages.range(self.days_until..days_until);
            let hours: Vec<u64> = hours.map(|(begins, _)| *begins).collect();
            for hour in hours {
                if let Some(page) = self.pages.remove(&hour) {
                    self.pages.entry(hour / DAY_MS * DAY_MS).or_default().merge(&page);
                }
            }
            self.days_until = days_until;
        }
        let keep = begins.saturating_sub(DAYS_KEPT_MS);
        self.pages.retain(|begins, _| begins + DAY_MS > keep);
    }

    /// The incumbent is another from here on: what was compared with the one before stays in the sums only.
    pub(crate) fn forget_incumbent(&mut self) {
        for entry in self.pages.values_mut().flat_map(|page| page.metrics.values_mut()) {
            let [n, sum, squares] = core::mem::take(&mut entry.compared).sums();
            entry.apart.n += n;
            entry.apart.sum += sum;
            entry.apart.squares += squares;
        }
    }

    /// Takes values of a decision: the metric in the spec, its name and the value.
    fn take(&mut self, at_ms: u64, beside: Option<&Beside>, values: &[(Option<usize>, &str, f64)]) {
        let begins = self.page_of(at_ms);
        let Some(page) = self.pages.get_mut(&begins) else { return };
        for (metric, name, value) in values {
            let entry = match page.metrics.get_mut(*name) {
                Some(entry) => entry,
                None => page.metrics.entry((*name).to_owned()).or_default(),
            };
            match beside.zip(*metric) {
                Some((beside, m)) => entry.compared.take(&beside.evidence(m, *value)),
                None => entry.apart.add(*value, 1.0),
            }
        }
    }
}

/// A decision beside the incumbent, which it could have drawn.
pub(crate) struct Beside {
    /// Whether it did.
    incumbent: bool,
    /// The probability with which it would.
    probability: f64,
    /// What is expected of the incumbent there, by metric of the spec in production.
    expected: Vec<f64>,
}

impl Beside {
    /// A value of a metric as evidence.
    pub(crate) fn evidence(&self, metric: usize, value: f64) -> Evidence {
        let Self { incumbent, probability, .. } = *self;
        let expected = self.expected.get(metric).copied().unwrap_or(value);
        Evidence { value, expected, incumbent, probability }
    }
}

/// When a decision was made: by another system, when that says.
pub(crate) fn made_ms(decided: &Decided) -> u64 {
    decided.caller.at_ms.map_or(decided.at_ms, |at| at.min(decided.at_ms))
}

impl Model {
    /// Books a decision.
    pub(crate) fn book(&mut self, decided: &Decided, chosen: &ActionName) {
        if self.production().is_some_and(|e| e.spec().kind() == Kind::Policy) {
            self.books.0.decided(made_ms(decided), chosen);
        }
    }

    /// Takes a decision off its page: nobody acted on it.
    pub(crate) fn book_not_used(&mut self, decided: &Decided) {
        let Some(chosen) = self.chosen(decided) else { return };
        let begins = self.books.0.page_of(made_ms(decided));
        let page = self.books.0.pages.get_mut(&begins);
        if let Some(n) = page.and_then(|page| page.decisions.get_mut(&chosen)) {
            *n = n.saturating_sub(1);
        }
    }

    /// Books what came of a decision for which `taken` was done, before it is learned.
    pub(crate) fn book_values(
        &mut self,
        decided: &Decided,
        taken: &ActionName,
        values: &[(&str, f64)],
    ) {
        let Some(spec) = self.production().map(Enrolled::shared_spec) else { return };
        if spec.kind() != Kind::Policy {
            return;
        }
        let beside = self.beside(decided, taken);
        let values: Vec<_> =
            values.iter().map(|(name, value)| (spec.metric(name), *name, *value)).collect();
        self.books.0.take(made_ms(decided), beside.as_ref(), &values);
    }

    /// A decision beside the incumbent; `None` where that could not be drawn, or what was done was not drawn.
    pub(crate) fn beside(&self, decided: &Decided, taken: &ActionName) -> Option<Beside> {
        let enrolled = self.production()?;
        let place = enrolled.spec().incumbent()?;
        let incumbent = &enrolled.spec().actions()[place].name;
        let names = self.actions.get(&decided.version)?;
        let name = |a: u16| names.get(usize::from(a));
        // What another system decided says nothing of this policy, and what a session repeats was not drawn.
        let drawn = !matches!(decided.outcome, Outcome::Elsewhere | Outcome::Sticky);
        if name(decided.action()?) != Some(taken) || !drawn {
            return None;
        }
        let at = decided.eligible.iter().position(|a| name(*a) == Some(incumbent))?;
        let probability =
            decided.probabilities.get(at).copied().filter(|p| *p >= PROBABILITY_MIN)?;
        let expected = enrolled.expected(&decided.context, place)?;
        Some(Beside { incumbent: taken == incumbent, probability, expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(name: &str) -> ActionName {
        name.parse().unwrap()
    }

    /// A page an hour; after three days the hours are days, after a quarter the days are gone, and no value is lost on the
    /// way, wherever its page is by then.
    #[test]
    fn hours_become_days_and_days_go() {
        let mut books = Books::default();
        let begin = 20_000 * DAY_MS;
        let (a, b) = (action("a"), action("b"));
        for hour in 0..10 * 24 {
            let at = begin + hour * HOUR_MS + 17;
            books.decided(at, if hour % 2 == 0 { &a } else { &b });
            // What came of a decision of two days before, of one of six, and of this one.
            for before in [0, 48, 144] {
                if hour >= before {
                    let values = [(Some(0), "cost", hour as f64)];
                    let beside =
                        Beside { incumbent: hour % 2 == 0, probability: 0.5, expected: vec![9.0] };
                    books.take(at - before * HOUR_MS, Some(&beside), &values);
                }
            }
        }
        let pages: Vec<_> = books.since(0).collect();
        let days = pages.iter().filter(|(_, length, _)| *length == DAY_MS).count();
        assert_eq!((days, pages.len()), (6, 6 + 4 * 24));
        assert!(pages.windows(2).all(|w| w[0].0 + w[0].1 == w[1].0), "no gap, no overlap");
        let mut all = Page::default();
        pages.iter().for_each(|(_, _, page)| all.merge(page));
        assert_eq!(all.decisions, BTreeMap::from([(a.clone(), 120), (b, 120)]));
        assert_eq!(all.metrics["cost"].compared.n(), 240 + 192 + 96);
        assert_eq!(books.since(begin + 10 * DAY_MS - 1).count(), 1);
        books.decided(begin + 100 * DAY_MS, &a);
        let left: Vec<u64> = books.since(0).map(|(begins, ..)| (begins - begin) / DAY_MS).collect();
        assert_eq!(left, [8, 9, 100]);
    }

    #[test]
    fn a_clock_that_goes_back_books_in_the_past() {
        let mut books = Books::default();
        books.decided(30 * DAY_MS, &action("a"));
        books.decided(2 * DAY_MS + 5, &action("a"));
        books.take(2 * DAY_MS + 5, None, &[(None, "cost", 1.0)]);
        let pages: Vec<u64> = books.since(0).map(|(begins, ..)| begins / DAY_MS).collect();
        assert_eq!(pages, [2, 30]);
    }
}
