//! What each node sends, written down as it leaves it.
//!
//! The capture listens at the bridge ports of the nodes, before the bridge decides: so it knows who
//! has sent a frame whatever its addresses say, and hears a node that is cut off. Times are the
//! kernel's receive times. A capture that has lost a frame says so instead of answering.
//!
//! Must not know: what should be sent.

use crate::frame::{announcement_socket, lost_frames};
use crate::pair::{Node, Pair};
use crate::vrrp::packet::{Advert, Said};
use crate::wait::eventually;
use anyhow::{Context, Result, anyhow, ensure};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt, sockopt::RcvBufForce,
    sockopt::ReceiveTimestampns,
};
use nix::sys::time::TimeSpec;
use std::io::IoSliceMut;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// A time of the wall clock, since 1970.
pub type Moment = Duration;

/// The present.
pub fn now() -> Moment {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Something that a node said.
#[derive(Clone, Debug)]
pub struct Heard<T> {
    /// When.
    pub at: Moment,
    /// What.
    pub what: T,
}

/// A capture that is running; it ends when dropped.
pub struct Capture {
    record: Arc<Record>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Record {
    ends: AtomicBool,
    heard: Mutex<Vec<(&'static str, Heard<Said>)>>,
    failure: Mutex<Option<String>>,
}

impl Capture {
    /// Listens to both nodes from now on.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub fn start(pair: &Pair) -> Result<Self> {
        let open = || -> Result<Vec<(&'static str, OwnedFd)>> {
            pair.nodes().into_iter().map(|node| Ok((node.name, open(node.port)?))).collect()
        };
        let sockets = pair.fabric.enter(open)?;
        let record = Arc::new(Record::default());
        let theirs = Arc::clone(&record);
        let thread = std::thread::spawn(move || {
            if let Err(error) = listen(&sockets, &theirs) {
                *lock(&theirs.failure) = Some(format!("{error:#}"));
            }
        });
        Ok(Self { record, thread: Some(thread) })
    }

    /// Everything that `node` has said so far.
    ///
    /// # Errors
    /// When the capture has failed or has lost a frame.
    pub fn of(&self, node: &Node) -> Result<Vec<Heard<Said>>> {
        if let Some(failure) = &*lock(&self.record.failure) {
            return Err(anyhow!("the capture has failed: {failure}"));
        }
        let heard = lock(&self.record.heard);
        let own = heard.iter().filter(|(name, _)| *name == node.name);
        Ok(own.map(|(_, heard)| heard.clone()).collect())
    }

    /// The adverts of `node` since `since`.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn adverts(&self, node: &Node, since: Moment) -> Result<Vec<Heard<Advert>>> {
        let all = self.of(node)?.into_iter().filter(|heard| heard.at >= since);
        Ok(all
            .filter_map(|heard| match heard.what {
                Said::Advert(advert) => Some(Heard { at: heard.at, what: advert }),
                _ => None,
            })
            .collect())
    }

    /// When `node` has announced `address` to its neighbours since `since`: gratuitous ARP, or
    /// unsolicited neighbour advertisements.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn announcements(
        &self,
        node: &Node,
        address: &str,
        since: Moment,
    ) -> Result<Vec<Heard<Said>>> {
        let address: IpAddr = address.parse()?;
        let mut all = self.of(node)?;
        all.retain(|heard| {
            heard.at >= since
                && match &heard.what {
                    Said::Arp(arp) => arp.is_gratuitous() && IpAddr::V4(arp.sender) == address,
                    Said::Neighbour(said) => !said.flags[1] && IpAddr::V6(said.target) == address,
                    Said::Advert(_) => false,
                }
        });
        Ok(all)
    }

    /// Waits for an advert of `node` since `since` that `wanted` accepts.
    ///
    /// # Errors
    /// At the deadline, and as [`Self::of`].
    pub fn wait_advert(
        &self,
        node: &Node,
        since: Moment,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Advert) -> bool,
    ) -> Result<Heard<Advert>> {
        eventually(limit, &format!("an advert of {}: {what}", node.name), || {
            let adverts = self.adverts(node, since)?;
            Ok(adverts.into_iter().find(|heard| wanted(&heard.what)))
        })
    }

    /// The longest silence of `node` between `since` and `until`, both ends included.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn longest_silence(&self, node: &Node, since: Moment, until: Moment) -> Result<Duration> {
        let mut times = vec![since];
        let adverts = self.adverts(node, since)?;
        times.extend(adverts.iter().map(|heard| heard.at).filter(|at| *at <= until));
        times.push(until);
        Ok(times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or_default())
    }

    /// Fails if `node` has sent an advert since `since`.
    ///
    /// # Errors
    /// With the first one.
    pub fn silent(&self, node: &Node, since: Moment) -> Result<()> {
        let adverts = self.adverts(node, since)?;
        ensure!(
            adverts.is_empty(),
            "{} has sent {} adverts, first {:?}",
            node.name,
            adverts.len(),
            adverts[0]
        );
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.record.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open(port: &str) -> Result<OwnedFd> {
    let socket = announcement_socket(port)?;
    setsockopt(&socket, ReceiveTimestampns, &true).context("ask for receive times")?;
    setsockopt(&socket, RcvBufForce, &BUFFER).context("widen the packet socket")?;
    Ok(socket)
}

fn listen(sockets: &[(&'static str, OwnedFd)], record: &Record) -> Result<()> {
    while !record.ends.load(Ordering::Relaxed) {
        let mut polled: Vec<PollFd> =
            sockets.iter().map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut polled, PollTimeout::from(20_u8))?;
        for (name, socket) in sockets {
            while let Some((at, frame)) = receive(socket)? {
                if let Some(said) = Said::read(&frame) {
                    lock(&record.heard).push((*name, Heard { at, what: said }));
                }
            }
            let lost = lost_frames(socket)?;
            ensure!(lost == 0, "{lost} frames of {name} were lost");
        }
    }
    Ok(())
}

/// The next frame that came from the node; `None` when there is none now.
fn receive(socket: &OwnedFd) -> Result<Option<(Moment, Vec<u8>)>> {
    let mut bytes = [0; 2048];
    let mut control = cmsg_space!(TimeSpec);
    loop {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let received =
            recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags);
        let message = match received {
            // A port that goes down says so once; it may come up again.
            Err(Errno::EAGAIN | Errno::ENETDOWN) => return Ok(None),
            other => other.context("receive a frame")?,
        };
        let sent_here = message.address.is_some_and(|address| {
            u32::from(address.pkttype()) == u32::from(libc::PACKET_OUTGOING)
        });
        let time = message.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
            _ => None,
        });
        let length = message.bytes;
        if !sent_here {
            let at = time.context("a frame without a receive time")?;
            return Ok(Some((at, bytes[..length].to_vec())));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const BUFFER: usize = 4 << 20;
