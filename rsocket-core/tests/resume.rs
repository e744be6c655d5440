//! Sessions that go on over other links: who may have them, and what they cost
//! a server meanwhile. What is said on the links is in `protocol_resume`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    missing_docs,
    reason = "tests may fail, and need no docs"
)]

mod common;

use std::{
    future::poll_fn,
    ops::ControlFlow,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{unique_name, within};
use futures_util::StreamExt as _;
use rsocket_core::{
    Backoff, Client, CloseReason, Handlers, Payload, Requester, Server,
    frame::ErrorCode,
    resume::Resume,
    testkit::{Chaos, frame, text},
    transport::{
        Connector, FrameRx, FrameTx, Link, Listener, OutFrame, Part, Received, TransportError,
        memory::{MemoryConnector, MemoryListener},
    },
};
use tokio::sync::mpsc;

fn echo() -> Handlers {
    Handlers::new()
        .on_request_response(|request| async move { Ok(request) })
        .on_request_channel(|inbound| inbound.map(|payload| payload.map_err(Into::into)))
}

/// A server under a name of its own, and its clients as it sees them.
fn serve(server: Server) -> (String, mpsc::UnboundedReceiver<Requester>) {
    let name = unique_name();
    let listener = MemoryListener::bind(&name).unwrap();
    let (tell, clients) = mpsc::unbounded_channel();
    tokio::spawn(server.serve(listener, move |_, client| {
        let _ = tell.send(client);
        async { Ok(echo()) }
    }));
    (name, clients)
}

fn soon() -> Resume {
    let soon = Duration::from_millis(1);
    Resume::new().backoff(Backoff::new(soon, soon))
}

/// The wire, spoken by hand.
struct Wire {
    tx: Box<dyn FrameTx>,
    rx: Box<dyn FrameRx>,
}

impl Wire {
    fn new(link: Link) -> Self {
        let (tx, rx) = link.split();
        Self { tx, rx }
    }

    async fn to(name: &str) -> Self {
        Self::new(MemoryConnector::new(name).connect().await.unwrap())
    }

    async fn say(&mut self, text: &str) {
        self.try_to_say(text).await.unwrap();
    }

    async fn try_to_say(&mut self, text: &str) -> Result<(), TransportError> {
        let bytes = frame(text);
        let frame = OutFrame::new(&bytes, Part::EMPTY, Part::EMPTY);
        poll_fn(|cx| self.tx.poll_send(cx, &frame)).await?;
        poll_fn(|cx| self.tx.poll_flush(cx)).await
    }

    /// The next frame; or how the link ended.
    async fn hear(&mut self) -> String {
        let mut heard = None;
        let received = poll_fn(|cx| {
            self.rx.poll_recv(cx, &mut |frame| {
                heard = Some(text(frame.as_slice()));
                ControlFlow::Break(())
            })
        });
        match received.await {
            Ok(Received::End) => "the end".to_owned(),
            Ok(Received::Frames) => heard.unwrap(),
            Err(error) => error.to_string(),
        }
    }
}

// [C291] [C295]
#[tokio::test]
async fn a_token_that_nobody_has_is_refused() {
    let (name, _clients) = serve(Server::new().resume(Resume::new()));
    let mut wire = Wire::to(&name).await;
    wire.say("RESUME token=nobody").await;
    assert_eq!(wire.hear().await, "ERROR REJECTED_RESUME");
    assert_eq!(wire.hear().await, "the end");
}

// [C299] [C298]
#[tokio::test]
async fn a_session_moves_to_the_link_that_asks_for_it_though_it_has_one() {
    within(async {
        let (name, mut clients) = serve(Server::new().resume(Resume::new()));
        let mut old = Wire::to(&name).await;
        old.say("SETUP token=tok").await;
        let client = clients.recv().await.unwrap();
        old.say("REQUEST_RESPONSE 1 d=one").await;
        assert_eq!(old.hear().await, "PAYLOAD 1 NC d=one");
        for n in 0..50 {
            let mut new = Wire::to(&name).await;
            new.say("RESUME token=tok p=0 q=0").await;
            let received = 9 * (n + 1);
            assert_eq!(new.hear().await, format!("RESUME_OK p={received}"));
            for m in 0..=n {
                let data = if m == 0 { "one" } else { "two" };
                let again = new.hear().await;
                assert_eq!(again, format!("PAYLOAD {} NC d={data}", 2 * m + 1));
            }
            let gone = old.hear().await;
            assert!(gone == "the end" || gone.contains("lost"), "{gone}");
            let id = 2 * n + 3;
            new.say(&format!("REQUEST_RESPONSE {id} d=two")).await;
            assert_eq!(new.hear().await, format!("PAYLOAD {id} NC d=two"));
            old = new;
        }
        // No other client has it meanwhile.
        let mut thief = Wire::to(&name).await;
        thief.say("SETUP token=tok").await;
        assert_eq!(thief.hear().await, "ERROR REJECTED_SETUP");
        assert_eq!(client.stats().resumptions, 50);
        assert!(clients.try_recv().is_err());
    })
    .await;
}

// [C299]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_links_that_ask_at_once_one_gets_the_session_whole() {
    within(async {
        let (name, mut clients) = serve(Server::new().resume(Resume::new()));
        let mut old = Wire::to(&name).await;
        old.say("SETUP token=tok").await;
        let client = clients.recv().await.unwrap();
        for _ in 0..30 {
            let asking = (0..8).map(|_| async {
                let mut wire = Wire::to(&name).await;
                wire.say("RESUME token=tok p=0 q=0").await;
                let answer = wire.hear().await;
                (wire, answer)
            });
            let mut asked = futures_util::future::join_all(asking).await;
            asked.retain(|(_, answer)| answer == "RESUME_OK p=0");
            assert!(!asked.is_empty());
            // All but one are dropped.
            let mut alive = 0;
            for (wire, _) in &mut asked {
                let said = wire.try_to_say("KEEPALIVE R d=alive?").await.is_ok();
                alive += u32::from(said && wire.hear().await.starts_with("KEEPALIVE"));
            }
            assert_eq!(alive, 1);
        }
        assert!(client.close_reason().is_none());
    })
    .await;
}

// [C298]
#[tokio::test]
async fn a_token_is_free_when_its_session_is_over() {
    within(async {
        let (name, mut clients) = serve(Server::new().resume(Resume::new()));
        let connect = || {
            let client = Client::new().resume(Resume::new().token("mine"));
            client.connect(MemoryConnector::new(&name))
        };
        let first = connect().await.unwrap();
        first.request_response("x").await.unwrap();
        let second = connect().await.unwrap();
        match second.closed().await {
            CloseReason::Refused(failure) => assert_eq!(failure.code(), ErrorCode::REJECTED_SETUP),
            other => panic!("{other}"),
        }
        let served = clients.recv().await.unwrap();
        assert!(first.close().await.is_graceful());
        assert!(served.closed().await.is_graceful());
        let third = connect().await.unwrap();
        third.request_response("x").await.unwrap();
    })
    .await;
}

// [C302] [C303]
#[tokio::test]
async fn tokens_are_ascii_and_no_two_are_alike() {
    let name = unique_name();
    let mut listener = MemoryListener::bind(&name).unwrap();
    let mut tokens = Vec::new();
    for _ in 0..20 {
        let client = Client::new().resume(Resume::new());
        let connecting = client.connect(MemoryConnector::new(&name));
        let accepting = async { listener.accept().await.unwrap().await.unwrap() };
        let (_client, link) = tokio::join!(connecting, accepting);
        let setup = Wire::new(link).hear().await;
        let token = setup.split_once(" token=").unwrap().1;
        let token = token.split_once(' ').unwrap().0.to_owned();
        assert_eq!(token.len(), 32);
        assert!(token.chars().all(|c| c.is_ascii_hexdigit()), "{token}");
        assert!(!tokens.contains(&token));
        tokens.push(token);
    }
}

/// Connects as long as it is allowed to.
struct Gate {
    connector: MemoryConnector,
    chaos: Chaos,
    open: Arc<Mutex<bool>>,
}

#[async_trait::async_trait]
impl Connector for Gate {
    async fn connect(&self) -> Result<Link, TransportError> {
        if !*self.open.lock().unwrap() {
            return Err(TransportError::lost("the gate is closed"));
        }
        Ok(self.chaos.wrap(self.connector.connect().await?))
    }
}

struct Suspending {
    client: Requester,
    chaos: Chaos,
    gate: Arc<Mutex<bool>>,
}

/// A client whose link can be cut for as long as one likes.
async fn suspending(name: &str) -> Suspending {
    let (chaos, gate) = (Chaos::new(0), Arc::new(Mutex::new(true)));
    let connector = Gate {
        connector: MemoryConnector::new(name),
        chaos: chaos.clone(),
        open: Arc::clone(&gate),
    };
    let client = Client::new().resume(soon()).connect(connector);
    let client = client.await.unwrap();
    client.request_response("are you there?").await.unwrap();
    Suspending {
        client,
        chaos,
        gate,
    }
}

impl Suspending {
    fn suspend(&self) {
        *self.gate.lock().unwrap() = false;
        self.chaos.cut_all();
    }

    fn come_back(&self) {
        *self.gate.lock().unwrap() = true;
    }
}

// [C296]
#[tokio::test(start_paused = true)]
async fn a_session_without_a_link_leaves_its_place_to_others() {
    let server = Server::new().max_connections(1).resume(Resume::new());
    let (name, _clients) = serve(server);
    let first = suspending(&name).await;
    for _ in 0..3 {
        first.suspend();
        // Its place is free for another, who keeps it waiting.
        let second = Client::new()
            .connect(MemoryConnector::new(&name))
            .await
            .unwrap();
        second.request_response("x").await.unwrap();
        first.come_back();
        let answer = first.client.request_response("x");
        let early = tokio::time::timeout(Duration::from_secs(5), answer).await;
        assert!(early.is_err(), "there is one place");
        second.close().await;
        let answer = first.client.request_response("y").await.unwrap();
        assert_eq!(answer.data(), b"y");
    }
    assert!(first.client.stats().resumptions >= 3);
}

// [C296]
#[tokio::test(start_paused = true)]
async fn sessions_without_a_link_are_counted_and_beyond_the_limit_one_ends() {
    let server = Server::new().resume(Resume::new().max_suspended(2));
    let (name, mut clients) = serve(server);
    let mut all = Vec::new();
    for _ in 0..3 {
        let client = suspending(&name).await;
        all.push((client, clients.recv().await.unwrap()));
    }
    for (client, _) in &all {
        client.suspend();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ended: Vec<_> = all
        .iter()
        .map(|(_, served)| served.close_reason())
        .collect();
    assert_eq!(ended.iter().filter(|reason| reason.is_some()).count(), 1);
    for (client, _) in &all {
        client.come_back();
    }
    let mut refused = 0;
    for (client, served) in &all {
        match client.client.request_response("x").await {
            Ok(_) => assert!(served.close_reason().is_none()),
            Err(_) => {
                refused += 1;
                let reason = client.client.closed().await;
                assert!(matches!(reason, CloseReason::ResumeRefused(_)), "{reason}");
                let reason = served.close_reason().unwrap();
                assert!(matches!(reason, CloseReason::NotResumed { .. }), "{reason}");
            }
        }
    }
    assert_eq!(refused, 1);
    // Those that came back count no more.
    for (client, served) in &all {
        if served.close_reason().is_none() {
            client.suspend();
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(served.close_reason().is_none());
        }
    }
}

// [C296] [C305]
#[tokio::test(start_paused = true)]
async fn what_was_asked_while_apart_is_answered_after_and_nothing_after_the_timeout() {
    let (name, mut clients) = serve(Server::new().resume(Resume::new()));
    let apart = suspending(&name).await;
    let served = clients.recv().await.unwrap();
    apart.suspend();
    let request = tokio::spawn({
        let client = apart.client.clone();
        async move { client.request_response(Payload::new("kept")).await }
    });
    tokio::time::sleep(Duration::from_secs(59)).await;
    apart.come_back();
    assert_eq!(request.await.unwrap().unwrap().data(), b"kept");

    apart.suspend();
    tokio::time::sleep(Duration::from_secs(61)).await;
    for reason in [apart.client.close_reason(), served.close_reason()] {
        assert!(
            matches!(reason, Some(CloseReason::NotResumed { .. })),
            "{reason:?}"
        );
    }
    apart.client.request_response("x").await.unwrap_err();
}
