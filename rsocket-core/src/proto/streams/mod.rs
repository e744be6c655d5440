//! All streams of a session: opening, routing, and whose frame goes next.

mod batch;
mod credit;
mod ids;
mod inbound;
#[cfg(any(test, feature = "testkit"))]
mod inspect;
mod leased;
mod outbound;
mod save;
mod state;
mod stream;
mod table;
mod through;
mod verbs;

use std::collections::VecDeque;

pub(super) use self::save::Saved;
pub use self::{
    batch::Batch,
    credit::{Credit, DemandPolicy, NoCredit, Overrun, Prefetch},
    ids::StreamIds,
    save::RestoredStream,
    state::{Role, State, StreamEvent},
};
use self::{
    stream::{Ended, Item, Stream, WriterWaits},
    table::IdTable,
};
use super::{Config, Limits, Side, lease::Lease};
use crate::{
    Payload,
    error::{CloseReason, Error, Failure},
    frame::{HEADER_LEN, Interaction, MAX_FRAME_LEN, StreamId},
};

/// Names a stream to the session, for as long as the application has a handle
/// on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// Where its state lies: small, and used again by later streams.
    pub slot: usize,
    /// Its id, which tells it from earlier users of the slot.
    pub id: StreamId,
}

/// A request to open a stream.
#[derive(Debug)]
pub struct Open {
    /// Which of the four.
    pub interaction: Interaction,
    /// The request itself.
    pub payload: Payload,
    /// How much is asked for; only for streams and channels.
    pub demand: DemandPolicy,
    /// Whether a channel has nothing to send beyond its first payload.
    pub complete: bool,
}

/// What [`Session::poll_take`](super::Session::poll_take) found.
#[derive(Debug)]
pub enum Take {
    /// The next payload.
    Payload(Payload),
    /// The peer completed; for a fire-and-forget: it was sent.
    Complete,
    /// The stream failed.
    Failed(Error),
    /// Nothing yet: [`Wake::Reader`] will tell.
    Pending,
}

/// What [`Session::poll_capacity`](super::Session::poll_capacity) found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// So many payloads may be sent now; at least 1.
    Payloads(usize),
    /// The sending half is over.
    Closed,
    /// None for now: [`Wake::Writer`] will tell.
    Pending,
}

/// Whose turn came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Whoever waits in `poll_take` on this slot.
    Reader(usize),
    /// Whoever waits in `poll_capacity` on this slot.
    Writer(usize),
}

/// The streams of one session.
#[derive(Debug)]
pub(super) struct Streams {
    side: Side,
    ids: StreamIds,
    slots: Vec<Stream>,
    free: Vec<usize>,
    /// Streams that this side opened.
    local: IdTable,
    /// Streams that the peer opened.
    remote: IdTable,
    /// One-way requests in work; they are in `remote` too.
    one_way: usize,
    /// Streams with something to send, each once, in turn.
    queue: VecDeque<usize>,
    /// Bytes of payloads that are reassembled or wait to be taken.
    buffered: usize,
    queued: Queued,
    /// Bound of what is queued, from which writers wait.
    max_queued_len: usize,
    /// Writers that wait for less to be queued.
    crowded: Vec<usize>,
    /// Bytes that the message of an ERROR may have on this link.
    max_message_len: usize,
    /// In the order in which their turns came.
    wakes: VecDeque<Wake>,
    /// Where both sides agreed on leases.
    lease: Option<Box<Lease>>,
    /// Whether all of this is stored to outlive the process.
    durable: bool,
    /// Streams so far.
    births: u64,
}

/// What the outboxes of all streams cost; see [`Item::cost`].
#[derive(Debug, Default)]
struct Queued {
    len: usize,
    /// The part of it that answers the peer's requests.
    answers: usize,
}

impl Queued {
    fn add(&mut self, role: Role, cost: usize) {
        self.len += cost;
        if role == Role::Responder {
            self.answers += cost;
        }
    }

    fn remove(&mut self, role: Role, cost: usize) {
        self.len -= cost;
        if role == Role::Responder {
            self.answers -= cost;
        }
    }
}

/// What a payload of `len` bytes costs while it is kept: itself too, so that a
/// flood of empty ones is counted.
#[inline]
pub(super) fn payload_cost(len: usize) -> usize {
    len + size_of::<Payload>()
}

impl Streams {
    pub(super) fn new(side: Side, max_queued_len: usize, max_frame_len: usize) -> Self {
        Self {
            side,
            ids: match side {
                Side::Client => StreamIds::client(),
                Side::Server => StreamIds::server(),
            },
            slots: Vec::new(),
            free: Vec::new(),
            local: IdTable::new(),
            remote: IdTable::new(),
            one_way: 0,
            queue: VecDeque::new(),
            buffered: 0,
            queued: Queued::default(),
            // With no room at all nobody would ever be woken.
            max_queued_len: max_queued_len.max(1),
            crowded: Vec::new(),
            max_message_len: max_message_len(max_frame_len),
            wakes: VecDeque::new(),
            lease: None,
            durable: false,
            births: 0,
        }
    }

    /// From now on streams keep what is needed to store them.
    pub(super) fn make_durable(&mut self) {
        self.durable = true;
    }

    /// Streams of either side that are not over.
    pub(super) fn len(&self) -> usize {
        self.local.len() + self.remote.len()
    }

    /// Whether neither side has anything to say on any stream. Who reads or serves
    /// them may not have let go of them yet.
    ///
    /// Looks at all streams: for the end of a session.
    pub(super) fn are_over(&self) -> bool {
        let mut live = self.slots.iter().filter(|stream| stream.live);
        live.all(|stream| stream.state.is_closed() && !stream.has_output() && !stream.queued)
    }

    /// Streams that this side opened and that are not over.
    pub(super) fn local_len(&self) -> usize {
        self.local.len()
    }

    /// Whether requests of this side wait for the link. Those that were sent
    /// stand behind those that were not, so it is cheap while it is so.
    pub(super) fn has_unsent_requests(&self) -> bool {
        self.queue.iter().any(|slot| {
            let stream = self.slots.get(*slot);
            stream.is_some_and(|stream| stream.role == Role::Requester && !stream.announced)
        })
    }

    pub(super) fn one_way_len(&self) -> usize {
        self.one_way
    }

    pub(super) fn poll_wake(&mut self) -> Option<Wake> {
        self.wakes.pop_front()
    }

    fn insert(&mut self, id: StreamId, role: Role, interaction: Interaction) -> usize {
        let slot = match self.free.pop() {
            Some(slot) => {
                if let Some(stream) = self.slots.get_mut(slot) {
                    stream.renew(id, role, interaction);
                }
                slot
            }
            None => {
                self.slots.push(Stream::new(id, role, interaction));
                self.slots.len() - 1
            }
        };
        self.births += 1;
        if let Some(stream) = self.slots.get_mut(slot) {
            stream.birth = self.births;
        }
        match role {
            Role::Requester => self.local.insert(id, slot),
            Role::Responder => {
                self.remote.insert(id, slot);
                if matches!(interaction, Interaction::FireAndForget) {
                    self.one_way += 1;
                }
            }
        }
        slot
    }

    #[inline]
    fn find_any(&self, id: StreamId) -> Option<usize> {
        if self.is_local(id) {
            self.local.get(id)
        } else {
            self.remote.get(id)
        }
    }

    /// The stream that the peer means. Of requests that were not sent it
    /// cannot know: its frames for them are as those for unknown streams.
    #[inline]
    fn find(&self, id: StreamId) -> Option<usize> {
        let slot = self.find_any(id)?;
        self.slots.get(slot)?.announced.then_some(slot)
    }

    /// Whether `id` is in use, or is for this side to use.
    pub(super) fn knows(&self, id: StreamId) -> bool {
        self.is_local(id) || self.find(id).is_some()
    }

    fn is_local(&self, id: StreamId) -> bool {
        id.is_client() == (self.side == Side::Client)
    }

    /// The stream that the application means, unless it let go of it already.
    #[inline]
    fn by_key(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.slots
            .get_mut(key.slot)
            .filter(|stream| stream.id == key.id && stream.handles > 0)
    }

    /// Puts `item` into the stream's outbox.
    fn push(&mut self, slot: usize, item: Item) {
        if let Some(stream) = self.slots.get_mut(slot) {
            let cost = item.cost();
            stream.outbox_cost += cost;
            self.queued.add(stream.role, cost);
            stream.outbox.push_back(item);
        }
        self.enqueue(slot);
    }

    /// Whether the outboxes hold less than they may: else those who produce
    /// wait, whatever credit the peer has granted \[C256].
    fn has_room(&self) -> bool {
        self.queued.len < self.max_queued_len
    }

    /// Whether the answers among what is queued leave room for more. Requests
    /// of our own do not count: they wait for a peer that may be waiting for
    /// our answers.
    pub(super) fn has_room_for_answers(&self) -> bool {
        self.queued.answers < self.max_queued_len
    }

    /// Whether as much can be kept until the application takes it; counts it
    /// if so.
    pub(super) fn keeps(&mut self, cost: usize, limits: &Limits) -> bool {
        let keeps = cost <= limits.max_buffered_len.saturating_sub(self.buffered);
        if keeps {
            self.buffered += cost;
        }
        keeps
    }

    /// What [`keeps`](Self::keeps) counted was taken.
    #[inline]
    pub(super) fn forget(&mut self, cost: usize) {
        self.buffered = self.buffered.saturating_sub(cost);
    }

    /// Forgets what a stream would have sent, and wakes those who waited for
    /// the outboxes to empty.
    fn drop_output(&mut self, slot: usize) {
        if let Some(stream) = self.slots.get_mut(slot) {
            self.queued.remove(stream.role, stream.drop_output());
        }
        self.relieve();
    }

    /// As [`drop_output`](Self::drop_output), when the peer only wants no more
    /// of our half.
    fn drop_payloads(&mut self, slot: usize) {
        if let Some(stream) = self.slots.get_mut(slot) {
            self.queued.remove(stream.role, stream.drop_payloads());
        }
        self.relieve();
    }

    /// Wakes those who waited for the outboxes to empty.
    #[inline]
    fn relieve(&mut self) {
        if !self.crowded.is_empty() {
            self.relieve_crowded();
        }
    }

    #[cold]
    fn relieve_crowded(&mut self) {
        if self.queued.len <= self.max_queued_len / 2 {
            for slot in std::mem::take(&mut self.crowded) {
                if let Some(stream) = self.slots.get_mut(slot) {
                    stream.crowded = false;
                }
                self.wake_writer(slot);
            }
        }
    }

    fn enqueue(&mut self, slot: usize) {
        if let Some(stream) = self.slots.get_mut(slot)
            && !stream.queued
            && !stream.waits_for_lease
            && stream.has_output()
        {
            stream.queued = true;
            self.queue.push_back(slot);
        }
    }

    fn wake_reader(&mut self, slot: usize) {
        if let Some(stream) = self.slots.get_mut(slot)
            && std::mem::take(&mut stream.reader_waits)
        {
            self.wakes.push_back(Wake::Reader(slot));
        }
    }

    /// Tells the writer of new room.
    fn wake_writer(&mut self, slot: usize) {
        if let Some(stream) = self.slots.get_mut(slot)
            && stream.writer_waits == WriterWaits::ForCapacity
            && stream.room() > 0
        {
            stream.writer_waits = WriterWaits::No;
            self.wakes.push_back(Wake::Writer(slot));
        }
    }

    /// Tells the writer that its half is over.
    fn end_writer(&mut self, slot: usize) {
        if let Some(stream) = self.slots.get_mut(slot)
            && stream.writer_waits != WriterWaits::No
        {
            stream.writer_waits = WriterWaits::No;
            self.wakes.push_back(Wake::Writer(slot));
        }
    }

    /// Ends the inbound half, unless it ended before.
    fn end_reader(&mut self, slot: usize, ended: Ended) {
        if let Some(stream) = self.slots.get_mut(slot) {
            if stream.end.is_none() {
                stream.end = Some(ended);
            }
            if let Some(joining) = stream.join.take() {
                self.forget(joining.join.len());
            }
        }
        self.wake_reader(slot);
    }

    /// Frees the slot once nobody needs it: neither peer, application nor wire.
    #[inline]
    fn settle(&mut self, slot: usize) {
        let is_over = self.slots.get(slot).is_some_and(|stream| {
            let needed = stream.handles > 0 || stream.queued || stream.has_output();
            stream.live && !needed && stream.state.is_closed()
        });
        if is_over {
            self.free(slot);
        }
    }

    fn free(&mut self, slot: usize) {
        let Some(stream) = self.slots.get_mut(slot) else {
            return;
        };
        stream.live = false;
        while let Some(payload) = stream.inbox.pop_front() {
            let cost = payload_cost(payload.len());
            self.buffered = self.buffered.saturating_sub(cost);
        }
        self.buffered = self.buffered.saturating_sub(stream.handed_cost);
        stream.handed_cost = 0;
        stream.shrink();
        match stream.role {
            Role::Requester => self.local.remove(stream.id),
            Role::Responder => {
                self.remote.remove(stream.id);
                if let Some(lease) = &mut self.lease {
                    lease.gone(slot);
                }
                if matches!(stream.interaction, Interaction::FireAndForget) {
                    self.one_way -= 1;
                }
            }
        }
        self.free.push(slot);
    }

    fn error_item(&self, failure: &Failure) -> Item {
        Item::Error(failure.code(), cut(failure.message(), self.max_message_len))
    }

    /// Ends all streams: the connection is over.
    pub(super) fn close(&mut self, reason: &CloseReason) {
        self.queue.clear();
        self.stop_waiting();
        for slot in 0..self.slots.len() {
            let Some(stream) = self.slots.get_mut(slot) else {
                continue;
            };
            if !stream.live {
                continue;
            }
            stream.queued = false;
            self.queued.remove(stream.role, stream.drop_output());
            stream.state = State::Closed;
            self.end_writer(slot);
            self.end_reader(slot, Ended::Failed(Error::Closed(reason.clone())));
            self.settle(slot);
        }
    }
}

/// The longest error message sent on a link, in bytes: ERROR cannot be
/// fragmented, and people read it.
fn max_message_len(max_frame_len: usize) -> usize {
    const CODE_LEN: usize = 4;
    const LONGEST: usize = 8 << 10;
    LONGEST.min(max_frame_len.saturating_sub(HEADER_LEN + CODE_LEN))
}

/// `message`, cut at a character boundary if it is too long for a link.
pub(super) fn message_bytes(message: &str, max_frame_len: usize) -> bytes::Bytes {
    cut(message, max_message_len(max_frame_len))
}

fn cut(message: &str, max_len: usize) -> bytes::Bytes {
    let end = message.floor_char_boundary(max_len.min(message.len()));
    bytes::Bytes::copy_from_slice(message.as_bytes().get(..end).unwrap_or_default())
}

/// The longest frame to send, without prefix.
pub(super) fn frame_limit(max_frame_len: usize, config: &Config) -> usize {
    const PREFIX_LEN: usize = 3;
    let fragment_len = config.fragment_len.map_or(MAX_FRAME_LEN, |len| {
        len.max(Config::MIN_FRAGMENT_LEN) - PREFIX_LEN
    });
    fragment_len.min(max_frame_len)
}

/// Bytes of a request's frame before its metadata.
fn fixed_len(interaction: Interaction) -> usize {
    if interaction.has_initial_n() {
        HEADER_LEN + 4
    } else {
        HEADER_LEN
    }
}
