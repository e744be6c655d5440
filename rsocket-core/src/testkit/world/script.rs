//! What the applications of a world mean to do with a request, and what became
//! of it.

use crate::{
    Payload,
    frame::{Demand, Interaction},
    proto::{Batch, DemandPolicy},
    testkit::Random,
};

/// One request: what both sides mean to do, and what they saw.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) by: usize,
    pub(super) interaction: Interaction,
    pub(super) opened: bool,
    /// The responder was told.
    pub(super) started: bool,
    pub(super) rejected: bool,
    pub(super) up: Flow,
    pub(super) down: Flow,
}

/// One direction of a request.
#[derive(Debug)]
pub(super) struct Flow {
    /// Payloads to send, the request included.
    pub(super) planned: usize,
    pub(super) end: HowEnded,
    /// The reader has enough after so many.
    pub(super) quit_after: Option<usize>,
    pub(super) demand: DemandPolicy,
    /// Payloads that the reader asked for or got for nothing.
    pub(super) asked: u64,
    pub(super) sent: usize,
    pub(super) ended: Option<HowEnded>,
    pub(super) received: usize,
    pub(super) quit: bool,
    /// What the reader took together, if it is one who does.
    pub(super) batch: Option<Batch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HowEnded {
    Completed,
    Failed,
    /// Let go without a word.
    Dropped,
    /// The session said that the half is over.
    Stopped,
}

/// The payload of a place; the first of a request names its script.
pub(super) fn content(script: usize, down: bool, n: usize) -> Payload {
    let place = (script as u64) << 32 | u64::from(down) << 31 | n as u64;
    let mut random = Random::new(place);
    let len = match random.within(0..=9) {
        0 => 0,
        1 => random.within(0..=3_000),
        _ => random.within(0..=150),
    };
    let mut data = random.bytes(len);
    if n == 0 && !down {
        let tag = u32::try_from(script).expect("few scripts");
        data.splice(0..0, tag.to_be_bytes());
    }
    let payload = Payload::new(data);
    match random.within(0..=3) {
        0 => {
            let len = random.within(0..=100);
            payload.with_metadata(random.bytes(len))
        }
        1 => payload.with_metadata(""),
        _ => payload,
    }
}

impl Flow {
    pub(super) fn new(random: &mut Random, planned: usize) -> Self {
        let end = match random.within(0..=9) {
            0 => HowEnded::Failed,
            1 => HowEnded::Dropped,
            _ => HowEnded::Completed,
        };
        let quit_after = random.once_in(6).then(|| random.within(0..=planned + 1));
        let number = |random: &mut Random, most| {
            let n = u32::try_from(random.within(1..=most)).unwrap_or(1);
            Demand::new(n).unwrap_or(Demand::ONE)
        };
        let demand = match random.within(0..=4) {
            0 => DemandPolicy::default(),
            1 => DemandPolicy::prefetch(Demand::MAX),
            2 => DemandPolicy::Manual {
                initial: number(random, 3),
            },
            _ => {
                let high = number(random, 6);
                let low = random.within(0..=high.get() as usize - 1);
                DemandPolicy::Prefetch {
                    high,
                    low: u32::try_from(low).unwrap_or(0),
                }
            }
        };
        Self {
            planned,
            end,
            quit_after,
            demand,
            asked: demand.initial().get().into(),
            sent: 0,
            ended: None,
            received: 0,
            quit: false,
            batch: random.once_in(2).then(Batch::default),
        }
    }
}

impl Script {
    pub(super) fn new(random: &mut Random, by: usize) -> Self {
        let interaction = match random.within(0..=5) {
            0 => Interaction::FireAndForget,
            1 => Interaction::RequestResponse,
            2 | 3 => Interaction::RequestStream,
            _ => Interaction::RequestChannel,
        };
        let (up, down) = match interaction {
            Interaction::FireAndForget => (1, 0),
            Interaction::RequestResponse => (1, random.within(0..=1)),
            Interaction::RequestStream => (1, random.length(200) - 1),
            Interaction::RequestChannel => (random.length(100), random.length(100) - 1),
        };
        let mut up = Flow::new(random, up);
        if up.end == HowEnded::Dropped || interaction != Interaction::RequestChannel {
            // With a requester that neither ends nor fails its half, both
            // sides could wait for each other's end; that is their business.
            up.end = HowEnded::Completed;
        }
        if interaction != Interaction::RequestChannel {
            up.quit_after = None;
        }
        // The first payload comes for nothing.
        up.asked = match up.demand {
            DemandPolicy::Manual { initial } => u64::from(initial.get()) + 1,
            DemandPolicy::Prefetch { .. } => up.asked,
        };
        Self {
            by,
            interaction,
            opened: false,
            started: false,
            rejected: false,
            up,
            down: Flow::new(random, down),
        }
    }

    pub(super) fn flow(&mut self, down: bool) -> &mut Flow {
        if down { &mut self.down } else { &mut self.up }
    }

    /// Whether somebody ended it otherwise than by completion.
    pub(super) fn disturbed(&self) -> bool {
        let odd = |flow: &Flow| {
            flow.quit || matches!(flow.ended, Some(HowEnded::Failed | HowEnded::Dropped))
        };
        self.rejected || odd(&self.up) || odd(&self.down)
    }
}
