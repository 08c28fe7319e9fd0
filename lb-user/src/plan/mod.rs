//! What to change in the maps.
//!
//! Must not know: aya.

mod op;
pub mod sweep;

pub use op::MapOp;
