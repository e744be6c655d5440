//! One end of a connection: serves orders, and gives some of its own.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use rsocket_core::{
    Demand, Error, Failure, Payload, PayloadStream, Requester, Responder, frame::ErrorCode,
    testkit::Random,
};
use tokio::sync::watch;

use crate::{
    content::{Audit, LONGEST, Order},
    tally::{Count, Tally},
};

/// What both directions of one end of a connection share.
pub(crate) struct Side {
    pub(crate) tally: Arc<Tally>,
    /// The connection may end under its requests.
    may_lose: bool,
    /// Orders that were served.
    served: Mutex<HashSet<u64>>,
    /// Fire-and-forgets that arrived, and that were sent.
    received: AtomicU64,
    sent: AtomicU64,
    next: AtomicU64,
    stop: watch::Sender<bool>,
    asking: watch::Sender<usize>,
}

impl Side {
    pub(crate) fn new(tally: &Arc<Tally>, may_lose: bool) -> Arc<Self> {
        Arc::new(Self {
            tally: Arc::clone(tally),
            may_lose,
            served: Mutex::default(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            next: AtomicU64::new(0),
            stop: watch::Sender::new(false),
            asking: watch::Sender::new(0),
        })
    }

    pub(crate) fn audit(&self) -> Audit {
        Audit {
            received: self.received.load(Relaxed),
            sent: self.sent.load(Relaxed),
        }
    }

    /// Lets requests that were begun end, and begins no more.
    pub(crate) async fn halt(&self) {
        self.stop.send_replace(true);
        let mut asking = self.asking.subscribe();
        // This holds the sender.
        let _ = asking.wait_for(|workers| *workers == 0).await.is_ok();
    }

    fn serve(&self, request: &Payload) -> Result<Order, Failure> {
        let order = Order::of_request(request).map_err(|what| {
            self.tally.fault(&what);
            Failure::invalid(what)
        })?;
        self.tally.payload(request.len());
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if !served.insert(order.number) {
            self.tally.fault(format!("{order:?} came twice"));
        }
        Ok(order)
    }
}

/// Serves what the other end orders.
#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<Side>);

impl Responder for Service {
    async fn fire_and_forget(&self, request: Payload) {
        if self.0.serve(&request).is_ok() {
            self.0.received.fetch_add(1, Relaxed);
        }
    }

    async fn request_response(&self, request: Payload) -> Result<Payload, Failure> {
        let order = Order::of_request(&request);
        match order.as_ref().map(|order| order.number) {
            Ok(Order::AUDIT) => return Ok(self.0.audit().encode()),
            Ok(Order::HALT) => {
                self.0.halt().await;
                return Ok(self.0.audit().encode());
            }
            Ok(_) | Err(_) => {}
        }
        let order = self.0.serve(&request)?;
        pause(order.seed, 0).await;
        Ok(order.answer(0))
    }

    fn request_stream(
        &self,
        request: Payload,
    ) -> impl Stream<Item = Result<Payload, Failure>> + Send + use<> {
        let order = self.0.serve(&request);
        stream::unfold((order, 0), |(order, index)| async move {
            match order {
                Err(failure) => Some((Err(failure), (Ok(Order::of(0)), 0))),
                Ok(order) if index == u64::from(order.count) => None,
                Ok(order) => {
                    pause(order.seed, index).await;
                    Some((Ok(order.answer(index)), (Ok(order), index + 1)))
                }
            }
        })
    }

    fn request_channel(
        &self,
        inbound: PayloadStream,
    ) -> impl Stream<Item = Result<Payload, Failure>> + Send + use<> {
        let side = Arc::clone(&self.0);
        stream::unfold(
            (side, inbound, None::<Order>, 0),
            |(side, mut inbound, order, index)| async move {
                if order.is_some_and(|order| index == u64::from(order.count)) {
                    return None;
                }
                let payload = match inbound.next().await? {
                    Ok(payload) => payload,
                    Err(error) => {
                        let failure = Failure::from(error);
                        return Some((Err(failure), (side, inbound, Some(Order::of(0)), 0)));
                    }
                };
                let order = match order {
                    None => side.serve(&payload),
                    Some(order) => match order.check_sent(index, &payload) {
                        Ok(()) => {
                            side.tally.payload(payload.len());
                            Ok(order)
                        }
                        Err(what) => {
                            side.tally.fault(&what);
                            Err(Failure::invalid(what))
                        }
                    },
                };
                match order {
                    Ok(order) => {
                        pause(order.seed, index).await;
                        let next = (side, inbound, Some(order), index + 1);
                        Some((Ok(order.answer(index)), next))
                    }
                    Err(failure) => Some((Err(failure), (side, inbound, Some(Order::of(0)), 0))),
                }
            },
        )
    }
}

/// Some work takes time; most is done at once, and some yields.
async fn pause(seed: u64, index: u64) {
    match (seed ^ index.wrapping_mul(0x9E37_79B9)) % 64 {
        0 => tokio::time::sleep(Duration::from_millis(seed % 8)).await,
        1..4 => tokio::task::yield_now().await,
        _ => {}
    }
}

/// Gives orders until told to stop, or until the connection is over.
pub(crate) async fn ask(side: Arc<Side>, peer: Requester, seed: u64) {
    side.asking.send_modify(|workers| *workers += 1);
    let _leaving = Leaving(&side);
    let mut random = Random::new(seed);
    let mut stop = side.stop.subscribe();
    while !*stop.borrow_and_update() {
        if !one(&side, &peer, &mut random).await {
            return;
        }
        if random.once_in(4) {
            // Not everybody is always busy.
            let idle = Duration::from_millis(random.number() % 20);
            let _ = tokio::time::timeout(idle, stop.changed()).await.is_ok();
        }
    }
}

struct Leaving<'a>(&'a Side);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.asking.send_modify(|workers| *workers -= 1);
    }
}

/// Longer than anything here takes, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

/// One request of any kind. False if there will be no more.
async fn one(side: &Side, peer: &Requester, random: &mut Random) -> bool {
    let longest = match random.within(0..=199) {
        0 => LONGEST,
        1..=9 => 64 << 10,
        10..=79 => 4 << 10,
        80..=109 => 0,
        _ => 128,
    };
    let most = match longest {
        LONGEST => 8,
        4097.. => 40,
        _ => 400,
    };
    let order = Order {
        number: side.next.fetch_add(1, Relaxed),
        seed: random.number(),
        count: u32::try_from(random.length(most)).unwrap_or(1),
        longest: u32::try_from(longest).unwrap_or(u32::MAX),
    };
    let (kind, name) = match random.within(0..=9) {
        0 | 1 => (Count::FireAndForget, "fire-and-forget"),
        2..=5 => (Count::RequestResponse, "request-response"),
        6 | 7 => (Count::RequestStream, "request-stream"),
        _ => (Count::RequestChannel, "request-channel"),
    };
    // Whether a fire-and-forget was sent that is given up nobody could tell.
    let cancels = random.once_in(6) && !matches!(kind, Count::FireAndForget);
    let patience = match cancels {
        true => Duration::from_micros(random.number() % 20_000),
        false => PATIENCE,
    };
    let result = {
        let work = async {
            match kind {
                Count::FireAndForget => {
                    peer.fire_and_forget(order.request()).await?;
                    side.sent.fetch_add(1, Relaxed);
                    Ok(())
                }
                Count::RequestResponse => {
                    let answer = peer.request_response(order.request()).await?;
                    check(side, order, 0, &answer)
                }
                Count::RequestStream => {
                    let answers = peer.request_stream(order.request());
                    answers_of(side, order, order.count.into(), answers, random).await
                }
                _ => {
                    let total = u64::try_from(random.length(most)).unwrap_or(1);
                    let rest = (1..total).map(move |index| order.sent(index));
                    let outbound = stream::iter(std::iter::once(order.request()).chain(rest));
                    let expected = total.min(order.count.into());
                    let answers = peer.request_channel(outbound);
                    answers_of(side, order, expected, answers, random).await
                }
            }
        };
        tokio::time::timeout(patience, work).await
    };
    match result {
        Ok(Ok(())) => side.tally.one(kind),
        Ok(Err(Trouble::Error(Error::Closed(_)))) if side.may_lose || never_began(peer) => {
            side.tally.one(Count::Lost);
            return false;
        }
        // A side that wants to end takes no more requests.
        Ok(Err(Trouble::Error(Error::Peer(failure))))
            if side.may_lose && failure.code() == ErrorCode::REJECTED =>
        {
            side.tally.one(Count::Lost);
        }
        Ok(Err(Trouble::Error(error))) => {
            let mut why = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                why = format!("{why}: {cause}");
                source = cause.source();
            }
            side.tally.fault(format!("{name} {order:?}: {why}"));
            return !matches!(error, Error::Closed(_));
        }
        Ok(Err(Trouble::Wrong(what))) => side.tally.fault(format!("{name}: {what}")),
        Err(_) if cancels => side.tally.one(Count::Cancelled),
        Err(_) => {
            let what = format!(
                "{name} {order:?} hangs for {PATIENCE:?}; {peer:?}; {:?}; {:?}",
                peer.stats(),
                peer.lease(),
            );
            side.tally.fault(what);
        }
    }
    true
}

/// Whether nothing came of the peer but SETUP and the KEEPALIVE behind it.
///
/// A SETUP whose link was cut may arrive after the client has begun anew: then the
/// server has a session that nobody will ever speak on.
fn never_began(peer: &Requester) -> bool {
    let stats = peer.stats();
    stats.resumptions == 0 && stats.frames_received <= 2
}

/// Why a request was no success.
enum Trouble {
    Error(Error),
    Wrong(String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

fn check(side: &Side, order: Order, index: u64, payload: &Payload) -> Result<(), Trouble> {
    order.check_answer(index, payload).map_err(Trouble::Wrong)?;
    side.tally.payload(payload.len());
    Ok(())
}

async fn answers_of(
    side: &Side,
    order: Order,
    expected: u64,
    answers: PayloadStream,
    random: &mut Random,
) -> Result<(), Trouble> {
    let ahead = u32::try_from(random.length(64)).ok().and_then(Demand::new);
    let mut answers = answers.prefetch(ahead.unwrap_or(Demand::MAX));
    let slow = random.once_in(8);
    let mut index = 0;
    while let Some(answer) = answers.next().await {
        check(side, order, index, &answer?)?;
        index += 1;
        if slow {
            pause(order.seed >> 8, index).await;
        }
    }
    if index != expected {
        let what = format!("{index} answers for {expected} to {order:?}");
        return Err(Trouble::Wrong(what));
    }
    Ok(())
}
