//! The weights of a gradient learner as they are served: single precision, in chunks that snapshots share.

use std::sync::Arc;

/// Weights of one chunk.
pub const CHUNK: usize = 256;

/// Weights by slot and output: those of one slot stand together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    chunks: Vec<Arc<[f32; CHUNK]>>,
}

impl Weights {
    /// `len` zeros.
    #[must_use]
    pub fn zeros(len: usize) -> Self {
        let chunks = len.div_ceil(CHUNK);
        Self { chunks: (0..chunks).map(|_| Arc::new([0.0; CHUNK])).collect() }
    }

    /// Replaces one chunk; snapshots that were taken keep the old one.
    pub fn set_chunk(&mut self, chunk: usize, weights: [f32; CHUNK]) {
        self.chunks[chunk] = Arc::new(weights);
    }

    /// One weight.
    #[must_use]
    pub fn get(&self, at: usize) -> f64 {
        f64::from(self.chunks[at / CHUNK][at % CHUNK])
    }

    /// w·x for output `output` of `outputs`.
    #[must_use]
    pub fn score(&self, x: &[(u32, f64)], output: usize, outputs: usize) -> f64 {
        x.iter().map(|&(slot, v)| self.get(slot as usize * outputs + output) * v).sum()
    }
}
