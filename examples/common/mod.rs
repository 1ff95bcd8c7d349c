//! What the training examples share: statistics over seeds, and a chart.

pub(crate) mod plot;
pub(crate) mod stats;
