//! The applications of a world at work: whoever reads or writes a stream takes a
//! turn now and then.

use super::{
    Fate, World, offer,
    script::{HowEnded, content},
};
use crate::{
    error::{Error, Failure},
    frame::{Demand, ErrorCode, Interaction},
    proto::{Capacity, DemandPolicy, StreamKey, Take},
    transport::OutFrame,
};

/// Somebody who holds a handle.
#[derive(Debug)]
pub(super) struct Actor {
    pub(super) side: usize,
    pub(super) key: StreamKey,
    pub(super) script: usize,
    pub(super) job: Job,
    pub(super) state: ActorState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    Read {
        down: bool,
    },
    Write {
        down: bool,
    },
    /// Serves a fire-and-forget.
    Hold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ActorState {
    Runs,
    Waits,
    Done,
}

impl World {
    /// One of those who can go on does.
    pub(super) fn act(&mut self) -> bool {
        if self.running.is_empty() {
            return false;
        }
        let turn = self.random.within(0..=self.running.len() - 1);
        let index = self.running.swap_remove(turn);
        let Actor {
            side,
            key,
            script,
            job,
            ..
        } = self.actors[index];
        let state = match job {
            Job::Read { down } => self.read(index, side, key, script, down),
            Job::Write { down } => self.write(index, side, key, script, down),
            Job::Hold => {
                self.ends[side].session.release(key);
                ActorState::Done
            }
        };
        self.actors[index].state = state;
        if state == ActorState::Runs {
            self.running.push(index);
        }
        self.audit(side);
        true
    }

    fn read(
        &mut self,
        actor: usize,
        side: usize,
        key: StreamKey,
        index: usize,
        down: bool,
    ) -> ActorState {
        let script = &mut self.scripts[index];
        let end = &mut self.ends[side];
        let requester = script.by == side;
        let interaction = script.interaction;
        let flow = script.flow(down);
        if flow.quit_after == Some(flow.received) {
            flow.quit = true;
            end.referee.gave_up(key.id);
            // Letting go of the last handle cancels as well.
            let only_handle = interaction != Interaction::RequestChannel;
            if !(only_handle && self.random.once_in(2)) {
                end.session.cancel(key);
            }
            if flow.batch.is_some() {
                end.session.give_up_batch(key);
            }
            end.session.release(key);
            return ActorState::Done;
        }
        let at_hand = flow.batch.as_mut().and_then(|batch| {
            let payload = batch.pop()?;
            if batch.is_due() {
                end.session.settle_batch(key, batch);
            }
            Some(Take::Payload(payload))
        });
        let take = at_hand.unwrap_or_else(|| match &mut flow.batch {
            Some(batch) => end.session.poll_take_batch(key, batch),
            None => end.session.poll_take(key),
        });
        match take {
            Take::Payload(payload) => {
                let expected = content(index, down, flow.received);
                assert_eq!(
                    payload, expected,
                    "script {index}, payload {}",
                    flow.received
                );
                flow.received += 1;
                assert!(flow.received <= flow.sent, "script {index}: out of nothing");
                return ActorState::Runs;
            }
            Take::Pending => {
                if let DemandPolicy::Manual { .. } = flow.demand
                    && flow.received as u64 >= flow.asked
                    && interaction.has_initial_n()
                {
                    let n = Demand::new(1 + u32::from(self.random.once_in(2)));
                    let n = n.unwrap_or(Demand::ONE);
                    end.session.request_n(key, n);
                    flow.asked += u64::from(n.get());
                    return ActorState::Runs;
                }
                end.readers.insert(key.slot, actor);
                return ActorState::Waits;
            }
            Take::Complete => {
                if interaction != Interaction::FireAndForget {
                    assert_eq!(flow.ended, Some(HowEnded::Completed), "script {index}");
                    assert_eq!(flow.received, flow.sent, "script {index}: some are missing");
                }
            }
            Take::Failed(Error::Peer(failure)) => match failure.code() {
                ErrorCode::REJECTED => {
                    assert!(requester && !script.started, "script {index}");
                    script.rejected = true;
                }
                ErrorCode::CANCELED => {
                    let dropped = script.down.ended == Some(HowEnded::Dropped);
                    assert!(requester && dropped, "script {index}: {failure}");
                }
                code => {
                    assert_eq!(code.get() as usize, 0x301 + index, "{failure}");
                    assert_eq!(flow.ended, Some(HowEnded::Failed), "script {index}");
                    assert_eq!(flow.received, flow.sent, "script {index}: some are missing");
                }
            },
            Take::Failed(Error::Canceled) => {
                let own_failure = script.flow(!down).ended == Some(HowEnded::Failed);
                let by_peer = !requester && script.disturbed();
                assert!(own_failure || by_peer, "script {index} was cancelled");
            }
            Take::Failed(Error::Closed(_)) => {
                // Or it will be, and the request waited for a lease.
                let begun = script.started || !end.session.uses_lease();
                assert!(end.session.is_closed() || !begun, "script {index}");
                // Whoever closes in good order gets what it asked for before.
                let closer = matches!(self.fate, Fate::Cuts { close } if close == Some(side));
                assert!(!(closer && requester), "script {index} was cut off");
                let reason = end.session.close_reason();
                let held = !matches!(self.fate, Fate::Cuts { close: None });
                assert!(held, "script {index}: {reason:?}");
            }
            Take::Failed(error) => panic!("script {index}: {error:?}"),
        }
        end.session.release(key);
        ActorState::Done
    }

    fn write(
        &mut self,
        actor: usize,
        side: usize,
        key: StreamKey,
        index: usize,
        down: bool,
    ) -> ActorState {
        let refusals = self.ends[1 - side].session.stats().requests_rejected;
        let script = &mut self.scripts[index];
        let end = &mut self.ends[side];
        let interaction = script.interaction;
        // Its reader may not have been told of a refusal yet.
        let refused = !down && !script.started && refusals > 0;
        // Or it waited for a lease when the connection was to end.
        let waited = !script.started && end.session.uses_lease();
        let disturbed = script.disturbed() || refused || waited;
        let flow = script.flow(down);
        if flow.ended == Some(HowEnded::Completed) {
            end.session.release(key); // With the request already.
            return ActorState::Done;
        }
        if self.random.once_in(3) && !end.session.poll_send_closed(key) && self.random.once_in(2) {
            return ActorState::Runs; // It has nothing to send just now.
        }
        if flow.sent < flow.planned {
            match end.session.poll_capacity(key) {
                Capacity::Pending => {
                    end.writers.insert(key.slot, actor);
                    return ActorState::Waits;
                }
                Capacity::Closed => {
                    let closed = end.session.is_closed();
                    assert!(disturbed || closed, "script {index} was stopped");
                    script.flow(down).ended = Some(HowEnded::Stopped);
                    end.session.release(key);
                    return ActorState::Done;
                }
                Capacity::Payloads(n) => {
                    let n = self.random.within(1..=n.min(flow.planned - flow.sent));
                    for _ in 0..n {
                        let mut payload = content(index, down, flow.sent);
                        let (random, now) = (&mut self.random, self.now);
                        let sent = match self.links.sending(side) {
                            Some(wire) if random.once_in(2) => {
                                let send = |frame: &OutFrame<'_>| {
                                    offer(wire, &mut end.referee, now, random, frame)
                                };
                                end.session
                                    .send_through(key, &mut payload, send)
                                    .map(|_| ())
                            }
                            _ => end.session.send(key, payload),
                        };
                        assert!(sent.is_ok(), "script {index}: {sent:?}");
                        flow.sent += 1;
                    }
                    if interaction == Interaction::RequestResponse {
                        end.referee.has_sent(key.id);
                        flow.ended = Some(HowEnded::Completed);
                        end.session.release(key);
                        return ActorState::Done;
                    }
                    return ActorState::Runs;
                }
            }
        }
        // A half that is over cannot be ended once more.
        let over = end.session.poll_send_closed(key);
        flow.ended = Some(if over { HowEnded::Stopped } else { flow.end });
        end.referee.has_sent(key.id);
        if over {
            assert!(
                disturbed || end.session.is_closed(),
                "script {index} was stopped"
            );
        } else {
            match flow.end {
                HowEnded::Failed => {
                    let code = u32::try_from(0x301 + index).unwrap_or(0x301);
                    let failure = Failure::custom(code, "as planned");
                    let failure = failure.unwrap_or_else(|| Failure::application("odd"));
                    end.referee.gave_up(key.id);
                    end.session.fail(key, &failure);
                }
                HowEnded::Completed => end.session.complete(key),
                HowEnded::Dropped => end.referee.gave_up(key.id),
                HowEnded::Stopped => {}
            }
        }
        end.session.release(key);
        ActorState::Done
    }
}
