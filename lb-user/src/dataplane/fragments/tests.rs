//! Fragments in any order, with news that are lost and decisions that vanish: each is run again once
//! or counted once.
//!
//! Must not know: the kernel side; [`World`] stands for it.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const MILLI: Duration = Duration::from_millis(1);

fn key(packet: u32) -> FragmentKey {
    FragmentKey { identification: packet, ..FragmentKey::zeroed() }
}

fn fragment(packet: u32, number: u32, length: usize) -> Held {
    let mut frame = vec![0; length.max(8)];
    frame[..4].copy_from_slice(&packet.to_ne_bytes());
    frame[4..8].copy_from_slice(&number.to_ne_bytes());
    Held { ingress: 7, frame }
}

/// What goes through the ring.
enum Record {
    Fragment(FragmentKey, Held),
    Decided(FragmentKey),
}

/// The program's part: decisions, and what was delivered.
#[derive(Default)]
struct Kernel {
    /// True: decided; false: waiting.
    known: HashMap<FragmentKey, bool>,
    delivered: HashMap<Vec<u8>, u32>,
    undecided: u64,
    fault: Option<Fault>,
}

/// What a wrong implementation could do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// No decision is looked up.
    NeverLooks,
    /// Something is run twice.
    RunsTwice,
    /// News are not read.
    IgnoresNewsAndTime,
    /// Drops are not counted.
    HidesLosses,
}

const FAULTS: [Fault; 4] =
    [Fault::NeverLooks, Fault::RunsTwice, Fault::IgnoresNewsAndTime, Fault::HidesLosses];

impl Plane for Kernel {
    fn is_decided(&mut self, key: &FragmentKey) -> bool {
        self.fault != Some(Fault::NeverLooks) && self.known.get(key) == Some(&true)
    }

    fn rerun(&mut self, held: Held) {
        let packet = u32::from_ne_bytes(*held.frame.first_chunk().expect("four bytes"));
        if self.known.get(&key(packet)) == Some(&true) {
            let times = if self.fault == Some(Fault::RunsTwice) && packet == 1 { 2 } else { 1 };
            *self.delivered.entry(held.frame).or_default() += times;
        } else {
            self.undecided += 1;
        }
    }
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The first fragment of a packet; whether its news, if any, arrive.
    First(u32, bool),
    /// A later one.
    Later(u32, u32),
    /// User space takes this many records.
    Take(usize),
    /// So many milliseconds pass.
    Pass(u64),
    /// The table of decisions throws one out.
    Forget(u32),
}

struct World {
    kernel: Kernel,
    ring: VecDeque<Record>,
    fragments: Fragments,
    now: Instant,
    lost: Lost,
    sent: u64,
    firsts: u32,
}

impl World {
    fn new(limits: Limits, fault: Option<Fault>) -> Self {
        Self {
            kernel: Kernel { fault, ..Kernel::default() },
            ring: VecDeque::new(),
            fragments: Fragments::new(limits),
            now: Instant::now(),
            lost: Lost::default(),
            sent: 0,
            firsts: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::First(packet, told) => {
                self.firsts += 1;
                if self.kernel.known.insert(key(packet), true) == Some(false) && told {
                    self.ring.push_back(Record::Decided(key(packet)));
                }
            }
            Step::Later(packet, number) => {
                self.sent += 1;
                let held = fragment(packet, number, 60);
                if *self.kernel.known.entry(key(packet)).or_insert(false) {
                    *self.kernel.delivered.entry(held.frame).or_default() += 1;
                } else {
                    self.ring.push_back(Record::Fragment(key(packet), held));
                }
            }
            Step::Take(count) => self.take(count),
            Step::Pass(millis) => self.pass(millis),
            Step::Forget(packet) => {
                self.kernel.known.remove(&key(packet));
            }
        }
    }

    fn take(&mut self, count: usize) {
        for _ in 0..count {
            match self.ring.pop_front() {
                Some(Record::Fragment(key, held)) => {
                    self.fragments.receive(self.now, key, held, &mut self.kernel);
                }
                Some(Record::Decided(key)) => {
                    if self.kernel.fault != Some(Fault::IgnoresNewsAndTime) {
                        self.fragments.decided(&key, &mut self.kernel);
                    }
                }
                None => break,
            }
        }
        self.count();
    }

    fn pass(&mut self, millis: u64) {
        let until = self.now + MILLI * millis as u32;
        while let Some(at) = self.fragments.wake_at()
            && at <= until
            && self.kernel.fault != Some(Fault::IgnoresNewsAndTime)
        {
            assert!(at >= self.now, "a time that has passed is not waited for again");
            self.now = at;
            self.fragments.wake(at, &mut self.kernel);
        }
        self.now = until;
        self.count();
    }

    fn count(&mut self) {
        let lost = self.fragments.take_lost();
        if self.kernel.fault != Some(Fault::HidesLosses) {
            self.lost.timeout += lost.timeout;
            self.lost.overflow += lost.overflow;
        }
    }

    /// Lets everything come to its end, and says what is wrong.
    fn end(mut self) -> Result<(u64, Lost, u64), String> {
        self.take(usize::MAX);
        self.pass(3000);
        if self.fragments.size() != (0, 0) {
            return Err(format!("{:?} are still held", self.fragments.size()));
        }
        if let Some((frame, times)) = self.kernel.delivered.iter().find(|(_, times)| **times != 1) {
            return Err(format!("{frame:?} was delivered {times} times"));
        }
        let delivered = self.kernel.delivered.len() as u64;
        let dropped = self.lost.timeout + self.lost.overflow + self.kernel.undecided;
        if delivered + dropped != self.sent {
            let sent = self.sent;
            return Err(format!("{sent} came, {delivered} delivered, {dropped} counted"));
        }
        Ok((delivered, self.lost, self.kernel.undecided))
    }
}

/// Eight packets of five fragments each in any order, with turns and time in between.
fn any_order(max_pause: u64) -> impl Strategy<Value = Vec<Step>> {
    let pieces: Vec<Step> = (0..8)
        .flat_map(|packet| {
            let later = (1..5).map(move |number| Step::Later(packet, number));
            later.chain([Step::First(packet, packet % 3 != 0)])
        })
        .collect();
    let between = proptest::collection::vec(
        prop_oneof![(0usize..6).prop_map(Step::Take), (0..=max_pause).prop_map(Step::Pass)],
        pieces.len(),
    );
    (Just(pieces).prop_shuffle(), between).prop_map(|(pieces, between)| {
        pieces.into_iter().zip(between).flat_map(|(piece, between)| [piece, between]).collect()
    })
}

fn run(limits: Limits, fault: Option<Fault>, steps: &[Step]) -> Result<(u64, Lost, u64), String> {
    let mut world = World::new(limits, fault);
    for step in steps {
        world.step(*step);
    }
    world.end()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_order_within_the_time_delivers_every_fragment_once(steps in any_order(15)) {
        prop_assert_eq!(run(LIMITS, None, &steps), Ok((32, Lost::default(), 0)));
    }

    #[test]
    fn whatever_happens_every_fragment_is_delivered_or_counted_once(
        steps in any_order(400),
        forgotten in proptest::collection::vec((any::<prop::sample::Index>(), 0u32..8), 0..6),
        packets in 1usize..9,
        bytes in 60usize..2000,
        fragments_of_one in 1usize..6,
    ) {
        let mut steps = steps;
        for (at, packet) in forgotten {
            steps.insert(at.index(steps.len()), Step::Forget(packet));
        }
        let limits = Limits { packets, bytes, fragments_of_one, ..LIMITS };
        if let Err(wrong) = run(limits, None, &steps) {
            prop_assert!(false, "{}", wrong);
        }
    }
}

#[test]
fn every_fault_is_found() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    for fault in FAULTS {
        let mut runner = TestRunner::deterministic();
        let found = (0..200).any(|_| {
            let steps = any_order(400).new_tree(&mut runner).expect("steps").current();
            let orderly = run(LIMITS, None, &steps).expect("no fault, no complaint");
            run(LIMITS, Some(fault), &steps) != Ok(orderly)
        });
        assert!(found, "nobody saw {fault:?}");
    }
}

#[test]
fn nothing_is_held_longer_than_its_lifetime() {
    let mut world = World::new(LIMITS, None);
    world.step(Step::Later(1, 1));
    world.take(1);
    world.pass(600);
    // A second fragment does not make the packet live longer.
    world.step(Step::Later(1, 2));
    world.take(1);
    world.pass(399);
    assert_eq!((world.fragments.size().0, world.lost.timeout), (1, 0));
    world.pass(1);
    assert_eq!((world.fragments.size(), world.lost.timeout), ((0, 0), 2));
    assert_eq!(world.fragments.wake_at(), None);
}

#[test]
fn a_flood_pushes_the_oldest_out_and_stays_within_every_limit() {
    let limits = Limits { packets: 10, bytes: 1000, ..LIMITS };
    let (mut fragments, mut kernel) = (Fragments::new(limits), Kernel::default());
    let now = Instant::now();
    for packet in 0..10_000 {
        fragments.receive(now, key(packet), fragment(packet, 1, 90), &mut kernel);
        let (packets, bytes) = fragments.size();
        assert!(packets <= 10 && bytes <= 1000);
    }
    assert_eq!(fragments.take_lost(), Lost { timeout: 0, overflow: 9990 });
    // The newest are there.
    kernel.known.insert(key(9_999), true);
    fragments.decided(&key(9_999), &mut kernel);
    assert_eq!(kernel.delivered.len(), 1);
    // One packet of a sender who sends nothing but fragments of it.
    let mut fragments = Fragments::new(LIMITS);
    for number in 0..1000 {
        fragments.receive(now, key(1), fragment(1, number, 1500), &mut kernel);
    }
    assert!(fragments.size().1 <= LIMITS.bytes_of_one);
    assert_eq!(fragments.take_lost().overflow, 1000 - (LIMITS.bytes_of_one / 1500) as u64);
}

#[test]
fn a_decision_that_nobody_told_of_is_found_soon() {
    let mut world = World::new(LIMITS, None);
    world.step(Step::Later(3, 1));
    world.take(1);
    world.step(Step::First(3, false));
    world.pass(LIMITS.look.as_millis() as u64);
    assert_eq!(world.kernel.delivered.len(), 1);
}
