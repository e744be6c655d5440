//! Client sessions that outlive what they run in: the runtime is dropped, or the
//! session let go of, and another goes on with it from the store.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_types,
    reason = "what is wrong with a test fails it"
)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use rsocket_core::{
    Backoff, Client, CloseReason, Demand, DemandPolicy, Error, Failure, Handlers, Payload,
    PayloadSink, PayloadStream, RestoreError, Server,
    frame::Interaction,
    proto::Role,
    resume::{Batch, Key, MemoryStore, Resume, ResumeStore, StoreError},
    transport::memory::{MemoryConnector, MemoryListener},
};
use tokio::runtime::{Builder, Runtime};

const COUNT: u64 = 2000;

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

fn number(payload: &Payload) -> u64 {
    payload.data_utf8().unwrap().parse().unwrap()
}

/// Counts on streams, and keeps what comes on channels.
fn serve(runtime: &Runtime, name: &'static str, kept: Arc<Mutex<Vec<u64>>>) {
    let handlers = Handlers::new()
        .on_request_stream(|_| stream::iter(0..COUNT).map(|n| Ok(Payload::new(n.to_string()))))
        .on_request_channel(move |inbound| {
            let kept = Arc::clone(&kept);
            inbound.filter_map(move |payload| {
                // A channel that is given up says so with an error.
                let n = payload.as_ref().ok().map(number);
                kept.lock().unwrap().extend(n);
                let answer = n.filter(|n| n.is_multiple_of(10));
                async move { answer.map(|n| Ok(Payload::new(n.to_string()))) }
            })
        })
        .on_request_response(|_| std::future::pending::<Result<Payload, Failure>>());
    let _guard = runtime.enter();
    let listener = MemoryListener::bind(name).unwrap();
    let server = Server::new().resume(Resume::new());
    runtime.spawn(server.serve(listener, move |_, _| {
        let handlers = handlers.clone();
        async move { Ok(handlers) }
    }));
}

fn client(store: &Arc<MemoryStore>) -> Client {
    let store = Arc::clone(store) as Arc<dyn ResumeStore>;
    Client::new().resume(Resume::new().store(store))
}

/// What a runtime gave that is not about to be gone.
async fn living<T>(result: Result<T, Error>) -> T {
    match result {
        Ok(value) => value,
        Err(Error::Closed(CloseReason::Detached)) => std::future::pending().await,
        Err(error) => panic!("{error:?}"),
    }
}

/// What the application has durably done.
#[derive(Default)]
struct Done {
    streamed: Vec<u64>,
    answers: Vec<u64>,
}

// [C281] [C283] [C286] [C305]
#[test]
fn streams_and_channels_go_on_in_another_runtime_and_nothing_is_lost_or_twice() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let server = runtime();
    serve(&server, "cold-runtimes", Arc::clone(&kept));
    let store = Arc::new(MemoryStore::new());
    let connector = || MemoryConnector::new("cold-runtimes");
    let done = Arc::new(Mutex::new(Done::default()));

    for life in 0..20 {
        let runtime = runtime();
        let token = store.tokens().unwrap().pop();
        let work = {
            let (client, done) = (client(&store), Arc::clone(&done));
            async move {
                let (peer, restored) = match token {
                    None => (client.connect(connector()).await.unwrap(), None),
                    Some(token) => match client.restore(connector(), token).await {
                        Ok((peer, restored)) => (peer, Some(restored)),
                        // The last life ended between the server's goodbye and
                        // the removal.
                        Err(RestoreError::Closed(CloseReason::ResumeRefused(_)))
                            if done.lock().unwrap().streamed.len() as u64 == COUNT =>
                        {
                            return CloseReason::Local;
                        }
                        Err(error) => panic!("{error}"),
                    },
                };
                let (mut streamed, mut sink, mut answers) = (None, None, None);
                for stream in restored.into_iter().flatten() {
                    assert_eq!(stream.role(), Role::Requester);
                    if stream.interaction() == Interaction::RequestStream {
                        assert_eq!(stream.request().data(), b"count");
                        streamed = stream.into_halves().1;
                    } else {
                        (sink, answers) = stream.into_halves();
                    }
                }
                // What was not stored was never asked.
                if streamed.is_none() && done.lock().unwrap().streamed.is_empty() {
                    let asked = peer.request_stream("count");
                    streamed = Some(asked.prefetch(Demand::new(20).unwrap()));
                }
                if answers.is_none() && done.lock().unwrap().answers.is_empty() {
                    let (first, rest) = peer.open_channel("0", DemandPolicy::default()).unwrap();
                    (sink, answers) = (Some(first), Some(rest));
                }
                // What was dealt with before is skipped.
                if let Some(streamed) = &mut streamed {
                    streamed.skip_to(done.lock().unwrap().streamed.len() as u64);
                }
                if let Some(answers) = &mut answers {
                    answers.skip_to(done.lock().unwrap().answers.len() as u64);
                }
                let stream = async {
                    while let Some(streamed) = &mut streamed
                        && let Some(payload) = streamed.next().await
                    {
                        let n = number(&living(payload).await);
                        done.lock().unwrap().streamed.push(n);
                    }
                };
                let send = async {
                    if let Some(mut sink) = sink {
                        while sink.sent() < COUNT {
                            let next = sink.sent().to_string();
                            living(sink.send(next).await).await;
                        }
                        sink.complete();
                    }
                };
                let take = async {
                    while let Some(answers) = &mut answers
                        && let Some(payload) = answers.next().await
                    {
                        let n = number(&living(payload).await);
                        done.lock().unwrap().answers.push(n);
                    }
                };
                futures_util::join!(stream, send, take);
                drop((streamed, answers));
                peer.close().await
            }
        };
        let task = runtime.spawn(work);
        // Each life is longer, the last to the end.
        let limit = Duration::from_millis(if life < 19 { 3 + life } else { 60_000 });
        let ended = runtime.block_on(async { tokio::time::timeout(limit, task).await });
        drop(runtime);
        if let Ok(ended) = ended {
            let reason = ended.unwrap();
            assert!(matches!(reason, CloseReason::Local), "{reason}");
            break;
        }
    }
    let done = done.lock().unwrap();
    assert!(
        done.streamed.iter().copied().eq(0..COUNT),
        "{:?}",
        done.streamed
    );
    assert!(kept.lock().unwrap().iter().copied().eq(0..COUNT));
    assert!(done.answers.iter().copied().eq((0..COUNT).step_by(10)));
    assert!(
        store.tokens().unwrap().is_empty(),
        "what is over is forgotten"
    );
}

/// A server whose sessions lie in `store`: it counts on streams, keeps what
/// comes on channels, and sends every tenth of it back.
fn durable_server(
    name: &'static str,
    store: &Arc<MemoryStore>,
    kept: &Arc<Mutex<Vec<u64>>>,
) -> Runtime {
    let runtime = runtime();
    let store = Arc::clone(store) as Arc<dyn ResumeStore>;
    let server = Server::new().resume(Resume::new().store(store));
    let guard = runtime.enter();
    // The one before it may just be closing.
    let listener = MemoryListener::bind(name).unwrap();
    drop(guard);
    let kept = Arc::clone(kept);
    runtime.spawn(server.serve(listener, move |setup, _| {
        let kept = Arc::clone(&kept);
        async move {
            assert_eq!(setup.payload().data(), b"hello");
            for stream in setup.take_restored().into_iter().flatten() {
                assert_eq!(stream.role(), Role::Responder);
                let interaction = stream.interaction();
                let (sink, inbound) = stream.into_halves();
                match interaction {
                    Interaction::RequestStream => {
                        tokio::spawn(count(sink.unwrap()));
                    }
                    _ => {
                        tokio::spawn(keep(sink, inbound, Arc::clone(&kept)));
                    }
                }
            }
            let handlers = Handlers::new()
                .on_request_stream(|_| {
                    stream::iter(0..COUNT).map(|n| Ok(Payload::new(n.to_string())))
                })
                .on_request_channel(move |inbound| {
                    let kept = Arc::clone(&kept);
                    let mut next = 0;
                    inbound.filter_map(move |payload| {
                        let n = payload.as_ref().ok().map(number);
                        let mut kept = kept.lock().unwrap();
                        let news = n.filter(|_| next == kept.len());
                        kept.extend(news);
                        next += 1;
                        let answer = n.filter(|n| n.is_multiple_of(10));
                        async move { answer.map(|n| Ok(Payload::new(n.to_string()))) }
                    })
                });
            Ok(handlers)
        }
    }));
    runtime
}

async fn count(mut sink: PayloadSink) {
    while sink.sent() < COUNT {
        let next = sink.sent().to_string();
        if sink.send(next).await.is_err() {
            return std::future::pending().await; // The runtime is about to go.
        }
    }
    sink.complete();
}

async fn keep(
    sink: Option<PayloadSink>,
    inbound: Option<PayloadStream>,
    kept: Arc<Mutex<Vec<u64>>>,
) {
    let (Some(mut sink), Some(mut inbound)) = (sink, inbound) else {
        panic!("the answers end after the questions");
    };
    inbound.skip_to(kept.lock().unwrap().len() as u64);
    loop {
        // What was kept has answers due, given or not.
        let due = kept.lock().unwrap().len().div_ceil(10) as u64;
        while sink.sent() < due {
            let next = (sink.sent() * 10).to_string();
            if sink.send(next).await.is_err() {
                return std::future::pending().await;
            }
        }
        match inbound.next().await {
            Some(Ok(payload)) => kept.lock().unwrap().push(number(&payload)),
            Some(Err(_)) => return std::future::pending().await,
            None => return sink.complete(),
        }
    }
}

// [C281] [C292] [C296]
#[test]
fn a_server_goes_on_with_its_sessions_in_another_runtime() {
    let store = Arc::new(MemoryStore::new());
    let kept = Arc::new(Mutex::new(Vec::new()));
    let mut server = durable_server("cold-server", &store, &kept);
    let ours = runtime();
    let done = Arc::new(Mutex::new(Done::default()));
    let work = {
        let done = Arc::clone(&done);
        async move {
            let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(5));
            let client = Client::new()
                .setup("hello")
                .resume(Resume::new().backoff(backoff));
            let peer = client
                .connect(MemoryConnector::new("cold-server"))
                .await
                .unwrap();
            let mut streamed = peer
                .request_stream("count")
                .prefetch(Demand::new(20).unwrap());
            let (mut sink, mut answers) = peer.open_channel("0", DemandPolicy::default()).unwrap();
            let stream = async {
                while let Some(payload) = streamed.next().await {
                    let n = number(&payload.unwrap());
                    done.lock().unwrap().streamed.push(n);
                    if n.is_multiple_of(20) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            };
            let send = async {
                for n in 1..COUNT {
                    sink.send(n.to_string()).await.unwrap();
                    if n.is_multiple_of(20) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                sink.complete();
            };
            let take = async {
                while let Some(payload) = answers.next().await {
                    let n = number(&payload.unwrap());
                    done.lock().unwrap().answers.push(n);
                }
            };
            futures_util::join!(stream, send, take);
            let stats = peer.stats();
            (peer.close().await, stats.resumptions)
        }
    };
    let mut task = ours.spawn(work);
    let mut deaths = 0;
    let (reason, resumptions) = loop {
        let limit = Duration::from_millis(if deaths < 15 { 5 + deaths } else { 60_000 });
        let ended = ours.block_on(async { tokio::time::timeout(limit, &mut task).await });
        if let Ok(ended) = ended {
            break ended.unwrap();
        }
        deaths += 1;
        drop(server);
        server = durable_server("cold-server", &store, &kept);
    };
    println!("{deaths} deaths, {resumptions} resumptions");
    assert!(matches!(reason, CloseReason::Local), "{reason}");
    assert!(resumptions > 5, "{resumptions} of {deaths}");
    let done = done.lock().unwrap();
    assert!(
        done.streamed.iter().copied().eq(0..COUNT),
        "{:?}",
        done.streamed
    );
    assert!(kept.lock().unwrap().iter().copied().eq(0..COUNT));
    assert!(done.answers.iter().copied().eq((0..COUNT).step_by(10)));
}

/// A store whose disk is full from some moment on.
struct Failing {
    store: Arc<MemoryStore>,
    fails: AtomicBool,
}

impl ResumeStore for Failing {
    fn load(&self, token: &[u8]) -> Result<Option<Vec<(Key, Bytes)>>, StoreError> {
        self.store.load(token)
    }

    fn commit(&self, token: &[u8], batch: &Batch) -> Result<(), StoreError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(StoreError::Io {
                action: "write",
                path: "the store".into(),
                source: Arc::new(std::io::ErrorKind::StorageFull.into()),
            });
        }
        self.store.commit(token, batch)
    }

    fn remove(&self, token: &[u8]) -> Result<(), StoreError> {
        self.store.remove(token)
    }

    fn tokens(&self) -> Result<Vec<Bytes>, StoreError> {
        self.store.tokens()
    }
}

fn only_token(store: &MemoryStore) -> Bytes {
    let mut tokens = store.tokens().unwrap();
    assert_eq!(tokens.len(), 1);
    tokens.pop().unwrap()
}

async fn five(stream: &mut PayloadStream, from: u64) {
    for n in from..from + 5 {
        assert_eq!(number(&stream.next().await.unwrap().unwrap()), n);
    }
}

#[test]
fn a_session_that_is_detached_waits_in_its_store_and_the_next_goes_on() {
    let server = runtime();
    serve(&server, "cold-detached", Arc::default());
    let store = Arc::new(MemoryStore::new());
    let connector = || MemoryConnector::new("cold-detached");
    runtime().block_on(async {
        let peer = client(&store).connect(connector()).await.unwrap();
        let mut counts = peer.request_stream("count");
        let lost = tokio::spawn(peer.request_stream("another").take(1).count());
        lost.await.unwrap();
        five(&mut counts, 0).await;
        assert_eq!(counts.received(), 5);
        assert!(matches!(peer.detach().await, CloseReason::Detached));
        drop((counts, peer));

        // What was taken last may be asked for again: nobody said that it was
        // dealt with.
        let token = only_token(&store);
        let (peer, restored) = client(&store)
            .restore(connector(), token.clone())
            .await
            .unwrap();
        assert_eq!(restored.streams().len(), 1);
        let counts = restored.into_iter().next().unwrap();
        assert_eq!((counts.received(), counts.id()), (4, 3));
        let (sink, counts) = counts.into_halves();
        assert!(sink.is_none());
        let mut counts = counts.unwrap();
        counts.skip_to(5);
        five(&mut counts, 5).await;
        assert_eq!(counts.received(), 10);

        // What is dropped before is cancelled.
        drop(counts);
        assert!(matches!(peer.detach().await, CloseReason::Detached));
        let (peer, restored) = client(&store)
            .restore(connector(), token.clone())
            .await
            .unwrap();
        assert!(restored.streams().is_empty());
        assert!(matches!(peer.close().await, CloseReason::Local));
        assert!(store.tokens().unwrap().is_empty());
        let gone = client(&store).restore(connector(), token).await;
        assert!(matches!(gone, Err(RestoreError::Unknown)), "{gone:?}");
    });
}

#[test]
fn what_nobody_takes_from_a_restored_session_is_ended() {
    let server = runtime();
    serve(&server, "cold-untaken", Arc::default());
    let store = Arc::new(MemoryStore::new());
    let connector = || MemoryConnector::new("cold-untaken");
    runtime().block_on(async {
        let peer = client(&store).connect(connector()).await.unwrap();
        let mut counts = peer.request_stream("count");
        let response = peer.request_response("never");
        five(&mut counts, 0).await;
        peer.detach().await;
        drop(response);
        let (peer, mut restored) = client(&store)
            .restore(connector(), only_token(&store))
            .await
            .unwrap();
        assert_eq!(peer.stats().streams_open, 2);
        let never = restored.take(|s| s.interaction() == Interaction::RequestResponse);
        let (_, answer) = never.unwrap().into_halves();
        drop(restored);
        assert_eq!(peer.stats().streams_open, 1);
        drop(answer);
        assert_eq!(peer.stats().streams_open, 0);
        assert!(matches!(peer.close().await, CloseReason::Local));
    });
}

#[test]
fn a_store_that_fails_ends_the_session_here_and_it_goes_on_when_the_store_does() {
    let server = runtime();
    serve(&server, "cold-failing", Arc::default());
    let memory = Arc::new(MemoryStore::new());
    let store = Arc::new(Failing {
        store: Arc::clone(&memory),
        fails: AtomicBool::new(false),
    });
    let connector = || MemoryConnector::new("cold-failing");
    runtime().block_on(async {
        let resume = Resume::new().store(Arc::clone(&store) as Arc<dyn ResumeStore>);
        let peer = Client::new()
            .resume(resume)
            .connect(connector())
            .await
            .unwrap();
        let mut counts = peer.request_stream("count");
        five(&mut counts, 0).await;
        store.fails.store(true, Ordering::Relaxed);
        let error = loop {
            match counts.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("it came to its end"),
            }
        };
        assert!(
            matches!(error, Error::Closed(CloseReason::Store(_))),
            "{error}"
        );
        assert!(matches!(peer.closed().await, CloseReason::Store(_)));
        let (peer, restored) = client(&memory)
            .restore(connector(), only_token(&memory))
            .await
            .unwrap();
        let counts = restored.into_iter().next().unwrap();
        let at = counts.received();
        let mut counts = counts.into_halves().1.unwrap();
        assert!(at >= 4 || at == 0, "{at}");
        five(&mut counts, at).await;
        drop(counts);
        peer.close().await;
    });
}
