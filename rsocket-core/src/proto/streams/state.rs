//! The life of one stream: which halves are open, and what closes them.
//!
//! A stream has two halves, ours ("send") and the peer's ("recv"). Interactions
//! differ only in which halves are open at the start:
//!
//! | interaction       | requester starts in | responder starts in |
//! |-------------------|---------------------|---------------------|
//! | fire-and-forget   | `SendDone`          | (no stream is kept) |
//! | request-response  | `SendDone`          | `RecvDone`          |
//! | request-stream    | `SendDone`          | `RecvDone`          |
//! | request-channel   | `Open`              | `Open`              |
//!
//! ```text
//!               send COMPLETE
//!        Open ----------------> SendDone ---.
//!         |                                 | recv COMPLETE
//!         | recv COMPLETE                   v
//!         '-----------> RecvDone ------> Closed
//!                         send COMPLETE
//! ```
//!
//! ERROR from either side closes both halves. CANCEL from the requester closes
//! both; CANCEL from the responder of a channel closes only the requester's
//! sending half \[C240].
//!
//! Spec: "Stream Sequences and Lifetimes", "Request Channel" \[C230-C241].

use crate::frame::Interaction;

/// Which end of a stream this side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opened the stream.
    Requester,
    /// Serves it.
    Responder,
}

/// Where a stream stands; what may be sent and received follows from it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Payloads may go both ways.
    Open,
    /// Our half is over; the peer may still send.
    SendDone,
    /// The peer's half is over; we may still send.
    RecvDone,
    /// Over. The id may be forgotten.
    Closed,
}

/// What can happen to a stream. `Recv*` come from frames, `Send*` from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the frames of the spec")]
pub enum StreamEvent {
    SendComplete,
    SendError,
    SendCancel,
    RecvComplete,
    RecvError,
    RecvCancel,
}

impl State {
    /// The state in which a stream starts.
    pub const fn initial(role: Role, interaction: Interaction) -> Self {
        match (interaction, role) {
            (Interaction::RequestChannel, _) => Self::Open,
            (
                Interaction::FireAndForget
                | Interaction::RequestResponse
                | Interaction::RequestStream,
                Role::Requester,
            ) => Self::SendDone,
            (
                Interaction::FireAndForget
                | Interaction::RequestResponse
                | Interaction::RequestStream,
                Role::Responder,
            ) => Self::RecvDone,
        }
    }

    /// The state after `event`; `None` when the event has no place here.
    ///
    /// The caller drops an ill-placed frame without a word, as the spec asks
    /// ("Handling the Unexpected" \[C330]); an ill-placed `Send*` has no effect.
    #[deny(clippy::wildcard_enum_match_arm)]
    pub const fn after(self, role: Role, event: StreamEvent) -> Option<Self> {
        use StreamEvent::*;
        Some(match (self, event) {
            (Self::Closed, _) => return None,
            (Self::Open | Self::SendDone | Self::RecvDone, SendError | RecvError) => Self::Closed,
            (state, SendCancel) => match role {
                Role::Requester => Self::Closed,
                Role::Responder => return state.recv_ended(),
            },
            (state, RecvCancel) => match role {
                Role::Responder => Self::Closed,
                Role::Requester => return state.send_ended(),
            },
            (state, SendComplete) => return state.send_ended(),
            (state, RecvComplete) => return state.recv_ended(),
        })
    }

    const fn send_ended(self) -> Option<Self> {
        match self {
            Self::Open => Some(Self::SendDone),
            Self::RecvDone => Some(Self::Closed),
            Self::SendDone | Self::Closed => None,
        }
    }

    const fn recv_ended(self) -> Option<Self> {
        match self {
            Self::Open => Some(Self::RecvDone),
            Self::SendDone => Some(Self::Closed),
            Self::RecvDone | Self::Closed => None,
        }
    }

    /// Whether a payload may be sent, credit permitting.
    pub const fn can_send(self) -> bool {
        matches!(self, Self::Open | Self::RecvDone)
    }

    /// Whether a payload may arrive.
    pub const fn can_receive(self) -> bool {
        matches!(self, Self::Open | Self::SendDone)
    }

    /// Whether both halves are over.
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::Closed)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    // The whole machine on one screen. Change it only with the spec open.
    // [C232, C233, C236, C238, C239, C240, C241]
    const TABLE: &str = "\
Requester Open SendComplete -> SendDone
Requester Open SendError -> Closed
Requester Open SendCancel -> Closed
Requester Open RecvComplete -> RecvDone
Requester Open RecvError -> Closed
Requester Open RecvCancel -> SendDone
Requester SendDone SendComplete -> no
Requester SendDone SendError -> Closed
Requester SendDone SendCancel -> Closed
Requester SendDone RecvComplete -> Closed
Requester SendDone RecvError -> Closed
Requester SendDone RecvCancel -> no
Requester RecvDone SendComplete -> Closed
Requester RecvDone SendError -> Closed
Requester RecvDone SendCancel -> Closed
Requester RecvDone RecvComplete -> no
Requester RecvDone RecvError -> Closed
Requester RecvDone RecvCancel -> Closed
Requester Closed SendComplete -> no
Requester Closed SendError -> no
Requester Closed SendCancel -> no
Requester Closed RecvComplete -> no
Requester Closed RecvError -> no
Requester Closed RecvCancel -> no
Responder Open SendComplete -> SendDone
Responder Open SendError -> Closed
Responder Open SendCancel -> RecvDone
Responder Open RecvComplete -> RecvDone
Responder Open RecvError -> Closed
Responder Open RecvCancel -> Closed
Responder SendDone SendComplete -> no
Responder SendDone SendError -> Closed
Responder SendDone SendCancel -> Closed
Responder SendDone RecvComplete -> Closed
Responder SendDone RecvError -> Closed
Responder SendDone RecvCancel -> Closed
Responder RecvDone SendComplete -> Closed
Responder RecvDone SendError -> Closed
Responder RecvDone SendCancel -> no
Responder RecvDone RecvComplete -> no
Responder RecvDone RecvError -> Closed
Responder RecvDone RecvCancel -> Closed
Responder Closed SendComplete -> no
Responder Closed SendError -> no
Responder Closed SendCancel -> no
Responder Closed RecvComplete -> no
Responder Closed RecvError -> no
Responder Closed RecvCancel -> no
";

    #[test]
    fn transitions_are_those_of_the_table() {
        use StreamEvent::*;
        let mut got = String::new();
        for role in [Role::Requester, Role::Responder] {
            for state in [State::Open, State::SendDone, State::RecvDone, State::Closed] {
                for event in [
                    SendComplete,
                    SendError,
                    SendCancel,
                    RecvComplete,
                    RecvError,
                    RecvCancel,
                ] {
                    match state.after(role, event) {
                        Some(next) => writeln!(got, "{role:?} {state:?} {event:?} -> {next:?}"),
                        None => writeln!(got, "{role:?} {state:?} {event:?} -> no"),
                    }
                    .unwrap();
                }
            }
        }
        assert_eq!(got, TABLE);
    }
}
