//! Where each term of a metric stands in its vector of slots.
//!
//! Slots come in three runs: a dense prefix (the intercept, numbers, vectors: nearly always set), then one-hot
//! terms, both under the full covariance; then those that keep variances only. A place has no meaning outside
//! one layout: what is stored is keyed by [`Block::key`].

use pawl_domain::spec::{CheckedSpec, Covariance, Encoding, FeatureOf, Metric, Term};

/// A run of slots of one term.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// `feature`, `feature:raw` or `a*b`, with what defines its slots: two blocks with one key mean the same.
    pub key: String,
    /// What it encodes; `None` is the intercept.
    pub term: Option<Term>,
    /// First slot.
    pub start: usize,
    /// Number of slots.
    pub len: usize,
}

/// The slots of one view of a context.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// In order of their slots.
    pub blocks: Vec<Block>,
    /// Slots of the dense prefix.
    pub dense: usize,
    /// Slots under the full covariance, the dense prefix included.
    pub full: usize,
    /// All slots.
    pub slots: usize,
}

/// The distinct layouts of a spec's metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct Views {
    /// The layouts.
    pub layouts: Vec<Layout>,
    /// For each metric of the spec, the index of its layout.
    pub of_metric: Vec<usize>,
}

impl Views {
    /// The layouts that a spec asks for.
    #[must_use]
    pub fn of(spec: &CheckedSpec) -> Self {
        let mut views = Self { layouts: Vec::new(), of_metric: Vec::new() };
        for metric in spec.metrics() {
            let layout = Layout::of(spec, metric);
            let known = views.layouts.iter().position(|l| *l == layout);
            views.of_metric.push(known.unwrap_or(views.layouts.len()));
            if known.is_none() {
                views.layouts.push(layout);
            }
        }
        views
    }

    /// The layout of metric `m`.
    #[must_use]
    pub fn layout(&self, m: usize) -> &Layout {
        &self.layouts[self.of_metric[m]]
    }
}

fn is_dense(encoding: &Encoding) -> bool {
    matches!(
        encoding,
        Encoding::Raw
            | Encoding::Log
            | Encoding::Bounded(_)
            | Encoding::Boolean
            | Encoding::Cyclic(_)
            | Encoding::Vector(_)
    )
}

impl Layout {
    fn of(spec: &CheckedSpec, metric: &Metric) -> Self {
        let policy = spec.policy();
        let uses = policy.algorithm.is_linear() || policy.online.is_some();
        let terms: &[Term] = if uses { &metric.terms } else { &[] };
        let run = |term: &Term| match (policy.covariance, term) {
            (Covariance::Diagonal, _) => 2,
            (Covariance::Block, Term::Alone(_, encoding)) if encoding.is_text() => 2,
            (_, Term::Alone(_, encoding)) if is_dense(encoding) => 0,
            _ => 1,
        };
        let mut layout = Self { blocks: Vec::new(), dense: 0, full: 0, slots: 0 };
        let diagonal = policy.covariance == Covariance::Diagonal;
        layout.push("".to_owned(), None, 1);
        for wanted in 0..3 {
            if wanted == 1 {
                layout.dense = if diagonal { 0 } else { layout.slots };
            }
            if wanted == 2 {
                layout.full = if diagonal { 0 } else { layout.slots };
            }
            for term in terms.iter().filter(|t| run(t) == wanted) {
                let (key, len) = describe(spec, term);
                layout.push(key, Some(term.clone()), len);
            }
        }
        layout
    }

    fn push(&mut self, key: String, term: Option<Term>, len: usize) {
        self.blocks.push(Block { key, term, start: self.slots, len });
        self.slots += len;
    }

    /// The name of a slot, for explanations.
    #[must_use]
    pub fn name(&self, spec: &CheckedSpec, slot: usize) -> String {
        let Some(block) = self.blocks.iter().rev().find(|b| b.start <= slot) else {
            return slot.to_string();
        };
        let within = slot - block.start;
        match &block.term {
            None => "intercept".to_owned(),
            Some(Term::Alone(i, encoding)) => {
                slot_name(&spec.features()[*i].name, encoding, within)
            }
            Some(Term::Cross(a, b)) => {
                let (a, b) = (&spec.features()[*a], &spec.features()[*b]);
                let width = b.encoding.slots();
                let left = slot_name(&a.name, &a.encoding, within / width);
                let right = slot_name(&b.name, &b.encoding, within % width);
                format!("{left} * {right}")
            }
        }
    }
}

fn describe(spec: &CheckedSpec, term: &Term) -> (String, usize) {
    let alone = |i: usize, e: &Encoding| {
        let feature = &spec.features()[i];
        let whose = if feature.of == FeatureOf::Action { ":" } else { "" };
        format!("{whose}{}|{e:?}", feature.name)
    };
    match term {
        Term::Alone(i, encoding) => (alone(*i, encoding), encoding.slots()),
        Term::Cross(a, b) => {
            let (x, y) = (&spec.features()[*a].encoding, &spec.features()[*b].encoding);
            (format!("{}*{}", alone(*a, x), alone(*b, y)), x.slots() * y.slots())
        }
    }
}

fn slot_name(feature: &str, encoding: &Encoding, within: usize) -> String {
    match encoding {
        Encoding::Vocabulary(words) => match words.get(within) {
            Some(word) => format!("{feature}={word}"),
            None => format!("{feature}=other"),
        },
        Encoding::Bucketed(edges) => {
            let edge = |i: usize| edges.get(i).map_or("∞".to_owned(), f64::to_string);
            let low = within.checked_sub(1).map_or("−∞".to_owned(), edge);
            format!("{feature} in [{low}, {})", edge(within))
        }
        Encoding::Cyclic(_) => format!("{}({feature})", if within == 0 { "sin" } else { "cos" }),
        Encoding::Hashed(_) | Encoding::Text { .. } | Encoding::Keyed(_) => {
            format!("{feature}#{within}")
        }
        Encoding::Vector(_) => format!("{feature}[{within}]"),
        Encoding::Raw | Encoding::Log | Encoding::Bounded(_) | Encoding::Boolean => {
            feature.to_owned()
        }
    }
}
