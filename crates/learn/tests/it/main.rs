//! Learners against laws that must hold and values from elsewhere.

mod environment;
mod laws;
mod reference;
