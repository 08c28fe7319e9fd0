//! Slot tables: what a scheduler chooses from, built from weights and identities.
//!
//! [`ring`] interleaves the turns of rr and wrr; [`maglev`] builds the table that sh, mh and the
//! stateless fallback hash into. The same input gives the same table on every director.
//!
//! Must not know: maps, health reasons, regions.

pub mod maglev;
pub mod ring;
