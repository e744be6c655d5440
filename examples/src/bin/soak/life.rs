//! Connections from their beginning to their end, good or bad.

use std::{sync::Arc, time::Duration};

use rsocket_core::{
    Backoff, Client, CloseReason, Failure, FixedRate, LeaseOptions, Payload, Requester, Server,
    Setup,
    resume::Resume,
    testkit::{Chaos, Random},
    transport::{Connector, Transports},
};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    content::{Audit, Order},
    side::{Service, Side, ask},
    tally::{Count, Tally},
};

/// What connections of this run may be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Features {
    pub(crate) cuts: bool,
    pub(crate) lease: bool,
}

/// What sessions outlive a lost link by: a client that ends while it has none
/// cannot say so, and its server waits for so long.
pub(crate) const SESSION_TIMEOUT: Duration = Duration::from_secs(30);

/// A server that takes all kinds of clients.
pub(crate) fn server(features: Features, fragment: Option<usize>) -> Server {
    let mut server = Server::new().resume(Resume::new().session_timeout(SESSION_TIMEOUT));
    if let Some(len) = fragment {
        server = server.fragment(len);
    }
    if features.lease {
        let rate = FixedRate::new(100, Duration::from_millis(50));
        server = server.lease(leases().policy(move || rate));
    }
    server
}

/// What is under way for long was sent in time: under this load, processes stand
/// still for longer than leases are honoured by default.
fn leases() -> LeaseOptions {
    LeaseOptions::new().grace(Duration::from_secs(30))
}

/// What the server needs to know of a connection.
struct Plan {
    seed: u64,
    /// The connection may end under requests; and the server ends it after so
    /// long.
    may_lose: bool,
    abort_after: Option<Duration>,
}

impl Plan {
    fn encode(&self) -> Payload {
        let abort = self.abort_after.map_or(0, |after| after.as_millis());
        Payload::new(format!("{} {} {abort}", self.seed, u8::from(self.may_lose)))
    }

    fn decode(payload: &Payload) -> Option<Self> {
        let mut words = payload.data_utf8()?.split(' ');
        let mut number = || words.next()?.parse::<u64>().ok();
        Some(Self {
            seed: number()?,
            may_lose: number()? == 1,
            abort_after: number().filter(|ms| *ms > 0).map(Duration::from_millis),
        })
    }
}

/// A server's end of a new connection.
pub(crate) fn accept(
    tally: &Arc<Tally>,
    setup: &Setup,
    client: Requester,
) -> Result<Service, Failure> {
    let Some(plan) = Plan::decode(setup.payload()) else {
        tally.fault("a SETUP without its plan");
        return Err(Failure::rejected("what is this?"));
    };
    let side = Side::new(tally, plan.may_lose);
    let mut random = Random::new(!plan.seed);
    for _ in 0..random.within(0..=2) {
        let asking = ask(Arc::clone(&side), client.clone(), random.number());
        tokio::spawn(asking);
    }
    if let Some(after) = plan.abort_after {
        tokio::spawn(async move {
            let over = tokio::time::timeout(after, client.closed()).await;
            if over.is_err() {
                client.abort();
            }
        });
    }
    Ok(Service(side))
}

/// One client after the other, until `stop`.
pub(crate) async fn lives(
    transports: Transports,
    urls: Vec<String>,
    features: Features,
    tally: Arc<Tally>,
    seed: u64,
    mut stop: watch::Receiver<bool>,
) {
    let mut random = Random::new(seed);
    while !*stop.borrow_and_update() {
        let Some(url) = urls.get(random.within(0..=urls.len() - 1)) else {
            return;
        };
        let connector = match transports.connector(url) {
            Ok(connector) => connector,
            Err(error) => return tally.fault(format!("{url}: {error}")),
        };
        life(connector, url, features, &tally, random.number(), &mut stop).await;
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// All requests end, both sides agree on what was done, CONNECTION_CLOSE.
    Orderly,
    /// The handles are dropped while requests are in flight.
    Dropped,
    /// At once, by the client.
    Aborted,
    /// Likewise, by the server.
    AbortedByServer,
    /// The link is cut.
    Cut,
}

async fn life(
    connector: impl Connector,
    url: &str,
    features: Features,
    tally: &Arc<Tally>,
    seed: u64,
    stop: &mut watch::Receiver<bool>,
) {
    let mut random = Random::new(seed);
    let ending = match random.within(0..=9) {
        0 => Ending::Dropped,
        1 => Ending::Aborted,
        2 => Ending::AbortedByServer,
        3 => Ending::Cut,
        _ => Ending::Orderly,
    };
    let resumes = random.once_in(2) && ending != Ending::Cut;
    let plan = Plan {
        seed,
        may_lose: ending != Ending::Orderly,
        abort_after: (ending == Ending::AbortedByServer)
            .then(|| Duration::from_millis(1 + random.number() % 2_000)),
    };
    let side = Side::new(tally, plan.may_lose);
    let mut client = Client::new()
        .setup(plan.encode())
        .responder(Service(Arc::clone(&side)));
    if resumes {
        // Cuts come faster than a starved attempt gets done, so attempts must not
        // grow rare.
        let backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        client = client.resume(
            Resume::new()
                .session_timeout(SESSION_TIMEOUT)
                .backoff(backoff),
        );
        tally.one(Count::Sessions);
    }
    if random.once_in(3) {
        client = client.fragment(64 + random.length(20_000));
        tally.one(Count::Fragmented);
    }
    if features.lease && random.once_in(3) {
        let rate = FixedRate::new(50, Duration::from_millis(40));
        client = client.lease(match random.once_in(2) {
            true => leases(),
            false => leases().policy(move || rate),
        });
        tally.one(Count::Leased);
    }
    let mut chaos = Chaos::new(random.number());
    if random.once_in(4) {
        chaos = chaos.hesitating_once_in(random.within(2..=20));
    }
    let peer = match client.connect(chaos.connector(connector)).await {
        Ok(peer) => peer,
        Err(error) => return tally.fault(format!("connecting to {url}: {error:?}")),
    };
    tally.one(Count::Connections);
    let lasts = Duration::from_millis(20 + random.number() % 3_000);
    let mut work = JoinSet::new();
    for _ in 0..random.within(1..=3) {
        work.spawn(ask(Arc::clone(&side), peer.clone(), random.number()));
    }
    let mut cutting = JoinSet::new();
    if resumes && features.cuts {
        cutting.spawn(cut(chaos.clone(), random.number(), Arc::clone(tally)));
    }
    tokio::select! {
        () = tokio::time::sleep(lasts) => {}
        reason = peer.closed(), if !plan.may_lose => {
            return tally.fault(format!("seed {seed} over {url} ended by itself: {reason:?}"));
        }
        // This ends with the run, not with an error.
        _ = stop.changed() => {}
    }
    match ending {
        Ending::Orderly => {
            if let Err(what) = end_in_order(&side, &peer, &chaos, cutting).await {
                tally.fault(format!(
                    "seed {seed} over {url}: {what}; {:?}",
                    peer.stats()
                ));
                peer.abort();
            }
            tally.one(Count::Orderly);
        }
        Ending::Dropped => {
            work.abort_all();
            tally.one(Count::Abrupt);
        }
        Ending::Aborted => {
            peer.abort();
            tally.one(Count::Abrupt);
        }
        Ending::AbortedByServer => {
            peer.closed().await;
            tally.one(Count::Abrupt);
        }
        Ending::Cut => {
            chaos.cut_all();
            tally.one(Count::Abrupt);
        }
    }
    tally.add(Count::Resumptions, peer.stats().resumptions);
    drop(peer);
    while work.join_next().await.is_some() {}
}

async fn cut(chaos: Chaos, seed: u64, tally: Arc<Tally>) {
    let mut random = Random::new(seed);
    loop {
        // From 10 ms to 1 s, short ones as likely as long ones.
        let millis = 9 + random.length(991) as u64;
        tokio::time::sleep(Duration::from_millis(millis)).await;
        chaos.cut_all();
        tally.one(Count::Cuts);
    }
}

/// Everything that was sent has arrived, once, and both sides say so.
async fn end_in_order(
    side: &Side,
    peer: &Requester,
    chaos: &Chaos,
    mut cutting: JoinSet<()>,
) -> Result<(), String> {
    const PATIENCE: Duration = Duration::from_secs(90);

    let agree = async {
        side.halt().await;
        let mut audit = audit_of(peer, Order::HALT).await?;
        // A fire-and-forget in fragments may arrive after later requests.
        let mut rounds = 0;
        while (audit.received, audit.sent) != (side.audit().sent, side.audit().received) {
            rounds += 1;
            if rounds > 500 {
                let (ours, theirs) = (side.audit(), audit);
                return Err(format!("the sides differ: {ours:?}, {theirs:?}"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            audit = audit_of(peer, Order::AUDIT).await?;
        }
        Ok(())
    };
    match tokio::time::timeout(PATIENCE, agree).await {
        Ok(agreed) => agreed?,
        Err(_) => return Err(format!("no agreement within {PATIENCE:?}")),
    }
    // A link that is lost during the goodbye leaves it open who heard what.
    cutting.shutdown().await;
    if peer.stats().resumptions > 0 {
        chaos.spare();
        side.tally.one(Count::Cuts);
    }
    match tokio::time::timeout(PATIENCE, peer.close()).await {
        Ok(CloseReason::Local) => Ok(()),
        Ok(reason) => Err(format!("closing: {reason:?}")),
        Err(_) => Err(format!("not closed within {PATIENCE:?}")),
    }
}

async fn audit_of(peer: &Requester, number: u64) -> Result<Audit, String> {
    let request = Order::of(number).request();
    let answer = peer.request_response(request).await;
    let answer = answer.map_err(|error| format!("audit: {error:?}"))?;
    Audit::decode(&answer).ok_or_else(|| format!("audit: {answer:?}"))
}
