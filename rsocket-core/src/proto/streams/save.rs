//! Streams as rows, and rows as streams.
//!
//! What is stored is compared with what the store has, so whoever changes a
//! stream need not know that it is stored.

use std::{collections::HashMap, ops::Range};

use bytes::Bytes;

use super::{
    Ended, Item, Role, State, StreamKey, Streams,
    credit::{Credit, Prefetch},
    payload_cost,
    stream::{Joining, Stream},
};
use crate::{
    Payload,
    error::{Error, Failure, Misbehavior},
    frame::{Demand, ErrorCode, Interaction, PayloadRef, StreamId},
    proto::{
        Limits,
        fragment::Join,
        resume::rows::{Damaged, Part, Reader, Writer, delete_stream},
    },
    resume::{Batch, Key},
};

/// What the store has of one stream.
#[derive(Debug)]
pub(in crate::proto) struct Saved {
    birth: u64,
    state: Vec<u8>,
    inbox: Range<u64>,
    outbox: Range<u64>,
    /// Rows of a payload that is being reassembled, and the bytes in them.
    join: Range<u64>,
    join_lens: (usize, usize),
    /// Which payload that is.
    join_number: Option<u64>,
}

impl Saved {
    fn nothing(birth: u64) -> Self {
        Self {
            birth,
            state: Vec::new(),
            inbox: 0..0,
            outbox: 0..0,
            join: 0..0,
            join_lens: (0, 0),
            join_number: None,
        }
    }
}

/// A stream that a process before this one left.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RestoredStream {
    /// Its name to the session. One [`release`](crate::proto::Session::release)
    /// is owed for `reader`, and one for `writer`, if they are true.
    pub key: StreamKey,
    /// Which end of it this side is.
    pub role: Role,
    /// Which of the four.
    pub interaction: Interaction,
    /// The request that opened it.
    pub request: Payload,
    /// The index of the payload that is taken next: so many the application had
    /// done with.
    pub received: u64,
    /// Payloads that the application handed over.
    pub sent: u64,
    /// Whether there is a half to be read.
    pub reader: bool,
    /// Whether there is a half to be written.
    pub writer: bool,
}

impl Streams {
    /// Goes on with ids where another process left off.
    pub(in crate::proto) fn go_on_with_id(&mut self, next: StreamId) -> Option<()> {
        self.is_local(next).then(|| self.ids.skip_to(next.get()))
    }

    /// The id that comes next.
    pub(in crate::proto) fn next_id(&self) -> u32 {
        self.ids.peek()
    }

    /// Adds what the store does not have to `batch`, which brings it to `saved`.
    pub(in crate::proto) fn save(&mut self, saved: &mut HashMap<u32, Saved>, batch: &mut Batch) {
        let (local, remote, slots) = (&self.local, &self.remote, &self.slots);
        let is_local = |id: StreamId| self.is_local(id);
        saved.retain(|id, saved| {
            let slot = StreamId::new(*id).and_then(|id| match is_local(id) {
                true => local.get(id),
                false => remote.get(id),
            });
            let lives = slot
                .and_then(|slot| slots.get(slot))
                .is_some_and(|stream| stream.birth == saved.birth);
            if !lives {
                delete_stream(*id, batch);
            }
            lives
        });
        for stream in self.slots.iter_mut().filter(|stream| stream.live) {
            let saved = saved
                .entry(stream.id.get())
                .or_insert_with(|| Saved::nothing(stream.birth));
            stream.save(saved, batch);
        }
    }

    /// Makes a stream of its rows.
    pub(in crate::proto) fn restore(
        &mut self,
        id: u64,
        rows: Vec<(Key, Bytes)>,
        limits: &Limits,
        saved: &mut HashMap<u32, Saved>,
    ) -> Result<Option<RestoredStream>, Damaged> {
        let id = u32::try_from(id)
            .ok()
            .and_then(StreamId::new)
            .ok_or(Damaged("a stream id is out of range"))?;
        let mut rows = rows.into_iter();
        let state = match rows.next() {
            Some((key, row)) if Part::of(key) == Some((Part::State, 0)) => row,
            _ => return Err(Damaged("a stream has no state")),
        };
        let mut row = Reader::new(state.clone());
        let role = match row.u8()? {
            0 => Role::Requester,
            1 => Role::Responder,
            _ => return Err(Damaged("a role is unknown")),
        };
        if self.is_local(id) != (role == Role::Requester) {
            return Err(Damaged("a stream has an id of the other side"));
        }
        let interaction = match row.u8()? {
            0 => Interaction::FireAndForget,
            1 => Interaction::RequestResponse,
            2 => Interaction::RequestStream,
            3 => Interaction::RequestChannel,
            _ => return Err(Damaged("an interaction is unknown")),
        };
        let slot = self.insert(id, role, interaction);
        let Some(stream) = self.slots.get_mut(slot) else {
            return Ok(None);
        };
        let mut kept = Saved::nothing(stream.birth);
        kept.state = state.to_vec();
        stream.load(row, &mut kept, rows, limits)?;

        // Half of it may have been let go of, the writer's only with its end.
        let writes = stream.state.can_send();
        let (reader, writer) = match (interaction, role) {
            (Interaction::FireAndForget, Role::Requester) => (false, false),
            (Interaction::FireAndForget, Role::Responder) => (false, stream.handles > 0),
            (_, Role::Requester) => {
                let writer = writes && stream.handles > 0;
                (stream.handles > u8::from(writer), writer)
            }
            (Interaction::RequestChannel, Role::Responder) => {
                let writer = writes && stream.handles > 0;
                (stream.handles > u8::from(writer), writer)
            }
            (_, Role::Responder) => (false, writes && stream.handles > 0),
        };
        stream.handles = u8::from(reader) + u8::from(writer);
        let restored = RestoredStream {
            key: StreamKey { slot, id },
            role,
            interaction,
            request: stream
                .label
                .take()
                .map_or_else(Payload::default, |label| *label),
            received: stream.position(),
            sent: stream.sent,
            reader,
            writer,
        };

        self.queued.add(role, stream.outbox_cost);
        let inbox = stream.inbox.iter();
        let inbox: usize = inbox.map(|payload| payload_cost(payload.len())).sum();
        self.buffered += inbox + stream.join.as_ref().map_or(0, |j| j.join.len());
        saved.insert(id.get(), kept);
        self.enqueue(slot);
        self.settle(slot);
        Ok((reader || writer).then_some(restored))
    }
}

impl Stream {
    /// Adds what the store does not have.
    fn save(&mut self, saved: &mut Saved, batch: &mut Batch) {
        let id = self.id.get();
        let state = self.state_row();
        if saved.state != state {
            batch.put(Part::State.key(id, 0), Bytes::copy_from_slice(&state));
            saved.state = state;
        }
        if let Some(label) = self.label.take() {
            let mut row = Writer::new();
            row.payload(&label);
            batch.put(Part::Request.key(id, 0), row.into_bytes());
        }

        let inbox = self.received - self.inbox.len() as u64..self.received;
        let gone = saved.inbox.start..inbox.start.min(saved.inbox.end);
        Part::Inbox.delete(id, gone, batch);
        for (index, payload) in inbox.clone().zip(&self.inbox) {
            if index >= saved.inbox.end {
                let mut row = Writer::new();
                row.payload(payload);
                batch.put(Part::Inbox.key(id, index), row.into_bytes());
            }
        }
        saved.inbox = inbox;

        let outbox = self.out_first..self.out_first + self.outbox.len() as u64;
        let gone = saved.outbox.start..outbox.start.min(saved.outbox.end);
        Part::Outbox.delete(id, gone, batch);
        for (index, item) in outbox.clone().zip(&self.outbox) {
            if index >= saved.outbox.end {
                batch.put(Part::Outbox.key(id, index), item.row());
            }
        }
        saved.outbox = outbox;
        self.save_join(saved, batch);
    }

    fn save_join(&self, saved: &mut Saved, batch: &mut Batch) {
        let id = self.id.get();
        // While one payload is reassembled none is delivered.
        let number = self.join.is_some().then_some(self.received);
        if number != saved.join_number {
            Part::Join.delete(id, saved.join.clone(), batch);
            saved.join_number = number;
            saved.join = saved.join.end..saved.join.end;
            saved.join_lens = (0, 0);
        }
        let Some(joining) = &self.join else {
            return;
        };
        let (metadata, data) = joining.join.lens();
        let lens = (metadata.unwrap_or(0), data);
        if saved.join_lens == lens && !saved.join.is_empty() {
            return;
        }
        let (metadata, data) = joining.join.since(saved.join_lens.0, saved.join_lens.1);
        let mut row = Writer::new();
        row.bool(metadata.is_some());
        row.bytes(metadata.unwrap_or_default());
        row.bytes(data);
        batch.put(Part::Join.key(id, saved.join.end), row.into_bytes());
        saved.join.end += 1;
        saved.join_lens = lens;
    }

    /// What of the stream is neither a payload nor told by the rows' keys.
    fn state_row(&self) -> Vec<u8> {
        let mut row = Writer::new();
        row.u8(match self.role {
            Role::Requester => 0,
            Role::Responder => 1,
        });
        row.u8(match self.interaction {
            Interaction::FireAndForget => 0,
            Interaction::RequestResponse => 1,
            Interaction::RequestStream => 2,
            Interaction::RequestChannel => 3,
        });
        row.u8(match self.state {
            State::Open => 0,
            State::SendDone => 1,
            State::RecvDone => 2,
            State::Closed => 3,
        });
        row.u8(self.handles);
        row.bool(self.announced);
        row.bool(self.demanded);
        row.bool(self.cancel);
        row.u64(self.request_n);
        row.u64(self.received);
        row.u64(self.inbox.len() as u64);
        row.u64(self.sent);
        row.u64(self.out_first);
        row.u64(self.outbox.len() as u64);
        self.credit.save(&mut row);
        self.prefetch.save(&mut row);
        match &self.end {
            None => row.u8(0),
            Some(Ended::Complete) => row.u8(1),
            Some(Ended::Failed(error)) => save_error(error, &mut row),
        }
        match &self.join {
            None => row.u8(0),
            Some(joining) => {
                row.u8(1);
                row.bool(joining.is_request);
                row.bool(joining.complete);
                // So that it shows when a fragment is missing.
                let (metadata, data) = joining.join.lens();
                row.u64(metadata.map_or(0, |len| len as u64 + 1));
                row.u64(data as u64);
            }
        }
        row.into_vec()
    }

    /// The rest of a stream whose role and interaction were read.
    fn load(
        &mut self,
        mut row: Reader,
        saved: &mut Saved,
        rows: impl Iterator<Item = (Key, Bytes)>,
        limits: &Limits,
    ) -> Result<(), Damaged> {
        self.state = match row.u8()? {
            0 => State::Open,
            1 => State::SendDone,
            2 => State::RecvDone,
            3 => State::Closed,
            _ => return Err(Damaged("a stream's state is unknown")),
        };
        self.handles = row.u8()?;
        self.announced = row.bool()?;
        self.demanded = row.bool()?;
        self.cancel = row.bool()?;
        self.request_n = row.u64()?;
        self.received = row.count()?;
        let inbox = row.count()?;
        self.sent = row.count()?;
        self.out_first = row.count()?;
        let outbox = row.count()?;
        let counts = (u32::try_from(inbox), self.received.checked_sub(inbox));
        let (Ok(buffered), Some(first)) = counts else {
            return Err(Damaged("a stream holds more than it received"));
        };
        let out_end = self.out_first + outbox;
        saved.inbox = first..self.received;
        saved.outbox = self.out_first..out_end;
        self.credit = Credit::restored(&mut row)?;
        self.prefetch = Prefetch::restored(&mut row, buffered)?;
        self.end = match row.u8()? {
            0 => None,
            1 => Some(Ended::Complete),
            tag => Some(Ended::Failed(load_error(tag, &mut row)?)),
        };
        let mut lens = None;
        if row.bool()? {
            self.join = Some(Box::new(Joining {
                join: Join::default(),
                is_request: row.bool()?,
                complete: row.bool()?,
            }));
            saved.join_number = Some(self.received);
            let metadata = row.usize()?;
            lens = Some((metadata.checked_sub(1), row.usize()?));
        }
        row.end()?;
        for (key, row) in rows {
            self.load_row(key, row, saved, limits)?;
        }
        if self.join.as_ref().map(|joining| joining.join.lens()) != lens {
            return Err(Damaged("fragments are missing"));
        }
        let whole = self.inbox.len() as u64 == inbox && self.outbox.len() as u64 == outbox;
        if !whole || self.join.is_some() == saved.join.is_empty() {
            return Err(Damaged("rows of a stream are missing"));
        }
        Ok(())
    }

    fn load_row(
        &mut self,
        key: Key,
        row: Bytes,
        saved: &mut Saved,
        limits: &Limits,
    ) -> Result<(), Damaged> {
        const ORDER: Damaged = Damaged("rows of a stream do not follow each other");
        let (part, n) = Part::of(key).ok_or(Damaged("a row of a stream is unknown"))?;
        let mut row = Reader::new(row);
        match part {
            Part::State => Err(Damaged("a stream has two states")),
            Part::Request => {
                self.label = Some(Box::new(row.payload()?));
                row.end()
            }
            Part::Inbox => {
                if n != saved.inbox.start + self.inbox.len() as u64 || n >= saved.inbox.end {
                    return Err(ORDER);
                }
                self.inbox.push_back(row.payload()?);
                row.end()
            }
            Part::Outbox => {
                if n != saved.outbox.start + self.outbox.len() as u64 || n >= saved.outbox.end {
                    return Err(ORDER);
                }
                let item = Item::from_row(row)?;
                self.outbox_cost += item.cost();
                self.outbox.push_back(item);
                Ok(())
            }
            Part::Join => {
                let Some(joining) = &mut self.join else {
                    return Err(Damaged("fragments belong to no payload"));
                };
                if saved.join.is_empty() {
                    saved.join = n..n;
                }
                if n != saved.join.end {
                    return Err(ORDER);
                }
                saved.join.end += 1;
                let metadata = row.bool()?.then_some(());
                let bytes = row.bytes()?;
                let metadata = metadata.map(|()| &*bytes);
                let data = row.bytes()?;
                let fragment = PayloadRef {
                    metadata,
                    data: &data,
                };
                // Whatever stands in for it is not the last fragment, and only
                // the first may be empty.
                joining
                    .join
                    .push(fragment, false, limits)
                    .map_err(|_| Damaged("a payload is longer than max_payload_len"))?;
                let (metadata, data) = joining.join.lens();
                saved.join_lens = (metadata.unwrap_or(0), data);
                row.end()
            }
        }
    }
}

impl Item {
    fn row(&self) -> Bytes {
        let mut row = Writer::new();
        match self {
            Self::Request {
                payload,
                initial_n,
                complete,
            } => {
                row.u8(0);
                row.payload(payload);
                row.u64(initial_n.map_or(0, |n| n.get().into()));
                row.bool(*complete);
            }
            Self::Payload { payload, complete } => {
                row.u8(1);
                row.payload(payload);
                row.bool(*complete);
            }
            Self::Complete => row.u8(2),
            Self::Error(code, message) => {
                row.u8(3);
                row.u64(code.get().into());
                row.bytes(message);
            }
        }
        row.into_bytes()
    }

    fn from_row(mut row: Reader) -> Result<Self, Damaged> {
        let item = match row.u8()? {
            0 => Self::Request {
                payload: row.payload()?,
                initial_n: Demand::new(row.u32()?),
                complete: row.bool()?,
            },
            1 => Self::Payload {
                payload: row.payload()?,
                complete: row.bool()?,
            },
            2 => Self::Complete,
            3 => Self::Error(ErrorCode::new(row.u32()?), row.bytes()?),
            _ => return Err(Damaged("something to be sent is unknown")),
        };
        row.end()?;
        Ok(item)
    }
}

/// Tags from 2 on: 0 and 1 are no error.
fn save_error(error: &Error, row: &mut Writer) {
    match error {
        Error::Peer(failure) => {
            row.u8(2);
            row.u64(failure.code().get().into());
            row.bytes(failure.message().as_bytes());
        }
        Error::Misbehaved(why) => {
            row.u8(3);
            let (tag, limit) = match *why {
                Misbehavior::Overrun => (0, 0),
                Misbehavior::PayloadTooLong { limit } => (1, limit as u64),
                Misbehavior::BufferFull { limit } => (2, limit as u64),
                Misbehavior::EmptyFragment => (3, 0),
                Misbehavior::InvalidDemand => (4, 0),
                Misbehavior::TooManyFragments { limit } => (5, limit as u64),
                Misbehavior::TooMuchCredit { limit } => (6, limit),
            };
            row.u8(tag);
            row.u64(limit);
        }
        // The others end no stream of a session that goes on.
        Error::Canceled
        | Error::Closed(_)
        | Error::TooLong { .. }
        | Error::EmptyChannel
        | Error::NoStreamId
        | Error::NoLease { .. }
        | Error::NotConnected(_)
        | Error::TooManyWaiting { .. } => row.u8(4),
    }
}

fn load_error(tag: u8, row: &mut Reader) -> Result<Error, Damaged> {
    Ok(match tag {
        2 => {
            let code = ErrorCode::new(row.u32()?);
            let message = String::from_utf8_lossy(&row.bytes()?).into_owned();
            Error::Peer(Failure::from_wire(code, message))
        }
        3 => {
            let tag = row.u8()?;
            let wide = row.u64()?;
            let limit = usize::try_from(wide).unwrap_or(usize::MAX);
            Error::Misbehaved(match tag {
                0 => Misbehavior::Overrun,
                1 => Misbehavior::PayloadTooLong { limit },
                2 => Misbehavior::BufferFull { limit },
                3 => Misbehavior::EmptyFragment,
                4 => Misbehavior::InvalidDemand,
                5 => Misbehavior::TooManyFragments { limit },
                6 => Misbehavior::TooMuchCredit { limit: wide },
                _ => return Err(Damaged("an error is unknown")),
            })
        }
        4 => Error::Canceled,
        _ => return Err(Damaged("an error is unknown")),
    })
}
