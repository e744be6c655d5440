//! A room where everybody hears everybody: a channel for each page.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use rsocket_core::{Failure, Payload, PayloadStream};
use tokio::sync::broadcast::{self, error::RecvError};

/// What those who come late are told of.
const REMEMBERED: usize = 20;
/// Bytes of one message: with what is remembered and what waits for slow pages,
/// the bound on what the room holds.
const LONGEST: usize = 2_000;

/// Everybody who is here, and what was said last. Clones are the same room.
#[derive(Clone)]
pub(super) struct Room {
    said: broadcast::Sender<Bytes>,
    last: Arc<Mutex<VecDeque<Bytes>>>,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            said: broadcast::Sender::new(64),
            last: Arc::default(),
        }
    }
}

/// What one page says, and what it has yet to hear.
struct Seat {
    says: PayloadStream,
    hears: broadcast::Receiver<Bytes>,
}

impl Room {
    /// Passes on what one page says, and tells it what all say, itself included.
    ///
    /// One stream does both, so a page that reads nothing is not read either: its
    /// messages wait at the page.
    pub(super) fn join(
        &self,
        says: PayloadStream,
    ) -> impl Stream<Item = Result<Payload, Failure>> + use<> {
        // Together, or a message could be heard twice or not at all.
        let (last, hears) = {
            let last = self.lock();
            (last.clone(), self.said.subscribe())
        };
        let (room, seat) = (self.clone(), Seat { says, hears });
        let live = stream::unfold(seat, move |seat| room.clone().listen(seat));
        let last = stream::iter(last).map(|message| Ok(Payload::new(message)));
        last.chain(live)
    }

    /// The next message for `seat`; `None` once its page has left.
    async fn listen(self, mut seat: Seat) -> Option<(Result<Payload, Failure>, Seat)> {
        let heard = loop {
            tokio::select! {
                said = seat.says.next() => {
                    let said = said?.ok()?;
                    if said.len() > LONGEST {
                        break Err(Failure::invalid("no message may be longer than 2000 bytes"));
                    }
                    self.say(said.into_data());
                }
                heard = seat.hears.recv() => match heard {
                    Ok(message) => break Ok(Payload::new(message)),
                    // Too slow for 64 messages: it goes on with what is left of them.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                },
            }
        };
        Some((heard, seat))
    }

    fn say(&self, message: Bytes) {
        let mut last = self.lock();
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back(message.clone());
        // Nobody listens: then nobody is told.
        let _ = self.said.send(message);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Bytes>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
