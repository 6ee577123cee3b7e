//! The rows of a record of examples, as one learner reads them.

use pawl_domain::{CheckedSpec, Examples, Value, examples::RowReader};
use pawl_learn::{Example, Learner};
use pawl_model::{
    Encoded, Layout,
    context::{Context, fitted},
    encode::Direct,
};

/// What became of the rows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    /// Learned from.
    pub learned: u64,
    /// With a label that the spec does not have.
    pub unread: u64,
}

/// Why a record cannot be read on.
const UNREADABLE: &str = "a stored example cannot be read";

/// Reads on, row by row.
pub(super) struct Feed<'a> {
    spec: &'a CheckedSpec,
    layout: &'a Layout,
    received_ms: u64,
    /// Rows that are new; all if it is empty.
    fresh: &'a [bool],
    /// By column, the feature of the spec.
    places: Vec<Option<usize>>,
    plan: Option<Direct>,
    reader: RowReader<'a>,
    values: Vec<Value<'a>>,
    context: Context<'a>,
    row: usize,
    /// Rows not read yet.
    pub left: usize,
    pub taken: Taken,
}

impl<'a> Feed<'a> {
    pub(super) fn new(
        spec: &'a CheckedSpec,
        layout: &'a Layout,
        examples: &'a Examples,
        fresh: &'a [bool],
    ) -> Self {
        let place = |name: &String| spec.features().iter().position(|f| f.name == *name);
        let places: Vec<Option<usize>> = examples.features.iter().map(place).collect();
        Self {
            spec,
            layout,
            received_ms: examples.received_ms,
            fresh,
            plan: Direct::of(spec, layout, &places),
            reader: examples.rows.reader(),
            values: vec![Value::Missing; places.len()],
            context: Context::of(vec![Value::Missing; spec.features().len()]),
            places,
            row: 0,
            left: examples.rows.len(),
            taken: Taken::default(),
        }
    }

    /// Reads the next row: its slots into `x`. `None` if it teaches nothing.
    pub(super) fn next(
        &mut self,
        learner: &mut Learner,
        x: &mut Encoded,
    ) -> Result<Option<Example>, &'static str> {
        let head = self.reader.head().ok_or(UNREADABLE)?;
        if let Some(plan) = &self.plan {
            let read = x.fill_direct(self.spec, plan, &mut self.reader);
            read.then_some(()).ok_or(UNREADABLE)?;
        } else {
            for value in &mut self.values {
                *value = self.reader.value().ok_or(UNREADABLE)?;
            }
            for (value, place) in self.values.iter_mut().zip(&self.places) {
                if let Some(i) = *place {
                    let value = core::mem::take(value);
                    self.context.values[i] = fitted(&self.spec.features()[i], value);
                }
            }
            x.fill(self.spec, self.layout, &self.context, 0);
        }
        self.row += 1;
        self.left -= 1;
        if self.fresh.get(self.row - 1) == Some(&false) {
            return Ok(None);
        }
        let Some(value) = self.spec.label(head.label) else {
            self.taken.unread += 1;
            return Ok(None);
        };
        // A time to come would age everything else.
        let at_ms = head.at_ms.map_or(self.received_ms, |at| at.min(self.received_ms));
        learner.decided(at_ms);
        self.taken.learned += 1;
        let clock = learner.decisions();
        Ok(Some(Example { metric: 0, action: 0, value, weight: head.weight, clock, at_ms }))
    }
}
