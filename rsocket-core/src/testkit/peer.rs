//! One session, spoken to frame by frame.

use std::{
    collections::HashMap,
    convert::Infallible,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::notation::{frame, payload, text};
use crate::{
    Payload,
    error::{CloseReason, Error, Failure},
    frame::{Demand, Frame, Interaction, PayloadRef, StreamId},
    proto::{
        Config, DemandPolicy, Event, Open, Progress, ResumeRequest, Session, SetupOptions, Side,
        StreamKey, Take, Wake,
    },
    transport::{InFrame, Limits},
};

/// The peer of a [`Session`] under test: it says frames in the
/// [notation](super::frame) of tests, hears what the session sends, and plays
/// the session's application too.
///
/// The link takes everything unless it is [`stall`](Self::stall)ed, and time
/// passes only when it is told to.
#[derive(Debug)]
pub struct Peer {
    /// The session under test.
    pub session: Session,
    now: Instant,
    stalled: bool,
    keys: HashMap<u32, StreamKey>,
    audits: u64,
}

impl Peer {
    /// Plays the client of a server that accepted SETUP.
    ///
    /// # Panics
    ///
    /// When SETUP is not for the application to decide about.
    pub fn of_server(config: Config) -> Self {
        let mut peer = Self::of_new_server(config);
        peer.say("SETUP");
        assert!(matches!(peer.event(), Some(Event::Setup(_))));
        peer.session.accept(peer.now);
        peer
    }

    /// Plays the client of a server that waits for the first frame.
    pub fn of_new_server(config: Config) -> Self {
        let now = Instant::now();
        Self::new(Session::server(now, config, Limits::default()), now)
    }

    /// Plays the server of a client whose SETUP it took.
    ///
    /// # Panics
    ///
    /// When the client says anything else.
    pub fn of_client(config: Config) -> Self {
        let mut peer = Self::of_new_client(config, &SetupOptions::default());
        let setup = peer.heard();
        assert_eq!(setup.len(), 1, "SETUP and no more: {setup:?}");
        peer
    }

    /// Plays the server of a client that said nothing yet.
    pub fn of_new_client(config: Config, setup: &SetupOptions) -> Self {
        Self::of_client_on(config, setup, Limits::default())
    }

    /// Plays the server of a client on a link of its own limits.
    pub fn of_client_on(config: Config, setup: &SetupOptions, limits: Limits) -> Self {
        let now = Instant::now();
        Self::new(Session::client(now, config, setup, limits), now)
    }

    fn new(session: Session, now: Instant) -> Self {
        Self {
            session,
            now,
            stalled: false,
            keys: HashMap::new(),
            audits: 0,
        }
    }

    /// The time at the session.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The first stream id that this peer may use, as the number after it in
    /// steps of two.
    pub fn first_id(&self) -> u32 {
        match self.session.side() {
            Side::Client => 2,
            Side::Server => 1,
        }
    }

    // ----- the wire ---------------------------------------------------------

    /// Sends one frame to the session.
    ///
    /// # Panics
    ///
    /// When the session wants no input, or when its books are wrong after it.
    pub fn say(&mut self, text: &str) {
        self.say_bytes(&frame(text));
    }

    /// Sends several frames to the session.
    ///
    /// # Panics
    ///
    /// As [`say`](Self::say).
    pub fn say_all<'t>(&mut self, texts: impl IntoIterator<Item = &'t str>) {
        texts.into_iter().for_each(|text| self.say(text));
    }

    /// Sends any bytes as a frame.
    ///
    /// # Panics
    ///
    /// As [`say`](Self::say).
    pub fn say_bytes(&mut self, bytes: &[u8]) {
        assert!(self.session.wants_input(), "the session wants no input");
        // Both ways of handing a frame over have to come to the same.
        if bytes.len().is_multiple_of(2) {
            let frame = InFrame::Borrowed(bytes);
            self.session.handle_frame(self.now, &frame);
        } else {
            let frame = InFrame::Shared(Bytes::copy_from_slice(bytes));
            self.session.handle_frame(self.now, &frame);
        }
        self.audit();
    }

    /// Checks the books; of many streams only now and then, since it takes long.
    fn audit(&mut self) {
        self.audits += 1;
        if self.session.books().slots < 64 || self.audits.is_multiple_of(64) {
            self.session.assert_consistent();
        }
    }

    /// Sends a frame unless the session wants no input; says whether it did.
    pub fn offer(&mut self, bytes: &[u8]) -> bool {
        let wants = self.session.wants_input();
        if wants {
            self.say_bytes(bytes);
        }
        wants
    }

    /// Sends a frame, and returns what the session says to it.
    pub fn ask(&mut self, text: &str) -> Vec<String> {
        self.say(text);
        self.heard()
    }

    /// Takes nothing more from the session, or all again.
    pub fn stall(&mut self, stalled: bool) {
        self.stalled = stalled;
    }

    /// All frames that the session sends now.
    pub fn heard_bytes(&mut self) -> Vec<Vec<u8>> {
        let mut heard = Vec::new();
        let stalled = self.stalled;
        loop {
            let progress = self.session.transmit(|frame| {
                if stalled {
                    return Poll::Pending;
                }
                heard.push(frame.to_vec());
                Poll::Ready(Ok::<(), Infallible>(()))
            });
            self.audit();
            let Ok(progress) = progress;
            if progress != Progress::Sent {
                return heard;
            }
        }
    }

    /// All frames that the session sends now, as text.
    pub fn heard(&mut self) -> Vec<String> {
        self.heard_bytes().iter().map(|bytes| text(bytes)).collect()
    }

    /// The link breaks.
    pub fn hang_up(&mut self) {
        self.session.handle_disconnect(self.now, CloseReason::Peer);
    }

    /// The session, a client's, gets another link.
    ///
    /// # Panics
    ///
    /// When it needs none.
    pub fn new_link(&mut self) {
        assert!(self.session.needs_link(), "it needs no link");
        self.session.resume(self.now, Limits::default());
        self.audit();
    }

    /// The session, a server's, gets another link, on which this RESUME came.
    ///
    /// # Errors
    ///
    /// What the session refuses it with.
    ///
    /// # Panics
    ///
    /// When `text` is no RESUME.
    pub fn come_back(&mut self, text: &str) -> Result<(), Failure> {
        let bytes = frame(text);
        let Ok(Frame::Resume(resume)) = Frame::decode(&bytes) else {
            panic!("no RESUME: {text}");
        };
        let request = ResumeRequest {
            token: Bytes::copy_from_slice(resume.token),
            last_received_server: resume.last_received_server,
            first_available_client: resume.first_available_client,
        };
        let limits = Limits::default();
        let resumed = self.session.accept_resume(self.now, &request, limits);
        self.audit();
        resumed
    }

    /// Lets time pass, and the session act on it.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.session.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(deadline);
            self.session.handle_timeout(self.now);
        }
        self.now = end;
        self.session.handle_timeout(end);
    }

    // ----- the session's application ---------------------------------------

    /// The next event; the key of its stream is kept for [`key`](Self::key).
    pub fn event(&mut self) -> Option<Event> {
        let event = self.session.poll_event()?;
        if let Event::Request { key, .. } | Event::Channel { key } = &event {
            self.keys.insert(key.id.get(), *key);
        }
        Some(event)
    }

    /// All events, as text: `Setup`, `REQUEST_STREAM 1 d=x`,
    /// `REQUEST_CHANNEL 1`, `METADATA_PUSH m=x`, `Closed: why`.
    pub fn events(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.event())
            .map(|event| match event {
                Event::Setup(_) => "Setup".to_owned(),
                Event::Resume(_) => "Resume".to_owned(),
                Event::Request {
                    key,
                    interaction,
                    payload,
                } => {
                    let frame_type = crate::frame::FrameType::from(interaction);
                    format!("{frame_type} {}{}", key.id, show(&payload))
                }
                Event::Channel { key } => format!("REQUEST_CHANNEL {}", key.id),
                Event::MetadataPush(metadata) => {
                    format!("METADATA_PUSH m={}", String::from_utf8_lossy(&metadata))
                }
                Event::LeaseDue => "LeaseDue".to_owned(),
                Event::Closed(reason) => format!("Closed: {reason}"),
            })
            .collect()
    }

    /// Opens a stream of the session's own; returns its id.
    ///
    /// # Panics
    ///
    /// When it cannot be opened.
    pub fn open(&mut self, interaction: Interaction, data: &str) -> u32 {
        self.open_with(request(interaction, data))
    }

    /// Opens a stream of the session's own; returns its id.
    ///
    /// # Panics
    ///
    /// When it cannot be opened.
    pub fn open_with(&mut self, open: Open) -> u32 {
        let key = self.session.open(open).expect("a stream can be opened");
        self.keys.insert(key.id.get(), key);
        key.id.get()
    }

    /// The key of a stream that was opened, or whose event was taken.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn key(&self, id: u32) -> StreamKey {
        match self.keys.get(&id) {
            Some(key) => *key,
            None => panic!("nobody told the application of stream {id}"),
        }
    }

    /// What the application takes from a stream: `d=x`, `Complete`,
    /// `Pending`, or `Failed: why`.
    pub fn take(&mut self, id: u32) -> String {
        let key = self.key(id);
        let take = self.session.poll_take(key);
        self.audit();
        match take {
            Take::Payload(payload) => show(&payload).trim_start().to_owned(),
            Take::Complete => "Complete".to_owned(),
            Take::Pending => "Pending".to_owned(),
            Take::Failed(error) => format!("Failed: {}", cause(&error)),
        }
    }

    /// Takes until there is no payload more, or the stream is over.
    pub fn take_all(&mut self, id: u32) -> Vec<String> {
        let mut taken = Vec::new();
        loop {
            let take = self.take(id);
            let over = take == "Complete" || take == "Pending" || take.starts_with("Failed");
            taken.push(take);
            if over {
                return taken;
            }
        }
    }

    /// Sends a payload on a stream.
    ///
    /// # Panics
    ///
    /// When it is too long.
    pub fn send(&mut self, id: u32, data: &str) {
        let key = self.key(id);
        let payload = Payload::copy_from_slice(data.as_bytes());
        self.session.send(key, payload).expect("it is short");
        self.session.assert_consistent();
    }

    /// All wake-ups that are due, in no order.
    pub fn wakes(&mut self) -> Vec<Wake> {
        std::iter::from_fn(|| self.session.poll_wake()).collect()
    }
}

/// A request, with a demand of one payload, and no more than is asked for.
pub fn request(interaction: Interaction, data: &str) -> Open {
    Open {
        interaction,
        payload: Payload::copy_from_slice(data.as_bytes()),
        demand: DemandPolicy::Manual {
            initial: Demand::ONE,
        },
        complete: false,
    }
}

/// A stream id.
///
/// # Panics
///
/// When it is none.
pub fn id(id: u32) -> StreamId {
    StreamId::new(id).expect("a stream id")
}

fn show(shown: &Payload) -> String {
    let shown = payload(&PayloadRef {
        metadata: shown.metadata(),
        data: shown.data(),
    });
    match shown.as_str() {
        "" => " empty".to_owned(),
        _ => shown,
    }
}

/// The most telling part of an error.
fn cause(error: &Error) -> String {
    match error {
        Error::Peer(failure) => failure.to_string(),
        Error::Misbehaved(why) => why.to_string(),
        Error::Closed(reason) => reason.to_string(),
        other => other.to_string(),
    }
}
