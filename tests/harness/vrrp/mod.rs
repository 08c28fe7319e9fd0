//! VRRP in the lab: routers of two makes, what they send, and what nobody should send.
//!
//! [`instance`] describes what a router is told, in the words of either make; [`router`] runs one
//! on a node of a [`crate::pair::Pair`]; [`capture`] writes down what each node sends, decoded by
//! [`packet`], a decoder of its own; [`forge`] sends adverts with any field wrong.
//!
//! Must not know: the product's internals, its codec least of all.

pub mod capture;
pub mod forge;
pub mod instance;
pub mod keepalived;
pub mod packet;
pub mod router;
