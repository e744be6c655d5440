//! The receiving half.

use std::{
    ops::ControlFlow,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use rsocket_core::transport::{FrameRx, InFrame, Received, TransportError};

use crate::{
    bell::{Bell, Half},
    ring::{Consumer, Corrupt},
    spin::Spinner,
};

/// Looks at memory between two at the bell.
const LOOKS_UNHEARD: u32 = 64;

/// How long a poll looks without a turn for other tasks: longer than an answer
/// takes whose peer is awake, and about what a turn of any task takes.
const SLICE: Duration = Duration::from_micros(1);

/// How long a request that is alone in flight looks before others have their turns.
const LINGER: Duration = Duration::from_micros(5);

/// Receives frames out of the peer's memory.
#[derive(Debug)]
pub(crate) struct Rx {
    consumer: Consumer,
    bell: Arc<Bell>,
    spinner: Spinner,
    /// Looks at memory that found nothing.
    looks: u32,
    /// Other tasks had their turns since something came.
    has_yielded: bool,
    /// What the peer did wrong, for later calls.
    corrupt: Option<Corrupt>,
}

impl Rx {
    pub(crate) fn new(consumer: Consumer, bell: Arc<Bell>, spinner: Spinner) -> Self {
        Self {
            consumer,
            bell,
            spinner,
            looks: 0,
            has_yielded: false,
            corrupt: None,
        }
    }

    fn has_failed(&mut self, corrupt: Corrupt) -> TransportError {
        self.corrupt = Some(corrupt);
        // The other half must not go on with such a peer.
        self.bell.hang_up();
        TransportError::misbehaved(corrupt)
    }

    /// Looks at memory for so long, or until there is a frame: whether there is.
    fn look_for(&self, time: Duration) -> bool {
        /// Looks between two looks at the clock, which costs about as much.
        const LOOKS: usize = 16;

        let begin = Instant::now();
        loop {
            for _ in 0..LOOKS {
                if self.consumer.has_record() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if begin.elapsed() >= time {
                return false;
            }
        }
    }

    /// Gives the peer's sender the room that it waits for.
    fn make_room(&mut self) {
        if self.consumer.room_bell() {
            self.bell.ring();
        }
    }
}

impl FrameRx for Rx {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>,
    ) -> Poll<Result<Received, TransportError>> {
        if let Some(corrupt) = self.corrupt {
            return Poll::Ready(Err(TransportError::misbehaved(corrupt)));
        }
        loop {
            // Before the look, so that all that was sent before is seen.
            let is_gone = self.bell.is_gone();
            match self.consumer.recv(sink) {
                Err(corrupt) => return Poll::Ready(Err(self.has_failed(corrupt))),
                Ok(0) => {}
                Ok(_) => {
                    self.spinner.came(Instant::now);
                    self.has_yielded = false;
                    self.consumer.awake();
                    self.make_room();
                    return Poll::Ready(Ok(Received::Frames));
                }
            }
            if self.consumer.is_closed() {
                self.consumer.awake();
                return Poll::Ready(Ok(Received::End));
            }
            if is_gone {
                let error = TransportError::lost("the peer is gone, and did not close the link");
                return Poll::Ready(Err(error));
            }
            self.make_room();
            if self.spinner.looks_on(Instant::now) {
                // Others had their turns since the last look; with little to do
                // for them, the runtime takes longer than a frame takes to come.
                if std::mem::replace(&mut self.has_yielded, true) && self.look_for(SLICE) {
                    continue;
                }
                self.looks = self.looks.wrapping_add(1);
                // Who never sleeps has to hear of the peer's end, too.
                if self.looks.is_multiple_of(LOOKS_UNHEARD) && self.bell.listen(Half::Rx).is_ready()
                {
                    continue;
                }
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.bell.leave_word(Half::Rx, cx.waker());
            if self.consumer.announce_sleep() {
                self.make_room();
                ready!(self.bell.listen(Half::Rx));
            }
        }
    }

    /// Looks at memory for a moment, if that usually pays.
    fn linger(&mut self) -> bool {
        self.consumer.has_record() || (self.spinner.looks_on(Instant::now) && self.look_for(LINGER))
    }
}

impl Drop for Rx {
    fn drop(&mut self) {
        self.bell.forget(Half::Rx);
        // A sender that waits for room would wait for ever.
        self.consumer.hang_up();
        self.bell.ring();
    }
}
