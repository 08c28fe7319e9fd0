//! VRRP: who owns the virtual addresses (RFC 3768 for version 2, RFC 9568 for version 3).
//!
//! A sans-IO core. The road of an advert: [`receive::accept`] takes the bytes of a datagram with
//! what the caller knows of it and gives an [`fsm::Advert`], or the reason of the refusal;
//! [`fsm::Instance`] (or [`group::Group`], several instances that change together) takes it as
//! an event, with the time, and answers with what is to be done. [`packet::encode`] makes the
//! bytes of an advert to send, [`frame`] puts it into a frame, and [`contest`] remembers who else
//! claims an address. [`priority`] turns tracked objects into the effective priority.
//! Where the RFCs leave room, or practice differs, it does what keepalived does on the wire.
//!
//! Must not know: sockets, clocks, netlink, YAML, BPF.

pub mod contest;
mod describe;
pub mod frame;
pub mod fsm;
pub mod group;
pub mod packet;
pub mod priority;
pub mod receive;
pub mod timing;

#[cfg(test)]
mod tests;
