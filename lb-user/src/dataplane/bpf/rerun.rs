//! Frames that the programs handed to user space: reading them, and running them again.
//!
//! [`Detours`] is the ring and the table of decisions; [`Rerun`] runs a frame through the stage that
//! reads everything, as a test run, and sends what comes out by a packet socket. A live run would
//! send by itself, but takes milliseconds; it is used for what goes to the stack.
//!
//! Must not know: why a frame was held, how long.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use aya::maps::{HashMap, Map, MapData, RingBuf};
use lb_common::abi;
use lb_common::detour::{DetourHead, FRAME_ROOM, RerunNote};
use lb_common::fragment::{FragmentEntry, FragmentKey, WAITING};
use lb_common::pod;

use super::Dataplane;
use super::sys::{FrameSocket, test_run_frame, test_run_live};

/// The ring of held frames, and what was decided about packets.
pub struct Detours {
    ring: RingBuf<MapData>,
    fragments: HashMap<MapData, FragmentKey, FragmentEntry>,
}

/// What became of a frame that was run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was sent.
    Sent,
    /// The program dropped it and counted why.
    Dropped,
    /// It is for the stack; it has not been given to it yet.
    Pass,
    /// It is to be split for this MTU; nothing was counted.
    TooBig(u32),
}

/// Runs frames again.
pub struct Rerun {
    program: OwnedFd,
    socket: FrameSocket,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Detours {
    /// The ring of this data plane. Only one reader may take from it.
    ///
    /// # Errors
    /// When its maps cannot be opened.
    pub fn open(dataplane: &Dataplane) -> anyhow::Result<Self> {
        let open = |name: &str| {
            MapData::from_pin(dataplane.directory().join(name))
                .with_context(|| format!("open the map {name}"))
        };
        Ok(Self {
            ring: RingBuf::try_from(Map::RingBuf(open(abi::MAP_DETOURS)?))?,
            fragments: HashMap::try_from(Map::LruHashMap(open(abi::MAP_FRAGMENTS)?))?,
        })
    }

    /// The next record, if there is one: its head, and the frame if it has one.
    pub fn take(&mut self) -> Option<(DetourHead, Vec<u8>)> {
        let record = self.ring.next()?;
        let head: DetourHead = pod::from_bytes(&record)?;
        let frame = record.get(size_of::<DetourHead>()..).unwrap_or_default();
        let length = frame.len().min(head.length as usize);
        Some((head, frame[..length].to_vec()))
    }

    /// Whether a packet's first fragment was seen.
    pub fn is_decided(&self, key: &FragmentKey) -> bool {
        self.fragments.get(key, 0).is_ok_and(|entry| entry.decision != WAITING)
    }
}

impl AsFd for Detours {
    /// Readable when there is a record.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Rerun {
    /// A runner of its own.
    ///
    /// # Errors
    /// When the program is missing, or packet sockets are not allowed.
    pub fn new(dataplane: &Dataplane) -> anyhow::Result<Self> {
        let socket = FrameSocket::open()
            .context("open a packet socket: run as root, or with CAP_NET_RAW")?;
        Ok(Self {
            program: dataplane.program(abi::PROGRAM_UNUSUAL)?,
            socket,
            input: Vec::new(),
            output: vec![0; OUTPUT_ROOM],
        })
    }

    /// Runs a frame that came in by `ingress`, and sends what comes out. With `is_piece` the frame
    /// came from splitting, so that [`Verdict::TooBig`] is no answer.
    ///
    /// # Errors
    /// The kernel's: the interface is gone, or the frame does not fit it.
    pub fn run(&mut self, frame: &[u8], ingress: u32, is_piece: bool) -> io::Result<Verdict> {
        self.prepare(frame, is_piece);
        let ran = test_run_frame(
            self.program.as_fd(),
            &self.input,
            NOTE as u32,
            ingress,
            &mut self.output,
        )?;
        let out = self.output.get(..ran.length).unwrap_or_default();
        let (Some(note), Some(frame)) = (pod::from_bytes::<RerunNote>(out), out.get(NOTE..)) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        match ran.verdict {
            XDP_TX | XDP_REDIRECT => {
                self.socket.send(frame, note.egress)?;
                Ok(Verdict::Sent)
            }
            XDP_PASS => Ok(Verdict::Pass),
            _ if !is_piece && note.mtu != 0 => Ok(Verdict::TooBig(note.mtu)),
            _ => Ok(Verdict::Dropped),
        }
    }

    /// Gives a frame that is for the stack to it.
    ///
    /// # Errors
    /// The kernel's: EINVAL for a frame beyond a page.
    pub fn pass(&mut self, frame: &[u8], ingress: u32) -> io::Result<()> {
        self.prepare(frame, true);
        test_run_live(self.program.as_fd(), &self.input, NOTE as u32, ingress)
    }

    fn prepare(&mut self, frame: &[u8], is_piece: bool) {
        let note = RerunNote { egress: 0, mtu: u32::from(is_piece) };
        self.input.clear();
        self.input.extend_from_slice(pod::bytes_of(&note));
        self.input.extend_from_slice(frame);
    }
}

/// Bytes of metadata.
const NOTE: usize = size_of::<RerunNote>();
/// A frame may grow by VLAN tags, or by the headers of a tunnel.
const OUTPUT_ROOM: usize = FRAME_ROOM as usize + 256;

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;
