//! Deterministic mathematics: the same bits on every machine.
//!
//! Only `+ − × ÷ √` and the `libm` crate are used, in a fixed order, so that a fold over
//! the same log gives the same weights on any CPU. Nothing here reads a clock or a global
//! random state.

pub mod argmax;
pub mod cpu;
pub mod dense;
pub mod drift;
pub mod logistic;
pub mod normal;
pub mod rates;
pub mod rng;
pub mod special;
