//! The effective priority of an instance, from its base and the objects that it tracks.
//!
//! keepalived's arithmetic. An object with a weight moves the priority: a positive weight is added
//! while the object is well, a negative one while it is not, and the sum is kept within 1 to 254,
//! so that a weight never makes a fault nor an address owner. An object without a weight is a
//! condition: not well is a fault. The address owner (255) has no arithmetic, but its conditions
//! count.
//!
//! Must not know: scripts, interfaces, services, how a status is found.

/// The priority of the router that has the virtual addresses as its own.
pub const OWNER: u8 = 255;

/// Something that an instance tracks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// What it is, for people: `script chk_disk`.
    pub name: String,
    /// -253 to 253; 0 makes it a condition.
    pub weight: i16,
    /// Turns the direction: the weight is taken away instead of added and the other way round,
    /// and the condition is that the object is not well.
    pub reverse: bool,
    /// Whether it is well; `None` before the first result.
    pub well: Option<bool>,
}

/// Whether an instance may take part in the election.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    #[default]
    Fit,
    /// A condition has no result yet: an instance that has not begun waits.
    Pending,
    /// A condition is not met.
    Fault,
}

/// What the tracked objects amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// 1 to 254, or 255 for the address owner.
    pub priority: u8,
    /// Whether the instance may take part.
    pub standing: Standing,
    /// What differs from the base, in the order of the objects.
    pub reasons: Vec<Reason>,
}

/// What one tracked object does to its instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The object's name.
    pub name: String,
    /// Its part.
    pub part: Part,
}

/// A tracked object's part in the effective priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// This is added to the base.
    Adds(i16),
    /// It keeps the instance in fault.
    Fault,
    /// It has no result yet, and the instance waits for it.
    Pending,
}

/// Adds up the parts of all tracked objects.
#[must_use]
pub fn effective<'a>(base: u8, tracked: impl IntoIterator<Item = &'a Tracked>) -> Effective {
    let mut total = i32::from(base);
    let mut standing = Standing::Fit;
    let mut reasons = Vec::new();
    for object in tracked {
        let Some(part) = part(object) else { continue };
        match part {
            Part::Adds(_) if base == OWNER => continue,
            Part::Adds(weight) => total += i32::from(weight),
            Part::Fault => standing = Standing::Fault,
            Part::Pending if standing == Standing::Fit => standing = Standing::Pending,
            Part::Pending => {}
        }
        reasons.push(Reason { name: object.name.clone(), part });
    }
    let within = u8::try_from(total.clamp(1, 254)).unwrap_or(1);
    Effective { priority: if base == OWNER { OWNER } else { within }, standing, reasons }
}

fn part(object: &Tracked) -> Option<Part> {
    let signed = if object.reverse { object.weight.saturating_neg() } else { object.weight };
    match (object.weight, object.well) {
        (0, None) => Some(Part::Pending),
        (0, Some(well)) => (well == object.reverse).then_some(Part::Fault),
        (weight, Some(true)) if weight > 0 => Some(Part::Adds(signed)),
        (weight, Some(false)) if weight < 0 => Some(Part::Adds(signed)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(weight: i16, well: Option<bool>) -> Tracked {
        Tracked { name: format!("script {weight}"), weight, reverse: false, well }
    }

    #[track_caller]
    fn check(base: u8, objects: &[(i16, Option<bool>)], priority: u8, standing: Standing) {
        let objects: Vec<_> = objects.iter().map(|(weight, well)| object(*weight, *well)).collect();
        let effective = effective(base, &objects);
        assert_eq!((effective.priority, effective.standing), (priority, standing), "{objects:?}");
    }

    const UP: Option<bool> = Some(true);
    const DOWN: Option<bool> = Some(false);

    #[test]
    fn positive_weights_count_while_well_and_negative_ones_while_not() {
        check(100, &[(20, UP)], 120, Standing::Fit);
        check(100, &[(20, DOWN)], 100, Standing::Fit);
        check(105, &[(-2, UP)], 105, Standing::Fit);
        check(105, &[(-2, DOWN)], 103, Standing::Fit);
        check(100, &[(50, UP), (50, UP)], 200, Standing::Fit);
        check(100, &[(50, UP), (-30, DOWN), (-1, UP), (7, DOWN)], 120, Standing::Fit);
    }

    #[test]
    fn the_sum_stays_within_1_and_254_and_a_weight_is_never_a_fault() {
        check(100, &[(-253, DOWN)], 1, Standing::Fit);
        check(200, &[(253, UP)], 254, Standing::Fit);
        // The sum is clamped, not each step: 200 + 253 - 253 is 200.
        check(200, &[(253, UP), (-253, DOWN)], 200, Standing::Fit);
        let many = [(-253, DOWN); 200];
        check(1, &many, 1, Standing::Fit);
    }

    #[test]
    fn a_condition_that_is_not_met_is_a_fault() {
        check(100, &[(0, UP)], 100, Standing::Fit);
        check(100, &[(0, DOWN), (20, UP)], 120, Standing::Fault);
        check(100, &[(0, DOWN), (0, None)], 100, Standing::Fault);
    }

    #[test]
    fn without_a_result_a_weight_is_nothing_and_a_condition_is_awaited() {
        check(100, &[(20, None), (-20, None)], 100, Standing::Fit);
        check(100, &[(0, None)], 100, Standing::Pending);
        check(100, &[(0, None), (0, DOWN)], 100, Standing::Fault);
    }

    #[test]
    fn the_owner_has_no_arithmetic_but_has_conditions() {
        check(255, &[(-20, DOWN), (20, UP)], 255, Standing::Fit);
        check(255, &[(0, DOWN)], 255, Standing::Fault);
    }

    #[test]
    fn reverse_turns_the_direction() {
        let reversed = |weight, well| Tracked { reverse: true, ..object(weight, well) };
        let priority = |tracked: Tracked| effective(100, [&tracked]).priority;
        assert_eq!(priority(reversed(20, UP)), 80);
        assert_eq!(priority(reversed(20, DOWN)), 100);
        assert_eq!(priority(reversed(-20, DOWN)), 120);
        assert_eq!(priority(reversed(-20, UP)), 100);
        assert_eq!(effective(100, [&reversed(0, UP)]).standing, Standing::Fault);
        assert_eq!(effective(100, [&reversed(0, DOWN)]).standing, Standing::Fit);
    }

    #[test]
    fn the_reasons_say_what_differs_from_the_base() {
        let objects = [object(20, UP), object(-5, UP), object(-7, DOWN), object(0, DOWN)];
        let parts: Vec<_> =
            effective(100, &objects).reasons.into_iter().map(|r| (r.name, r.part)).collect();
        assert_eq!(
            parts,
            [
                ("script 20".to_owned(), Part::Adds(20)),
                ("script -7".to_owned(), Part::Adds(-7)),
                ("script 0".to_owned(), Part::Fault),
            ]
        );
        // What an owner's weights would do is no reason for anything.
        assert_eq!(effective(255, &objects[..3]).reasons, []);
    }
}
