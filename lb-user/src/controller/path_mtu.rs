//! Path MTUs that routers between here and a tunnel's far end reported (RFC 1191, RFC 8201).
//!
//! Pure: the caller tells the time. What is learnt only ever makes a path narrower, never narrower
//! than every host must take, and is forgotten after [`LIFETIME`], because routes change and reports
//! can be forged.
//!
//! Must not know: sockets, maps.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long a report holds: the kernel's `net.ipv4.route.mtu_expires`.
pub const LIFETIME: Duration = Duration::from_secs(600);
/// The least that a report can bring an IPv4 path to: the kernel's `net.ipv4.route.min_pmtu`.
const LEAST4: u32 = 552;
/// The least MTU of any IPv6 link (RFC 8200 section 5).
const LEAST6: u32 = 1280;

/// What is learnt by now.
#[derive(Clone, Debug, Default)]
pub struct PathMtus {
    /// MTU and when it is forgotten.
    known: BTreeMap<IpAddr, (u32, Instant)>,
}

impl PathMtus {
    /// Takes a report of `mtu` (0: not said) about a path that has `current` now (0: unknown). True
    /// when the path is narrower by it.
    pub fn hear(&mut self, now: Instant, ip: IpAddr, mtu: u32, current: u32) -> bool {
        let mtu = mtu.max(if ip.is_ipv4() { LEAST4 } else { LEAST6 });
        if current != 0 && mtu > current {
            return false;
        }
        let before = self.known.insert(ip, (mtu, now + LIFETIME));
        before.map(|(mtu, _)| mtu) != Some(mtu)
    }

    /// A path of `mtu` (0: unknown), as far as it is narrower by what was learnt.
    pub fn narrowed(&self, ip: IpAddr, mtu: u32) -> u32 {
        match self.known.get(&ip) {
            Some((learnt, _)) if mtu == 0 || *learnt < mtu => *learnt,
            _ => mtu,
        }
    }

    /// When the next one is forgotten.
    pub fn expires_at(&self) -> Option<Instant> {
        self.known.values().map(|(_, until)| *until).min()
    }

    /// Forgets what is over, and what `keep` does not want.
    pub fn expire(&mut self, now: Instant, keep: impl Fn(&IpAddr) -> bool) {
        self.known.retain(|ip, (_, until)| *until > now && keep(ip));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_narrow_a_path_within_bounds_until_they_expire() {
        let (start, v4, v6) =
            (Instant::now(), IpAddr::from([10, 0, 0, 1]), "fd00::1".parse().expect("an address"));
        let mut mtus = PathMtus::default();
        assert_eq!(mtus.narrowed(v4, 1500), 1500);
        assert!(mtus.hear(start, v4, 1400, 1500));
        assert_eq!((mtus.narrowed(v4, 1500), mtus.narrowed(v4, 0)), (1400, 1400));
        assert_eq!(mtus.narrowed(v4, 1300), 1300, "a smaller route is not widened");
        assert_eq!(mtus.narrowed(v6, 1500), 1500, "another path");
        // Said again, it holds longer and changes nothing.
        let later = start + LIFETIME / 2;
        assert!(!mtus.hear(later, v4, 1400, 1400));
        mtus.expire(start + LIFETIME, |_| true);
        assert_eq!(mtus.narrowed(v4, 1500), 1400);
        // More than the path has is no news.
        assert!(!mtus.hear(later, v4, 1450, 1400));
        assert_eq!(mtus.narrowed(v4, 1500), 1400);
        assert!(mtus.hear(later, v4, 0, 1400), "an old router does not say");
        assert!(mtus.hear(later, v6, 68, 1500));
        assert_eq!((mtus.narrowed(v4, 1500), mtus.narrowed(v6, 1500)), (552, 1280));
        assert_eq!(mtus.expires_at(), Some(later + LIFETIME));
        mtus.expire(later, |ip| *ip != v6);
        assert_eq!(mtus.narrowed(v6, 1500), 1500, "nobody needs it any more");
        mtus.expire(later + LIFETIME, |_| true);
        assert_eq!((mtus.narrowed(v4, 1500), mtus.expires_at()), (1500, None));
    }
}
