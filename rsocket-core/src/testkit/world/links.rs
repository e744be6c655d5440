//! The links of a world: how they break, and how new ones are made.

use std::{
    convert::Infallible,
    task::Poll,
    time::{Duration, Instant},
};

use super::{Fate, World};
use crate::{
    CloseReason, Failure,
    frame::Frame,
    proto::{Event, Progress, Session},
    testkit::{
        Random,
        link::{Arrival, LinkFaults, Wire},
    },
    transport::InFrame,
};

/// Longer than all that happens, so that no session is given up by mistake.
pub(super) const SESSION_TIMEOUT: Duration = Duration::from_secs(100_000);

/// All links that there ever were.
#[derive(Debug)]
pub(super) struct Links {
    /// From the side of that index to the other.
    wires: Vec<[Wire; 2]>,
    faults: [LinkFaults; 2],
    /// Which link each side has.
    of: [Option<usize>; 2],
    /// Connections on which the server has not heard yet what the client wants.
    visitors: Vec<(usize, Session)>,
    /// Links break, once in so many steps.
    cut_once_in: Option<usize>,
    /// How many more times they break.
    cuts_left: usize,
    mortal: bool,
    lost_goodbye: bool,
}

impl Links {
    pub(super) fn new(random: &mut Random, faults: [LinkFaults; 2], mortal: bool) -> Self {
        Self {
            wires: vec![faults.map(Wire::new)],
            faults,
            of: [Some(0), Some(0)],
            visitors: Vec::new(),
            cut_once_in: mortal.then(|| random.length(1_000) + 10),
            cuts_left: random.length(40),
            mortal,
            lost_goodbye: false,
        }
    }

    pub(super) fn sending(&mut self, side: usize) -> Option<&mut Wire> {
        let link = self.of[side]?;
        Some(&mut self.wires[link][side])
    }

    pub(super) fn receiving(&mut self, side: usize) -> Option<&mut Wire> {
        let link = self.of[side]?;
        Some(&mut self.wires[link][1 - side])
    }

    /// The side knows that its link is gone.
    pub(super) fn part(&mut self, side: usize) {
        self.of[side] = None;
    }

    /// Whether sessions outlive their links.
    pub(super) fn are_mortal(&self) -> bool {
        self.mortal
    }

    /// Whether one side was done while the other could not know.
    pub(super) fn lost_goodbye(&self) -> bool {
        self.lost_goodbye
    }

    pub(super) fn lose_all(&mut self) {
        self.wires.iter_mut().flatten().for_each(Wire::lose);
    }

    pub(super) fn calm(&mut self) {
        for faults in &mut self.faults {
            faults.refuse_once_in = 0;
        }
        self.wires.iter_mut().flatten().for_each(Wire::calm);
    }

    /// From now on no link breaks.
    pub(super) fn hold(&mut self) {
        self.cut_once_in = None;
    }

    pub(super) fn next_arrival(&self, now: Instant) -> Option<Instant> {
        let arrivals = self.wires.iter().flatten().filter_map(Wire::next_arrival);
        arrivals.filter(|at| *at > now).min()
    }
}

impl World {
    /// Links break and are made anew; at `once`, or some time.
    pub(super) fn mend(&mut self, at_once: bool) -> bool {
        if !self.links.mortal {
            return false;
        }
        let mut busy = self.cut(at_once);
        if self.ends[0].session.needs_link() && (at_once || self.random.once_in(50)) {
            self.dial();
            busy = true;
        }
        for _ in 0..self.links.visitors.len() {
            if at_once || self.random.once_in(3) {
                busy |= self.listen_to_visitor();
            }
        }
        busy && at_once
    }

    fn cut(&mut self, at_once: bool) -> bool {
        let random = &mut self.random;
        let links = &mut self.links;
        // Who has a link that the other side has left hears of it some time.
        let mut busy = false;
        for side in [0, 1] {
            let Some(link) = links.of[side] else {
                continue;
            };
            let wire = &mut links.wires[link][1 - side];
            let left = links.of[1 - side] != Some(link)
                && !links.visitors.iter().any(|(visited, _)| *visited == link);
            let told_in_vain = wire.is_mute() && self.ends[1 - side].wire_ended;
            if (left || told_in_vain)
                && wire.is_open()
                && self.ends[side].closed.is_none()
                && (at_once || random.once_in(100))
            {
                wire.lose();
                busy = true;
            }
        }
        if let Some(once_in) = links.cut_once_in
            && links.cuts_left > 0
            && random.once_in(once_in)
            && let Some(link) = links.of[0]
        {
            links.cuts_left -= 1;
            let wires = &mut links.wires[link];
            match random.within(0..=2) {
                0 => wires.iter_mut().for_each(Wire::lose),
                // The server believes in it.
                1 => {
                    wires[1].lose();
                    // What is under way from the client may arrive yet.
                    if random.once_in(2) {
                        wires[0].mute();
                    }
                }
                // The client believes in it, until it is told.
                _ => {
                    wires[0].lose();
                    wires[1].mute();
                }
            }
            busy = true;
        }
        busy
    }

    /// The client connects again.
    fn dial(&mut self) {
        let link = self.links.wires.len();
        self.links.wires.push(self.links.faults.map(Wire::new));
        self.links.of[0] = Some(link);
        let [client, server] = &mut self.ends;
        client.referee.new_link(None);
        client.session.resume(self.now, client.link);
        let visitor = Session::server(self.now, server.config.clone(), server.link);
        self.links.visitors.push((link, visitor));
    }

    /// The first frame of a link shows which session it is for.
    fn listen_to_visitor(&mut self) -> bool {
        let (link, mut visitor) = self.links.visitors.remove(0);
        match self.links.wires[link][0].receive(self.now) {
            Arrival::Nothing(_) => {
                // The client may have left it.
                let alive = self.links.of[0] == Some(link);
                if alive {
                    self.links.visitors.push((link, visitor));
                }
                return !alive;
            }
            Arrival::Frame(bytes) => {
                visitor.handle_frame(self.now, &InFrame::Borrowed(&bytes));
                match visitor.poll_event() {
                    Some(Event::Setup(_)) => self.start_over(link, visitor, &bytes),
                    Some(Event::Resume(request)) => {
                        let end = &mut self.ends[1];
                        let resumed = end.session.accept_resume(self.now, &request, end.link);
                        match resumed {
                            Ok(()) => {
                                visitor.hand_over();
                                let client_has = request.last_received_server.get();
                                end.referee.new_link(Some(client_has));
                                self.links.of[1] = Some(link);
                            }
                            Err(failure) => {
                                visitor.refuse(&failure);
                                if !end.accepted {
                                    self.forget_setup();
                                }
                            }
                        }
                        self.let_speak(link, &mut visitor);
                    }
                    other => panic!("a link begins with {other:?}"),
                }
            }
            Arrival::End | Arrival::Lost => {}
        }
        true
    }

    /// What a visitor that has no session says.
    fn let_speak(&mut self, link: usize, visitor: &mut Session) {
        let (wire, random) = (&mut self.links.wires[link][1], &mut self.random);
        let mut spoke = false;
        loop {
            let Ok(progress) = visitor.transmit(|frame| {
                spoke = true;
                wire.put(self.now, random, frame.to_vec());
                Poll::Ready(Ok::<(), Infallible>(()))
            });
            if progress == Progress::Idle {
                break;
            }
        }
        if spoke {
            wire.end();
        }
    }

    /// SETUP again: the server never accepted the one before.
    fn start_over(&mut self, link: usize, mut visitor: Session, bytes: &[u8]) {
        assert!(matches!(Frame::decode(bytes), Ok(Frame::Setup(_))));
        let end = &mut self.ends[1];
        if end.session.is_closed() {
            visitor.refuse(&Failure::rejected("closed"));
            self.let_speak(link, &mut visitor);
            return;
        }
        assert!(!end.accepted, "the server knows the session");
        end.session = visitor;
        end.deciding = true;
        self.links.of[1] = Some(link);
    }

    /// The server has no session yet, and will have none from the link that it
    /// had.
    pub(super) fn forget_setup(&mut self) {
        let end = &mut self.ends[1];
        if !end.session.is_closed() {
            end.deciding = false;
            end.session = Session::server(self.now, end.config.clone(), end.link);
        }
        self.links.part(1);
    }

    /// A side that is done need not tell the other, if it cannot: that one
    /// waits for as long as a session may be apart.
    pub(super) fn wait_for_the_lost(&mut self) {
        let [client, server] = &self.ends;
        let closing = matches!(self.fate, Fate::Cuts { close: Some(_) });
        if !closing || client.closed.is_none() || server.closed.is_some() {
            return;
        }
        if server.session.needs_link() {
            self.links.lost_goodbye = true;
            self.now += SESSION_TIMEOUT;
        } else if !server.accepted && self.links.of[1].is_none() {
            // It never heard of the client.
            self.links.lost_goodbye = true;
            self.ends[1].session.end(CloseReason::SetupTimeout);
        }
        self.come_to_rest();
    }
}
