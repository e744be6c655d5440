//! A session that outlives its process.
//!
//! What would be lost with the process is given out as changes to rows, some at
//! a time, and nothing that rests on a change leaves before it is stored: no
//! frame, and no word to the peer of what was received. So whenever the process
//! dies, what was stored last is a session that the peer can go on with.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    task::Poll,
    time::Instant,
};

use bytes::Bytes;

use super::{Effects, Phase, Progress, Session};
use crate::{
    frame::{self, Frame, MAX_FRAME_LEN, Position, StreamId},
    proto::{
        Config, Damaged, Keepalive, RestoredStream, Setup, Side, StreamKey,
        resume::{
            FrameLog, Resumption,
            rows::{self, FORMAT, LOG, META, Reader, STREAM, Writer},
        },
        streams::{Saved, frame_limit},
    },
    resume::{Batch, Key},
    transport::{InFrame, Limits as LinkLimits},
};

/// What the store has of a session, or will have soon.
#[derive(Debug, Default)]
pub(super) struct Durable {
    /// Something may have changed since the last checkpoint.
    changed: bool,
    seq: u64,
    /// There is something in the store.
    exists: bool,
    /// What was given out and is not stored yet.
    in_flight: Option<Checkpoint>,
    /// SETUP, until it is stored.
    pub(super) setup: Option<Bytes>,
    state: Vec<u8>,
    answers: Vec<u8>,
    log_first: u64,
    streams: HashMap<u32, Saved>,
    /// KEEPALIVEs that the peer wants answered, with what it had sent by then:
    /// the answer says that it is stored.
    asked: VecDeque<(Position, Bytes)>,
}

#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    seq: u64,
    received: Position,
    sent: u64,
}

/// A session as its process left it.
#[derive(Debug)]
#[non_exhaustive]
pub struct RestoredSession {
    /// It has no link, and [needs one](Session::needs_link).
    pub session: Session,
    /// What the client announced when the session began.
    pub setup: Setup,
    /// Streams that the application had a hand on.
    pub streams: Vec<RestoredStream>,
}

impl Session {
    /// Notes that there may be something to be stored.
    #[inline]
    pub(super) fn touch(&mut self) {
        if let Some(durable) = &mut self.durable {
            durable.changed = true;
        }
    }

    pub(super) fn make_durable(&mut self, setup: Bytes) {
        self.streams.make_durable();
        self.durable = Some(Box::new(Durable {
            changed: true,
            setup: Some(setup),
            ..Durable::default()
        }));
    }

    /// Whether nothing may be sent since the session would be unknown after a
    /// crash: a server's, until it is stored. To its client it does not exist
    /// before something is heard of it, and then it begins anew.
    pub(super) fn awaits_store(&self) -> bool {
        self.side == Side::Server
            && self.durable.as_ref().is_some_and(|durable| !durable.exists)
            && !self.is_closed()
    }

    /// Whether what it holds is given out to be stored.
    pub fn is_durable(&self) -> bool {
        self.durable.is_some()
    }

    /// Whether [`checkpoint`](Self::checkpoint) may have something.
    #[inline]
    pub fn wants_checkpoint(&self) -> bool {
        match &self.durable {
            Some(durable) => durable.changed && durable.in_flight.is_none() && self.is_accepted(),
            None => false,
        }
    }

    /// The name under which the session is resumed, and stored; it may change
    /// until there is something to be stored.
    pub fn resume_token(&self) -> Option<&Bytes> {
        self.resume.as_ref().map(|resume| &resume.token)
    }

    /// Whether something was given out that is not [committed](Self::committed).
    pub fn is_committing(&self) -> bool {
        self.durable
            .as_ref()
            .is_some_and(|durable| durable.in_flight.is_some())
    }

    /// A session that the peer may not know is not worth storing: nothing was
    /// sent on it.
    fn is_accepted(&self) -> bool {
        let open = matches!(self.phase, Phase::Open | Phase::Draining(_));
        let resume = self.resume.as_ref();
        open && resume.is_some_and(|resume| resume.unaccepted.is_none())
    }

    /// All that changed since the last time, to be stored whole and in order;
    /// then call [`committed`](Self::committed) with the number. `None` when
    /// nothing changed, or the last is not committed yet: what happens meanwhile
    /// goes into the next.
    ///
    /// If it cannot be stored the session has to [end](Self::end).
    pub fn checkpoint(&mut self) -> Option<(u64, Batch)> {
        if !self.wants_checkpoint() {
            return None;
        }
        self.append_output();
        let state = self.state_row();
        let (Some(durable), Some(resume)) = (&mut self.durable, &mut self.resume) else {
            return None;
        };
        durable.changed = false;
        let mut batch = Batch::new();
        if let Some(setup) = durable.setup.take() {
            batch.put(rows::SETUP, setup);
        }
        if durable.state != state {
            batch.put(rows::STATE, Bytes::copy_from_slice(&state));
            durable.state = state;
        }
        let answers = self.effects.answers_row();
        if durable.answers != answers {
            batch.put(rows::ANSWERS, Bytes::copy_from_slice(&answers));
            durable.answers = answers;
        }
        let first = resume.log.first().get();
        if durable.log_first != first {
            batch.delete_range(Key::new(LOG, 0, durable.log_first)..Key::new(LOG, 0, first));
            durable.log_first = first;
        }
        resume
            .log
            .give(|position, frame| batch.put(Key::new(LOG, 0, position), frame));
        self.streams.save(&mut durable.streams, &mut batch);
        if batch.is_empty() {
            return None;
        }
        durable.seq += 1;
        durable.in_flight = Some(Checkpoint {
            seq: durable.seq,
            received: resume.received,
            sent: resume.log.end(),
        });
        Some((durable.seq, batch))
    }

    /// The batch of that number is stored, and outlives the process.
    pub fn committed(&mut self, seq: u64) {
        let (Some(durable), Some(resume)) = (&mut self.durable, &mut self.resume) else {
            return;
        };
        let Some(checkpoint) = durable.in_flight.take_if(|given| given.seq == seq) else {
            return;
        };
        if matches!(self.phase, Phase::Closed(_)) {
            return;
        }
        durable.exists = true;
        resume.on_stored(checkpoint.received, checkpoint.sent);
        if resume.owes_confirmation() {
            self.confirm();
        }
        self.answer_keepalives();
        self.finish_drain();
    }

    /// The peer asks what was received: answered once that is stored.
    ///
    /// An answer that says less would make a peer whose log is full ask again
    /// and again while the disk works.
    pub(super) fn on_asked(&mut self, data: &[u8]) {
        let Some(resume) = &self.resume else { return };
        let received = resume.received;
        if let Some(durable) = &mut self.durable {
            let data = Bytes::copy_from_slice(data);
            self.effects.owed += data.len() + Effects::COST;
            durable.asked.push_back((received, data));
        }
        self.answer_keepalives();
    }

    fn answer_keepalives(&mut self) {
        while let (Some(durable), Some(resume)) = (&mut self.durable, &self.resume)
            && let Some((_, data)) = durable
                .asked
                .pop_front_if(|(received, _)| *received <= resume.stored)
        {
            self.effects.owed -= data.len() + Effects::COST;
            self.answer_keepalive(&data);
        }
    }

    /// Nobody waits for answers on a link that is gone.
    pub(super) fn forget_asked(&mut self) {
        if let Some(durable) = &mut self.durable {
            for (_, data) in durable.asked.drain(..) {
                self.effects.owed -= data.len() + Effects::COST;
            }
        }
    }

    #[cfg(any(test, feature = "testkit"))]
    pub(super) fn asked_cost(&self) -> usize {
        let asked = self.durable.iter().flat_map(|durable| &durable.asked);
        asked.map(|(_, data)| data.len() + Effects::COST).sum()
    }

    /// Writes what streams have to say into the log, as far as it has room:
    /// from there it is stored, and then sent.
    ///
    /// The fragments of a payload stay together, so no batch ends within one.
    pub fn append_output(&mut self) {
        if self.durable.is_none() || !self.is_accepted() {
            return;
        }
        let max_len = frame_limit(self.link_max, &self.config);
        let max_resume_len = self.config.limits.max_resume_len;
        let mut appended = false;
        while let Some(resume) = &mut self.resume {
            let amid = self.streams.is_amid_payload();
            if !amid && resume.is_full(max_resume_len) {
                break;
            }
            let log = &mut resume.log;
            let push = |frame: &crate::transport::OutFrame<'_>| {
                log.push(frame);
                Poll::Ready(Ok::<(), Infallible>(()))
            };
            if let Some(answer) = self.effects.answers.front().filter(|_| !amid) {
                let _ = answer.send(push);
                self.effects.pop_answer();
            } else {
                match self.streams.transmit(max_len, push) {
                    Ok(Progress::Sent) => {}
                    Ok(Progress::Idle | Progress::Blocked) | Err(_) => break,
                }
            }
            appended = true;
        }
        if appended {
            self.touch();
            self.finish_drain();
        }
    }

    fn state_row(&self) -> Vec<u8> {
        let mut row = Writer::new();
        row.u64(FORMAT);
        row.bool(self.side == Side::Server);
        row.u64(self.streams.next_id().into());
        row.u64(self.link_max as u64);
        if let Some(resume) = &self.resume {
            row.u64(resume.received.get());
            row.u64(resume.log.first().get());
            row.u64(resume.log.end());
        }
        row.into_vec()
    }

    /// Makes the session again whose rows these are, in key order. It waits for
    /// a link as one that lost its own just now: for the session timeout.
    ///
    /// # Errors
    ///
    /// When the rows are none that [`checkpoint`](Self::checkpoint) gave.
    pub fn restore(
        now: Instant,
        mut config: Config,
        token: Bytes,
        rows: Vec<(Key, Bytes)>,
    ) -> Result<RestoredSession, Damaged> {
        let mut options = config.resume.take().unwrap_or_default();
        options.durable = true;
        config.resume = Some(options.clone());
        let mut durable = Durable::default();
        let mut rows = rows.into_iter().peekable();

        let mut meta = |key: Key| rows.next_if(|(found, _)| *found == key).map(|(_, row)| row);
        let state = meta(rows::STATE).ok_or(Damaged("it has no state"))?;
        let setup_row = meta(rows::SETUP).ok_or(Damaged("it has no SETUP"))?;
        let answers = meta(rows::ANSWERS);
        let state = State::read(state, &mut durable)?;
        let Ok(Frame::Setup(setup)) = Frame::decode(&setup_row) else {
            return Err(Damaged("its SETUP is none"));
        };
        let lease = setup.lease;
        let setup = Setup::from_frame(&setup, &InFrame::Shared(setup_row.clone()));

        let mut frames = Vec::new();
        while let Some((key, frame)) = rows.next_if(|(key, _)| key.table == LOG) {
            frames.push((key.b, frame));
        }
        let log =
            FrameLog::restored(state.first, state.end, frames.into_iter()).map_err(Damaged)?;
        durable.log_first = state.first;

        let link = LinkLimits {
            max_frame_len: state.link_max,
        };
        let mut session = Self::new(state.side, config, link, Phase::Open);
        session.streams.make_durable();
        session.established = true;
        let lifetime = frame::Millis31::from_duration(setup.max_lifetime);
        let interval = frame::Millis31::from_duration(setup.keepalive_interval);
        let (Some(lifetime), Some(interval)) = (lifetime, interval) else {
            return Err(Damaged("its SETUP has no intervals"));
        };
        session.keepalive = Some(match state.side {
            Side::Client => Keepalive::client(now, interval, lifetime),
            Side::Server => Keepalive::server(now, lifetime),
        });
        let until = now + options.session_timeout;
        let resumption = Resumption::restored(token, options, log, state.received, until);
        session.resume = Some(Box::new(resumption));
        if let Some(row) = answers {
            durable.answers = row.to_vec();
            session.effects.read_answers(row)?;
        }

        let mut streams = Vec::new();
        while let Some((key, row)) = rows.next_if(|(key, _)| key.table == STREAM) {
            let mut of_stream = vec![(key, row)];
            while let Some(row) = rows.next_if(|(next, _)| next.table == STREAM && next.a == key.a)
            {
                of_stream.push(row);
            }
            let limits = &session.config.limits;
            streams.extend(session.streams.restore(
                key.a,
                of_stream,
                limits,
                &mut durable.streams,
            )?);
        }
        match rows.next() {
            Some((key, _)) if key.table == META => return Err(Damaged("a row is unknown")),
            Some(_) => return Err(Damaged("a table is unknown")),
            None => {}
        }
        session
            .streams
            .go_on_with_id(state.next_id)
            .ok_or(Damaged("the next stream id is not of this side"))?;
        if lease {
            session.streams.use_lease(now, &session.config);
        }
        durable.changed = true;
        durable.exists = true;
        session.durable = Some(Box::new(durable));
        Ok(RestoredSession {
            session,
            setup,
            streams,
        })
    }

    /// The index of the payload that is taken next from a stream: so many were
    /// taken before, by this process or an earlier one.
    pub fn taken(&mut self, key: StreamKey) -> u64 {
        self.streams.position(key)
    }

    /// Payloads that were handed over to be sent on a stream, by this process or
    /// an earlier one; the first of a channel is in its request.
    pub fn sent(&mut self, key: StreamKey) -> u64 {
        self.streams.sent(key)
    }
}

/// The row that changes all the time.
struct State {
    side: Side,
    next_id: StreamId,
    link_max: usize,
    received: Position,
    first: u64,
    end: u64,
}

impl State {
    fn read(row: Bytes, durable: &mut Durable) -> Result<Self, Damaged> {
        const POSITION: Damaged = Damaged("a position is out of range");
        durable.state = row.to_vec();
        let mut row = Reader::new(row);
        if row.u64()? != FORMAT {
            return Err(Damaged("it was written by another version"));
        }
        let state = Self {
            side: match row.bool()? {
                true => Side::Server,
                false => Side::Client,
            },
            next_id: StreamId::new(row.u32()?).ok_or(Damaged("a stream id is out of range"))?,
            link_max: row.usize()?.min(MAX_FRAME_LEN),
            received: Position::new(row.u64()?).ok_or(POSITION)?,
            first: row.u64()?,
            end: Position::new(row.u64()?).ok_or(POSITION)?.get(),
        };
        row.end()?;
        if state.first > state.end {
            return Err(POSITION);
        }
        Ok(state)
    }
}
