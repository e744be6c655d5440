//! The state of one stream, seen from either side.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    credit::{Credit, DemandPolicy, Prefetch},
    state::{Role, State, StreamEvent},
};
use crate::{
    Payload,
    error::Error,
    frame::{Demand, ErrorCode, Interaction, StreamId},
    proto::fragment::{Cursor, Join},
};

/// One stream. Its halves and ledgers are kept by the types that own those
/// rules; this one holds what waits in either direction.
///
/// Slots are used again for later streams, so that the queues keep their
/// memory: a request in steady state allocates nothing.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) role: Role,
    pub(super) interaction: Interaction,
    pub(super) state: State,
    /// False in a slot that no stream uses.
    pub(super) live: bool,
    /// Handles that the application still has; the slot is kept for them.
    pub(super) handles: u8,
    /// Whether the stream stands in the list of those with something to send.
    pub(super) queued: bool,
    /// Whether the request was sent, if only its first fragment.
    pub(super) announced: bool,
    /// Whether the request waits in the lease's queue. Until it leaves that, its
    /// cost is not counted: it must not hold up streams that go on.
    pub(super) waits_for_lease: bool,

    pub(super) credit: Credit,
    pub(super) outbox: VecDeque<Item>,
    /// What the outbox's payloads cost; see `Streams::queued_len`.
    pub(super) outbox_cost: usize,
    /// How far the outbox's first payload was sent.
    pub(super) cursor: Cursor,
    /// To be granted to the peer.
    pub(super) request_n: u64,
    /// CANCEL is to be sent.
    pub(super) cancel: bool,

    pub(super) prefetch: Prefetch,
    /// Whether the first grant of a responder's inbound was made.
    pub(super) demanded: bool,
    pub(super) inbox: VecDeque<Payload>,
    /// What payloads cost that are in a batch and were not said to be used.
    pub(super) handed_cost: usize,
    /// How the inbound half ended; told once the inbox is empty.
    pub(super) end: Option<Ended>,
    pub(super) join: Option<Box<Joining>>,

    /// Payloads of the peer's half that are in, taken or not.
    pub(super) received: u64,
    /// Payloads that the application handed over, sent or not.
    pub(super) sent: u64,
    /// Items that left the outbox, so that each has a number of its own.
    pub(super) out_first: u64,
    /// Of a durable session: the inbox's first payload was given out, and stays
    /// until the application comes back for the next.
    pub(super) in_hand: bool,
    /// Tells the users of an id apart.
    pub(super) birth: u64,
    /// Of a durable session: the request, until it is stored.
    pub(super) label: Option<Box<Payload>>,

    pub(super) reader_waits: bool,
    pub(super) writer_waits: WriterWaits,
    /// Whether the slot stands in the list of those that wait for room.
    pub(super) crowded: bool,
}

/// Something that waits to be sent, in order.
#[derive(Debug)]
pub(super) enum Item {
    Request {
        payload: Payload,
        initial_n: Option<Demand>,
        complete: bool,
    },
    Payload {
        payload: Payload,
        complete: bool,
    },
    Complete,
    Error(ErrorCode, Bytes),
}

/// How an inbound half ended.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    Complete,
    Failed(Error),
}

/// A payload that is being reassembled.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) join: Join,
    /// Whether it is the request itself, which nobody has seen yet.
    pub(super) is_request: bool,
    /// Whether the peer completes with it.
    pub(super) complete: bool,
}

/// What the writer wants to be woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriterWaits {
    No,
    /// It has nothing to send; only the end of its half concerns it.
    ForEnd,
    /// It has something to send.
    ForCapacity,
}

impl Item {
    /// What it counts for in the limits of queues: its bytes, and itself, so
    /// that a flood of empty ones is counted too.
    pub(super) fn cost(&self) -> usize {
        let len = match self {
            Self::Request { payload, .. } | Self::Payload { payload, .. } => payload.len(),
            Self::Complete => 0,
            Self::Error(_, message) => message.len(),
        };
        len + size_of::<Self>()
    }
}

impl Stream {
    /// Payloads that may wait in one stream's outbox: enough to fill a link's
    /// batch, little enough that many streams share it fairly.
    pub(super) const OUTBOX_LEN: usize = 32;

    /// Queues longer than this are given back when the stream ends.
    const KEPT_QUEUE_LEN: usize = 4;

    pub(super) fn new(id: StreamId, role: Role, interaction: Interaction) -> Self {
        Self {
            id,
            role,
            interaction,
            state: State::initial(role, interaction),
            live: true,
            handles: 0,
            queued: false,
            announced: matches!(role, Role::Responder),
            waits_for_lease: false,
            credit: Credit::default(),
            outbox: VecDeque::new(),
            outbox_cost: 0,
            cursor: Cursor::default(),
            request_n: 0,
            cancel: false,
            prefetch: Prefetch::new(DemandPolicy::default()),
            demanded: false,
            inbox: VecDeque::new(),
            handed_cost: 0,
            end: None,
            join: None,
            received: 0,
            sent: 0,
            out_first: 0,
            in_hand: false,
            birth: 0,
            label: None,
            reader_waits: false,
            writer_waits: WriterWaits::No,
            crowded: false,
        }
    }

    /// Makes the slot of an ended stream a new one, keeping its queues' memory.
    ///
    /// Field by field: to build a stream and move it here costs as much as all
    /// else that opening one does.
    pub(super) fn renew(&mut self, id: StreamId, role: Role, interaction: Interaction) {
        let Self {
            id: own_id,
            role: own_role,
            interaction: own_interaction,
            state,
            live,
            handles,
            queued,
            announced,
            waits_for_lease,
            credit,
            outbox,
            outbox_cost,
            cursor,
            request_n,
            cancel,
            prefetch,
            demanded,
            inbox,
            handed_cost,
            end,
            join,
            received,
            sent,
            out_first,
            in_hand,
            birth: _,
            label,
            reader_waits,
            writer_waits,
            // The list that it stands in outlives the stream.
            crowded: _,
        } = self;
        debug_assert!(outbox.is_empty() && inbox.is_empty(), "a stream ends empty");
        *own_id = id;
        *own_role = role;
        *own_interaction = interaction;
        *state = State::initial(role, interaction);
        *live = true;
        *handles = 0;
        *queued = false;
        *announced = matches!(role, Role::Responder);
        *waits_for_lease = false;
        *credit = Credit::default();
        *outbox_cost = 0;
        *cursor = Cursor::default();
        *request_n = 0;
        *cancel = false;
        *prefetch = Prefetch::new(DemandPolicy::default());
        *demanded = false;
        *handed_cost = 0;
        *end = None;
        *join = None;
        *received = 0;
        *sent = 0;
        *out_first = 0;
        *in_hand = false;
        *label = None;
        *reader_waits = false;
        *writer_waits = WriterWaits::No;
    }

    /// Gives back the memory of long queues, once they are empty.
    pub(super) fn shrink(&mut self) {
        if self.outbox.capacity() > Self::KEPT_QUEUE_LEN {
            self.outbox.shrink_to(Self::KEPT_QUEUE_LEN);
        }
        if self.inbox.capacity() > Self::KEPT_QUEUE_LEN {
            self.inbox.shrink_to(Self::KEPT_QUEUE_LEN);
        }
    }

    /// Moves the state; false when the event has no place in it.
    pub(super) fn transition(&mut self, event: StreamEvent) -> bool {
        match self.state.after(self.role, event) {
            Some(next) => {
                self.state = next;
                true
            }
            None => false,
        }
    }

    /// Whether anything waits to be sent.
    pub(super) fn has_output(&self) -> bool {
        !self.outbox.is_empty() || self.cancel || self.request_n > 0
    }

    /// Forgets what was not sent yet, and that a payload was half sent.
    /// Returns what it cost.
    #[must_use = "the session counts it too"]
    pub(super) fn drop_output(&mut self) -> usize {
        self.request_n = 0;
        self.cancel = false;
        self.out_first += self.outbox.len() as u64;
        self.outbox.clear();
        self.cursor = Cursor::default();
        std::mem::take(&mut self.outbox_cost)
    }

    /// Forgets what the peer does not want any more of our half: not the rest
    /// of the request, nor an ERROR, which ends the other half too. Returns
    /// what it cost.
    #[must_use = "the session counts it too"]
    pub(super) fn drop_payloads(&mut self) -> usize {
        if !matches!(self.outbox.front(), Some(Item::Request { .. })) {
            self.cursor = Cursor::default();
        }
        self.out_first += self.outbox.len() as u64;
        self.outbox
            .retain(|item| matches!(item, Item::Request { .. } | Item::Error(..)));
        let left = self.outbox.iter().map(Item::cost).sum();
        let before = std::mem::replace(&mut self.outbox_cost, left);
        before.saturating_sub(left)
    }

    /// Payloads that the application may hand over now.
    pub(super) fn room(&self) -> usize {
        let room = Self::OUTBOX_LEN.saturating_sub(self.outbox.len());
        match self.interaction {
            Interaction::RequestStream | Interaction::RequestChannel => {
                room.min(usize::try_from(self.credit.balance()).unwrap_or(usize::MAX))
            }
            Interaction::RequestResponse | Interaction::FireAndForget => room,
        }
    }

    /// The first grant of a responder's inbound, once the application shows
    /// that it reads.
    pub(super) fn start_demand(&mut self) {
        if !self.demanded && self.interaction == Interaction::RequestChannel {
            self.demanded = true;
            let first = self.prefetch.start();
            self.owe(first);
        }
    }

    /// The index of the payload that the application takes next.
    pub(super) fn position(&self) -> u64 {
        self.received - self.inbox.len() as u64 + u64::from(self.in_hand)
    }

    /// Adds to what is to be granted; nothing once the peer's half is over.
    pub(super) fn owe(&mut self, n: Option<Demand>) {
        if let Some(n) = n
            && self.state.can_receive()
        {
            self.request_n = self.request_n.saturating_add(n.get().into());
        }
    }
}
