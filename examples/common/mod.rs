//! What the training examples share: statistics over seeds, and a chart.

pub mod plot;
pub mod stats;
