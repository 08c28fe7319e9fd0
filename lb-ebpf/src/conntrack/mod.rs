//! The connection table: finding, following, making and closing entries.
//!
//! Whoever wins a compare-exchange on an entry's word moves the real server's counts; nothing else
//! changes counts, so they are exact whatever runs at the same time. How entries are stored is
//! known to [`table`] only.
//!
//! Must not know: schedulers, forwarding.

mod close;
mod create;
mod follow;
mod table;

use lb_common::conn::{ConnEntry, Word};
use lb_common::service::RealServer;

use close::close_reply;
pub use close::{close, expire};
pub use create::{New, TUPLE_IN_USE, create};
pub use follow::{Followed, follow};
pub use table::{BUSY, FULL, MADE, Table};

use crate::{atomic, maps};

/// Whether a connection of this server is past its deadline.
#[inline(always)]
pub fn is_expired(server: &RealServer, word: Word, seen: u64, now: u64) -> bool {
    match maps::TIMEOUTS.get(server.timeouts) {
        Some(timeouts) => timeouts.is_expired(word, seen, now),
        None => false,
    }
}

/// Adds `by` to a server's active or inactive connections.
#[inline(always)]
fn count(index: u32, active: bool, by: u64) {
    if let Some(counts) = maps::CONN_COUNTS.get_ptr_mut(index) {
        // SAFETY: an array element.
        let field =
            unsafe { if active { &raw mut (*counts).active } else { &raw mut (*counts).inactive } };
        atomic::add(field, by);
    }
}

/// An entry's word, as it is now.
#[inline(always)]
pub fn word_of<K: Table>(entry: *mut ConnEntry<K>) -> Word {
    // SAFETY: a slot of the table.
    Word::from_raw(atomic::load(unsafe { &raw const (*entry).word }))
}
