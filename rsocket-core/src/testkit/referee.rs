//! Whether what one side sends is legal, given what it was sent.

mod replay;

use std::collections::HashMap;

use self::replay::Replay;
use super::text;
use crate::{
    frame::{ErrorCode, Frame, Header, Interaction, StreamId},
    proto::Side,
};

/// Watches one side of a connection from outside: every frame that it sends,
/// and every frame that it is given.
///
/// It knows the rules of the wire and nothing of the session, so a bug of the
/// session does not excuse itself. Frames that the side is given may be any
/// nonsense; only what it sends is judged.
#[derive(Debug)]
pub struct Referee {
    side: Side,
    /// Of any frame.
    max_len: usize,
    /// Of frames that carry payloads.
    fragment_len: usize,
    lines: HashMap<u32, Line>,
    /// What the application ended of requests that were not sent yet.
    early: HashMap<u32, (bool, bool)>,
    /// Requests that were refused, and whose ERROR was not sent yet.
    refusals: HashMap<u32, u32>,
    last_id: u32,
    sent: u64,
    keepalives_owed: u64,
    over: bool,
    /// Where leases were agreed on: requests that the last one leaves to the
    /// side. When its time is over is for the side to know.
    lease: Option<u32>,
    given_any: bool,
    late: u64,
    /// Of a session that can be resumed.
    replay: Option<Replay>,
    /// Others judge what is resumed, and know what was leased.
    is_strange: bool,
    resumable: bool,
    /// Nothing was said yet on a link that is not the first.
    new_link: bool,
}

/// One stream, as far as the wire shows it.
#[derive(Debug)]
struct Line {
    /// Whether the watched side opened it.
    mine: bool,
    interaction: Interaction,
    /// All fragments of the request went by.
    request_whole: bool,
    /// The watched side is between the fragments of a payload.
    mid: bool,
    credit: u64,
    send_over: bool,
    recv_over: bool,
    cancel_sent: bool,
    /// By ERROR, or by what has the same effect: nothing more may be sent.
    dead: bool,
    /// The side's application ended the receiving half; the wire may not show
    /// it yet.
    gave_up: bool,
    /// Likewise the sending half.
    has_sent: bool,
}

impl Referee {
    /// Watches `side`, whose frames have at most `max_len` bytes, and those
    /// that carry payloads at most `fragment_len`.
    pub fn new(side: Side, max_len: usize, fragment_len: usize) -> Self {
        Self {
            side,
            max_len,
            fragment_len,
            lines: HashMap::new(),
            early: HashMap::new(),
            refusals: HashMap::new(),
            last_id: 0,
            sent: 0,
            keepalives_owed: 0,
            over: false,
            lease: None,
            given_any: false,
            late: 0,
            replay: None,
            is_strange: false,
            resumable: false,
            new_link: false,
        }
    }

    /// Watches a session whose peer may say anything, at any time: what it sends
    /// again on another link is for others to judge, and requests that it may
    /// start are those that [`leased`](Self::leased) says.
    #[must_use]
    pub fn of_tormented(mut self) -> Self {
        self.is_strange = true;
        self
    }

    /// The tormented session may outlive its link.
    pub fn resumable(&mut self) {
        self.resumable = true;
    }

    /// Leases were agreed on for the tormented session.
    pub fn use_leases(&mut self) {
        self.lease = Some(0);
    }

    /// The tormented side got another link.
    pub fn another_link(&mut self) {
        self.new_link = true;
        self.leased(0);
    }

    /// From now on the tormented side may start so many requests, if leases were
    /// agreed on.
    pub fn leased(&mut self, requests: u32) {
        if let Some(lease) = &mut self.lease {
            *lease = requests;
        }
    }

    /// Watches a session that can be resumed.
    #[must_use]
    pub fn of_resumable(mut self) -> Self {
        self.replay = Some(Replay::new(self.side));
        self
    }

    /// The session goes on over a new link; a server's, because RESUME said so,
    /// which says that the client has received so much.
    pub fn new_link(&mut self, client_has: Option<u64>) {
        self.sent = 0;
        self.keepalives_owed = 0;
        if let Some(replay) = &mut self.replay {
            replay.new_link(client_has);
        }
    }

    /// Frames given to the side which it had reason to ignore.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// The side's application ended the receiving half of a stream.
    pub fn gave_up(&mut self, id: StreamId) {
        match self.lines.get_mut(&id.get()) {
            Some(line) => line.gave_up = true,
            None => self.early(id).0 = true,
        }
    }

    /// The side took the request that it was given last, although the id looked
    /// to be in use from outside.
    pub fn took(&mut self, last: &[u8]) {
        if let Ok(Frame::Request(request)) = Frame::decode(last)
            && !self.is_mine(request.stream_id)
        {
            self.lines.remove(&request.stream_id.get());
            self.given(last);
        }
    }

    /// The side refused a request, with the frame that it was given last; the
    /// wire may not show it yet, and more may be coming.
    pub fn refused(&mut self, last: &[u8]) {
        let header = Header::decode(last).ok();
        if let Some(id) = header.and_then(|header| StreamId::new(header.stream_id)) {
            self.gave_up(id);
            self.has_sent(id);
            *self.refusals.entry(id.get()).or_default() += 1;
        }
    }

    /// The side's application ended the sending half of a stream.
    pub fn has_sent(&mut self, id: StreamId) {
        match self.lines.get_mut(&id.get()) {
            Some(line) => line.has_sent = true,
            None => self.early(id).1 = true,
        }
    }

    fn early(&mut self, id: StreamId) -> &mut (bool, bool) {
        self.early.entry(id.get()).or_default()
    }

    fn is_mine(&self, id: StreamId) -> bool {
        id.is_client() == (self.side == Side::Client)
    }

    // ----- what it is given -------------------------------------------------

    /// The side is given a frame.
    pub fn given(&mut self, bytes: &[u8]) {
        if let Ok(frame) = Frame::decode(bytes) {
            if let Some(replay) = &mut self.replay {
                replay.given(&frame, bytes.len());
            }
            self.given_frame(&frame);
        }
    }

    fn theirs(
        &mut self,
        id: StreamId,
        interaction: Interaction,
        credit: u64,
        whole: bool,
        complete: bool,
    ) {
        // A peer may use an id again as soon as its stream looks over to it.
        let in_use = |line: &Line| {
            let over = line.dead || line.gave_up || (line.send_over && line.recv_over);
            !over
        };
        if self.lines.get(&id.get()).is_some_and(in_use) {
            self.late += 1;
            return;
        }
        let line = Line {
            mine: false,
            interaction,
            request_whole: whole,
            mid: false,
            credit,
            send_over: interaction == Interaction::FireAndForget,
            recv_over: whole && (complete || interaction != Interaction::RequestChannel),
            cancel_sent: false,
            dead: false,
            gave_up: false,
            has_sent: false,
        };
        self.lines.insert(id.get(), line);
    }

    fn given_frame(&mut self, frame: &Frame<'_>) {
        if let Frame::Keepalive(keepalive) = frame {
            self.keepalives_owed += u64::from(keepalive.respond);
        }
        match frame {
            _ if self.is_strange => {}
            // A later SETUP is nothing to go by.
            Frame::Setup(setup) if !self.given_any && self.side == Side::Server => {
                self.lease = setup.lease.then_some(0);
            }
            Frame::Lease(lease) if self.lease.is_some() => self.lease = Some(lease.requests),
            _ => {}
        }
        self.given_any = true;
        if let Frame::Request(request) = frame {
            let id = request.stream_id;
            if !self.is_mine(id) {
                let credit = request.initial_n.map_or(0, |n| n.get().into());
                let whole = !request.follows;
                self.theirs(id, request.interaction, credit, whole, request.complete);
            }
            return;
        }
        let Some(id) = frame.stream_id() else {
            return;
        };
        let Some(line) = self.lines.get_mut(&id.get()) else {
            self.late += 1;
            return;
        };
        if line.dead || line.gave_up || (line.recv_over && line.send_over) {
            self.late += 1;
        } else if let Frame::Payload(_) = frame {
            self.late += u64::from(line.recv_over);
        } else if let Frame::RequestN(_) | Frame::Cancel(_) = frame {
            self.late += u64::from(line.send_over || line.has_sent);
        }
        match frame {
            Frame::Payload(payload) => {
                line.request_whole |= !line.mine && !payload.follows;
                let channel = line.interaction == Interaction::RequestChannel;
                line.recv_over |= !line.mine && line.request_whole && !channel;
                let one_answer = line.mine && line.interaction == Interaction::RequestResponse;
                line.recv_over |= payload.complete || (one_answer && !payload.follows);
            }
            Frame::RequestN(request_n) => {
                line.credit = line.credit.saturating_add(request_n.n.get().into());
                if line.credit >= 0x7FFF_FFFF {
                    line.credit = u64::MAX; // No end of it.
                }
            }
            Frame::Cancel(_) => {
                line.send_over = true;
                // What was begun of the request itself still comes.
                line.mid &= line.mine && !line.request_whole;
                // A responder's CANCEL ends one half, a requester's both.
                line.dead |= !line.mine;
            }
            Frame::Error(_) => {
                line.dead = true;
                line.mid = false;
            }
            _ => {}
        }
    }

    // ----- what it sends ------------------------------------------------------

    /// The side sends a frame.
    ///
    /// # Panics
    ///
    /// When it may not.
    pub fn sends(&mut self, bytes: &[u8]) {
        let shown = text(bytes);
        assert!(bytes.len() <= self.max_len, "too long: {shown}");
        assert!(!self.over, "said after the last words: {shown}");
        let first = self.sent == 0;
        self.sent += 1;
        let frame = Frame::decode(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
        if let Some(replay) = &mut self.replay
            && replay.sends(&frame, bytes, first, &shown)
        {
            return;
        }
        let setup = matches!(frame, Frame::Setup(_));
        let client = self.side == Side::Client;
        let strange = self.is_strange;
        let new_link = std::mem::take(&mut self.new_link);
        let resumes = matches!(frame, Frame::Resume(_) | Frame::ResumeOk(_));
        let begins = first || new_link;
        assert!(!setup || (client && begins), "SETUP in the middle: {shown}");
        assert!(setup || resumes || !(client && first), "not SETUP: {shown}");
        match frame {
            Frame::Setup(_) if strange => {}
            Frame::Keepalive(_) if self.resumable => {}
            Frame::Resume(_) if strange => {
                assert!(client && new_link, "nothing to resume: {shown}");
            }
            Frame::ResumeOk(_) if strange => {
                assert!(!client && new_link, "nobody resumes: {shown}");
            }
            Frame::Setup(setup) => self.lease = setup.lease.then_some(0),
            Frame::MetadataPush(_) => {}
            Frame::Lease(_) if self.lease.is_some() => {}
            Frame::Keepalive(keepalive) if keepalive.respond => {
                assert!(client, "only clients ask: {shown}");
            }
            Frame::Keepalive(_) => {
                assert!(self.keepalives_owed > 0, "nobody asked: {shown}");
                self.keepalives_owed -= 1;
            }
            Frame::Request(request) => {
                let id = request.stream_id;
                assert!(self.is_mine(id), "an id of the other side: {shown}");
                if let Some(left) = &mut self.lease {
                    assert!(*left > 0, "beyond the lease: {shown}");
                    *left -= 1;
                }
                assert!(id.get() > self.last_id, "ids go up: {shown}");
                assert!(!(request.follows && request.complete), "{shown}");
                self.fits(request.follows, bytes);
                self.last_id = id.get();
                let channel = request.interaction == Interaction::RequestChannel;
                let (gave_up, has_sent) = *self.early(id);
                let fire_and_forget = request.interaction == Interaction::FireAndForget;
                let line = Line {
                    mine: true,
                    interaction: request.interaction,
                    request_whole: !request.follows,
                    mid: request.follows,
                    credit: 0,
                    send_over: !request.follows && (!channel || request.complete),
                    recv_over: fire_and_forget,
                    cancel_sent: false,
                    dead: false,
                    gave_up,
                    has_sent,
                };
                self.lines.insert(id.get(), line);
            }
            Frame::Error(error) if error.stream_id.is_none() => {
                let code = error.code;
                let setup = ErrorCode::INVALID_SETUP..=ErrorCode::REJECTED_RESUME;
                let known = code == ErrorCode::CONNECTION_ERROR
                    || code == ErrorCode::CONNECTION_CLOSE
                    || (setup.contains(&code) && !client && first);
                assert!(known, "no code for stream 0: {shown}");
                self.over = code != ErrorCode::CONNECTION_CLOSE;
            }
            Frame::Payload(_) | Frame::RequestN(_) | Frame::Cancel(_) | Frame::Error(_) => {
                self.sends_on_stream(&frame, bytes, &shown)
            }
            Frame::Lease(_) | Frame::Resume(_) | Frame::ResumeOk(_) | Frame::Ext(_) => {
                panic!("not agreed on: {shown}")
            }
        }
    }

    /// Fragments are short enough, and full if others follow \[C218].
    fn fits(&self, follows: bool, bytes: &[u8]) {
        let (len, most) = (bytes.len(), self.fragment_len);
        assert!(
            len == most || (len < most && !follows),
            "a fragment of {len} bytes"
        );
    }

    fn sends_on_stream(&mut self, frame: &Frame<'_>, bytes: &[u8], shown: &str) {
        if let Frame::Payload(payload) = frame {
            self.fits(payload.follows, bytes);
        }
        let id = frame.stream_id().map_or(0, StreamId::get);
        if let Frame::Error(error) = frame
            && matches!(error.code, ErrorCode::REJECTED | ErrorCode::INVALID)
            && let Some(refusals) = self.refusals.get_mut(&id)
            && *refusals > 0
        {
            // No stream was kept for it that could have seen what came since.
            *refusals -= 1;
            return;
        }
        let Some(line) = self.lines.get_mut(&id) else {
            panic!("on a stream that nobody opened: {shown}");
        };
        assert!(!line.dead, "on a stream that is over: {shown}");
        let channel = line.interaction == Interaction::RequestChannel;
        match frame {
            Frame::Payload(payload) => {
                let rest_of_request = line.mine && !line.request_whole;
                let allowed = rest_of_request || !line.send_over;
                assert!(allowed, "on a half that is over: {shown}");
                assert!(
                    rest_of_request || channel || !line.mine,
                    "no such half: {shown}"
                );
                assert!(
                    line.request_whole || line.mine,
                    "before the request: {shown}"
                );
                assert!(!(payload.follows && payload.complete), "{shown}");
                assert!(payload.next || !line.mid, "within a payload: {shown}");
                assert!(payload.next || payload.complete, "neither N nor C: {shown}");
                let empty = payload.payload.data.is_empty() && payload.payload.metadata.is_none();
                assert!(payload.next || empty, "content without N: {shown}");
                let answer = line.interaction == Interaction::RequestResponse && !line.mine;
                if payload.next && !line.mid && !rest_of_request && !answer {
                    assert!(line.credit > 0, "without credit: {shown}");
                    if line.credit != u64::MAX {
                        line.credit -= 1;
                    }
                }
                line.mid = payload.follows;
                if rest_of_request && !payload.follows {
                    line.request_whole = true;
                    line.send_over = !channel;
                }
                assert!(
                    !answer || payload.follows || payload.complete,
                    "an answer completes: {shown}"
                );
                line.send_over |= payload.complete;
            }
            Frame::RequestN(_) => {
                assert!(!line.mid, "within a payload: {shown}");
                let receives = channel || (line.mine && line.interaction.has_initial_n());
                assert!(receives && !line.recv_over, "nothing comes: {shown}");
                assert!(!line.cancel_sent, "after CANCEL: {shown}");
            }
            Frame::Cancel(_) => {
                assert!(!line.cancel_sent, "twice: {shown}");
                assert!(line.mine || (channel && !line.mid), "{shown}");
                line.cancel_sent = true;
                line.recv_over = true;
                line.dead = line.mine;
            }
            _ => {
                // It may come within a payload, which is then given up [C221].
                assert!(channel || !line.mine, "a requester's ERROR: {shown}");
                let one_way = line.interaction == Interaction::FireAndForget;
                assert!(!one_way, "an answer to a fire-and-forget: {shown}");
                line.dead = true;
            }
        }
    }
}
