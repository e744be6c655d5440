//! The one task that connects, and connects again.

use std::{convert::Infallible, sync::Arc};

use tokio::time::{Instant, sleep, timeout};

use super::{Dial, Reconnect, state::Core};
use crate::{
    Client,
    backoff::Attempts,
    driver::now,
    error::{CloseReason, Error},
    transport::{Connector, TransportError, TransportErrorKind},
};

pub(super) struct Supervisor {
    core: Arc<Core>,
    client: Client,
    connector: Arc<dyn Connector>,
    settings: Reconnect,
    attempts: Attempts,
    sessions: u64,
    last: Option<CloseReason>,
}

/// Whoever waits must not wait for a supervisor that is gone: its runtime was
/// shut down, or the application's code panicked in it.
struct StopOnDrop(Arc<Core>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Supervisor {
    pub(super) fn new(
        core: Arc<Core>,
        client: Client,
        connector: Arc<dyn Connector>,
        settings: Reconnect,
    ) -> Self {
        let attempts = match settings.seed {
            Some(seed) => settings.backoff.start(seed),
            None => settings.backoff.start_anywhere(),
        };
        Self {
            core,
            client,
            connector,
            settings,
            attempts,
            sessions: 0,
            last: None,
        }
    }

    /// Ends when the client is closed; dropping what it was at, such as an
    /// attempt half made.
    pub(super) async fn run(mut self) {
        let core = Arc::clone(&self.core);
        let _stop = StopOnDrop(Arc::clone(&core));
        tokio::select! {
            biased;
            () = core.stopped() => {}
            never = self.keep_connected() => match never {},
        }
    }

    async fn keep_connected(&mut self) -> Infallible {
        self.start_over();
        if self.settings.dial == Dial::OnDemand {
            self.core.wanted().await;
        }
        loop {
            let error = self.connect_once().await;
            if let Error::Closed(reason) = &error {
                self.last = Some(reason.clone());
            }
            self.pause(error).await;
        }
    }

    /// The attempt that follows is the first of a row, and is made at once.
    fn start_over(&mut self) {
        self.attempts.reset();
        self.attempts.next_delay(now());
    }

    /// Makes one attempt, and if it succeeds, waits for the end of the session.
    async fn connect_once(&mut self) -> Error {
        self.core
            .set_connecting(self.attempts.made(), self.last.clone());
        let mut client = self.client.clone();
        if self.sessions > 0 {
            client.forget_resume_token();
        }
        let connect = client.connect(Arc::clone(&self.connector));
        let limit = self.settings.attempt_timeout;
        // Boxed: what users do for a token, and TLS, make it long.
        let requester = match timeout(limit, Box::pin(connect)).await {
            Ok(Ok(requester)) => requester,
            Ok(Err(error)) => return error,
            Err(_) => {
                let text = format!("no connection within {limit:?}");
                let error = TransportError::new(TransportErrorKind::Unreachable, text);
                return Error::Closed(error.into());
            }
        };
        self.sessions += 1;
        let since = Instant::now();
        // No handle of ours: without others the connection is to end.
        let shared = Arc::clone(requester.shared());
        self.core.set_up(self.sessions, requester);
        let reason = tokio::select! {
            reason = shared.closed() => reason,
            reason = self.core.retired(self.sessions) => reason,
        };
        if since.elapsed() >= self.settings.stable_after {
            self.attempts.reset();
        }
        Error::Closed(reason)
    }

    /// Waits until it is time for the next attempt.
    async fn pause(&mut self, error: Error) {
        let core = Arc::clone(&self.core);
        // Listening before the state can be seen: who reacts to it is heard.
        let mut asked = std::pin::pin!(core.asked.notified());
        let retry = match &error {
            Error::Closed(reason) if (self.settings.retry_if)(reason) => self
                .attempts
                .next_delay(now())
                .map(|delay| (reason.clone(), delay)),
            _ => None,
        };
        let Some((reason, delay)) = retry else {
            core.give_up(error, self.attempts.made());
            asked.await;
            return self.start_over();
        };
        let on_demand = self.settings.dial == Dial::OnDemand;
        let is_certain = !on_demand || core.is_wanted();
        core.set_down(reason, is_certain.then_some(delay));
        tokio::select! {
            () = sleep(delay) => {}
            () = asked.as_mut() => return self.start_over(),
        }
        if on_demand && !core.is_wanted() {
            tokio::select! {
                () = core.wanted() => {}
                () = asked => {}
            }
            self.start_over();
        }
    }
}
