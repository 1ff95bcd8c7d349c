//! The run-time choice of a backend.
