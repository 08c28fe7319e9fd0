//! The arithmetic of VRRP's timers: intervals, skew, and how long a master may be silent.
//!
//! Exact to the nanosecond: at an interval of 10 ms, rounding to the centiseconds of the wire
//! would make every skew zero, and backups would claim together.
//!
//! Must not know: states, packets, moments.

use std::time::Duration;

/// The version of the protocol that an instance speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// RFC 3768: IPv4 only, whole seconds.
    V2,
    /// RFC 9568: both families, centiseconds.
    V3,
}

/// An advertisement interval that the wire can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval {
    /// In centiseconds, never 0.
    centiseconds: u16,
}

/// The longest interval of version 3: 12 bits of centiseconds.
pub const LONGEST_V3: Duration = Duration::from_millis(40_950);

/// The longest interval of version 2: 8 bits of seconds.
pub const LONGEST_V2: Duration = Duration::from_secs(255);

impl Interval {
    /// The interval, if `version` can say it: 10 ms to 40.95 s in steps of 10 ms for version 3,
    /// 1 s to 255 s in whole seconds for version 2.
    #[must_use]
    pub fn new(version: Version, interval: Duration) -> Option<Self> {
        let (step, longest) = match version {
            Version::V2 => (Duration::from_secs(1), LONGEST_V2),
            Version::V3 => (Duration::from_millis(10), LONGEST_V3),
        };
        let whole = interval.as_nanos().is_multiple_of(step.as_nanos());
        if !whole || interval.is_zero() || interval > longest {
            return None;
        }
        u16::try_from(interval.as_millis() / 10).ok().map(|centiseconds| Self { centiseconds })
    }

    /// The interval of a field in centiseconds (version 3); `None` for 0, which says nothing.
    #[must_use]
    pub fn from_centiseconds(centiseconds: u16) -> Option<Self> {
        (centiseconds != 0).then_some(Self { centiseconds })
    }

    /// The interval of a field in seconds (version 2); `None` for 0.
    #[must_use]
    pub fn from_seconds(seconds: u8) -> Option<Self> {
        (seconds != 0).then_some(Self { centiseconds: u16::from(seconds) * 100 })
    }

    /// Its length in centiseconds.
    #[must_use]
    pub fn centiseconds(self) -> u16 {
        self.centiseconds
    }

    /// Its length.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_millis(u64::from(self.centiseconds) * 10)
    }
}

/// How much longer than its neighbour of the highest priority a backup waits: RFC 9568 section
/// 6.1 takes the part of the master's interval, RFC 3768 section 6.1 that of a second.
#[must_use]
pub fn skew(version: Version, priority: u8, interval: Interval) -> Duration {
    let whole = match version {
        Version::V2 => Duration::from_secs(1),
        Version::V3 => interval.duration(),
    };
    whole * (256 - u32::from(priority)) / 256
}

/// How long a master may be silent before a backup of `priority` takes over; `interval` is the
/// master's.
#[must_use]
pub fn master_down(version: Version, priority: u8, interval: Interval) -> Duration {
    SILENT_INTERVALS * interval.duration() + skew(version, priority, interval)
}

/// Intervals without an advert after which a master counts as gone, without the skew.
const SILENT_INTERVALS: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_says_whole_seconds_in_version_2_and_centiseconds_in_version_3() {
        let says = |version, millis| Interval::new(version, Duration::from_millis(millis));
        assert_eq!(says(Version::V2, 1000).map(Interval::centiseconds), Some(100));
        assert_eq!(says(Version::V2, 255_000).map(Interval::centiseconds), Some(25_500));
        assert_eq!(says(Version::V3, 10).map(Interval::centiseconds), Some(1));
        assert_eq!(says(Version::V3, 40_950).map(Interval::centiseconds), Some(4095));
        for (version, millis) in
            [(2, 0), (2, 100), (2, 1500), (2, 256_000), (3, 0), (3, 5), (3, 15), (3, 40_960)]
        {
            let version = if version == 2 { Version::V2 } else { Version::V3 };
            assert_eq!(says(version, millis), None, "{version:?} {millis} ms");
        }
    }

    #[track_caller]
    fn check(version: Version, priority: u8, centiseconds: u16, skew_us: u64, down_us: u64) {
        let interval = Interval::from_centiseconds(centiseconds).expect("not 0");
        let (skew, down) =
            (skew(version, priority, interval), master_down(version, priority, interval));
        assert_eq!((skew.as_micros() as u64, down.as_micros() as u64), (skew_us, down_us));
    }

    /// Figures of the RFCs' formulas, and of keepalived measured beside them.
    #[test]
    fn skew_and_master_down_follow_the_formulas() {
        check(Version::V2, 100, 100, 609_375, 3_609_375);
        check(Version::V3, 100, 100, 609_375, 3_609_375);
        check(Version::V3, 254, 100, 7_812, 3_007_812);
        check(Version::V3, 100, 10, 60_937, 360_937);
        check(Version::V3, 100, 1, 6_093, 36_093);
        check(Version::V3, 254, 1, 78, 30_078);
        check(Version::V3, 255, 1, 39, 30_039);
        check(Version::V3, 1, 4095, 40_790_039, 163_640_039);
        // Version 2's skew is a part of a second whatever the interval.
        check(Version::V2, 100, 500, 609_375, 15_609_375);
        check(Version::V3, 100, 500, 3_046_875, 18_046_875);
    }
}
