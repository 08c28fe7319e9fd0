//! Which rules of this host's packet filter drop VRRP.
//!
//! [`ask`] has `nft` list the rules and answers with lines for people; [`judge()`] is its core: the
//! path of a [`Packet`] through the chains of a listing. It is asked when adverts come in and do
//! not get through, so that whoever has to mend it need not search.
//!
//! Must not know: who asks, instances, the speaker.

mod compare;
mod judge;
mod listing;
mod packet;
mod ruleset;
#[cfg(test)]
mod tests;
mod text;

pub use judge::judge;
pub use listing::{ask, rules};
pub use packet::Packet;
pub use ruleset::Unreadable;
