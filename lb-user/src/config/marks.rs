//! Positions of many nodes in one reading, for text without aliases.
//!
//! serde_yaml reads an enum without taking the value when it fails, and its error tells where the
//! value is; so each wanted node is probed as an enum and then read. An alias would be taken by
//! the probe, so text that may hold one has to use `yaml::position`, one reading for each node.
//!
//! Must not know: what the nodes are wanted for.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Line and column, from 1, of the nodes numbered `wanted` (as `yaml::Node::id`). Nodes that this
/// way cannot find are left out.
pub(super) fn positions(text: &str, wanted: &HashSet<u32>) -> HashMap<u32, (usize, usize)> {
    let walk = Walk { wanted, next: Cell::new(0), found: RefCell::default() };
    if !text.contains('*') {
        // A failure leaves nodes out; nothing else is lost.
        let _ = Seed(&walk).deserialize(serde_yaml::Deserializer::from_str(text));
    }
    walk.found.into_inner()
}

struct Walk<'w> {
    wanted: &'w HashSet<u32>,
    next: Cell<u32>,
    found: RefCell<HashMap<u32, (usize, usize)>>,
}

impl Walk<'_> {
    fn wants_next(&self) -> bool {
        self.wanted.contains(&self.next.get())
    }

    /// Takes the place out of a probe's error, whose type does not give it.
    fn note(&self, error: &impl fmt::Display) {
        let text = error.to_string();
        let place = match text.rsplit_once(" at line ") {
            Some((_, place)) => place.split_once(" column "),
            // The very first character's place is not written.
            None => Some(("1", "1")),
        };
        if let Some((Ok(line), Ok(column))) = place.map(|(l, c)| (l.parse(), c.parse())) {
            self.found.borrow_mut().insert(self.next.get(), (line, column));
        }
    }

    fn step(&self) {
        self.next.set(self.next.get() + 1);
    }
}

/// Fails without taking the value.
struct Probe;

impl<'de> DeserializeSeed<'de> for Probe {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_enum("", &[], self)
    }
}

impl Visitor<'_> for Probe {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing")
    }
}

/// Reads a value for the numbers of its nodes.
struct Seed<'w>(&'w Walk<'w>);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        self.0.step();
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i128<E>(self, _: i128) -> Result<(), E> {
        Ok(())
    }

    fn visit_u128<E>(self, _: u128) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        loop {
            if self.0.wants_next()
                && let Err(error) = seq.next_element_seed(Probe)
            {
                self.0.note(&error);
            }
            if seq.next_element_seed(Seed(self.0))?.is_none() {
                return Ok(());
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        loop {
            if self.0.wants_next()
                && let Err(error) = map.next_key_seed(Probe)
            {
                self.0.note(&error);
            }
            if map.next_key::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
            self.0.step();
            if self.0.wants_next()
                && let Err(error) = map.next_value_seed(Probe)
            {
                self.0.note(&error);
            }
            map.next_value_seed(Seed(self.0))?;
        }
    }
}
