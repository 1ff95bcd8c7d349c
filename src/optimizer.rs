//! Where the training objects on candle were in version 0.1.0.

pub use crate::candle::{Accumulated, AccumulatedConfig, FusedOptimizer, ModelGradients};
pub use crate::training::{LossScale, Options, Outcome, Row, Summary};
