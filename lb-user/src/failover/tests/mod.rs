//! x
//!
//! Must not know: y.
