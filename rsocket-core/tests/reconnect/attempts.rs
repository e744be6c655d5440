//! When attempts are made, and what is seen of them.

use super::*;

#[tokio::test(start_paused = true)]
async fn attempts_have_the_delays_that_were_asked_for() {
    let name = unique_name();
    let connector = Noted::new(&name);
    let start = Instant::now();
    let peer = Client::new().reconnecting(connector.clone(), steady());
    sleep(5150 * MS).await;
    let times = |from: usize, since: Instant| -> Vec<u128> {
        let times = connector.times();
        let since_then = times[from..].iter().map(|at| *at - since);
        // The timer's grain is a millisecond.
        since_then.map(|d| d.as_millis() / 10 * 10).collect()
    };
    // The first at once; then 200, 400, 800, 1000, 1000 ms.
    assert_eq!(times(0, start), [0, 200, 600, 1400, 2400, 3400, 4400]);

    // One that lasts makes delays short again, and the next row starts with one.
    let server = Up::serve(&name, Seen::default().echo());
    connected(&peer).await;
    sleep(Duration::from_secs(11)).await;
    let made = connector.times().len();
    let lost = Instant::now();
    server.kill().await;
    sleep(800 * MS).await;
    assert_eq!(times(made, lost), [100, 300, 700]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_dies_is_not_asked_ever_faster() {
    let name = unique_name();
    let mut listener = MemoryListener::bind(&name).unwrap();
    tokio::spawn(async move {
        while let Ok(accepted) = listener.accept().await {
            drop(accepted.await);
        }
    });
    let connector = Noted::new(&name);
    let _peer = Client::new().reconnecting(connector.clone(), steady());
    sleep(Duration::from_secs(60)).await;
    let made = connector.times().len();
    assert!((60..=66).contains(&made), "{made} attempts in a minute");
}

// Each client's delay is its own: seeds differ by themselves.
#[tokio::test(start_paused = true)]
async fn clients_that_lost_the_same_server_do_not_come_back_all_at_once() {
    const CLIENTS: usize = 500;
    let name = unique_name();
    let server = Up::serve(&name, Seen::default().echo());
    let connector = Noted::new(&name);
    let peers: Vec<_> = (0..CLIENTS)
        .map(|_| Client::new().reconnecting(connector.clone(), Reconnect::new()))
        .collect();
    for peer in &peers {
        connected(peer).await;
    }
    // Long enough for the next row of delays to be a new one.
    sleep(Duration::from_secs(11)).await;
    let lost = Instant::now();
    server.kill().await;
    let _server = Up::serve(&name, Seen::default().echo());
    for peer in &peers {
        until(peer, |state| {
            matches!(state, ConnectionState::Connected { session: 2 })
        })
        .await;
    }
    let mut buckets = [0; 11];
    for at in &connector.times()[CLIENTS..] {
        buckets[usize::try_from((*at - lost).as_millis() / 10).unwrap()] += 1;
    }
    assert_eq!(buckets.iter().sum::<usize>(), CLIENTS);
    // Even would be a tenth in each 10 ms; a fifth is twelve deviations off.
    assert!(buckets.iter().all(|n| *n < CLIENTS / 5), "{buckets:?}");
}

#[tokio::test(start_paused = true)]
async fn after_giving_up_all_requests_fail_with_the_last_reason_until_told_to_try_again() {
    let name = unique_name();
    let backoff = Backoff::new(100 * MS, 1000 * MS).max_attempts(3);
    let connector = Noted::new(&name);
    let settings = Reconnect::new().backoff(backoff);
    let peer = Client::new().reconnecting(connector.clone(), settings);
    let waits = peer.request_response("early");
    let is_right = |error: Error| {
        let text = error.to_string();
        match error {
            Error::Closed(reason @ CloseReason::Transport(_)) => {
                reason.to_string().contains("could not connect")
            }
            _ => panic!("{text}"),
        }
    };
    assert!(is_right(waits.await.unwrap_err()));
    assert_eq!(connector.times().len(), 3);
    let ConnectionState::GaveUp { error, attempts: 3 } = peer.state() else {
        panic!("{:?}", peer.state())
    };
    assert!(is_right(error));
    let late = peer.request_response("late").now_or_never().unwrap();
    assert!(is_right(late.unwrap_err()));
    let late = peer.request_stream("late").next().now_or_never().unwrap();
    assert!(is_right(late.unwrap().unwrap_err()));
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(connector.times().len(), 3);

    let _server = Up::serve(&name, Seen::default().echo());
    peer.reconnect_now();
    connected(&peer).await;
    assert!(peer.request_response("again").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn reconnect_now_cuts_a_delay_short() {
    let name = unique_name();
    let hour = Duration::from_secs(3600);
    let backoff = Backoff::new(hour, hour).without_jitter();
    let peer = client(&name, Reconnect::new().backoff(backoff));
    let mut states = peer.states();
    while !matches!(
        states.next().await,
        Some(ConnectionState::Disconnected { retry_in: Some(d), .. }) if d == hour
    ) {}
    let _server = Up::serve(&name, Seen::default().echo());
    let start = Instant::now();
    peer.reconnect_now();
    assert!(peer.request_response("x").await.is_ok());
    assert!(start.elapsed() < Duration::from_secs(1));
}

/// Refuses all whose setup payload is not "good"; counts who asked.
fn strict(name: &str) -> Arc<AtomicUsize> {
    let listener = MemoryListener::bind(name).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(Server::new().serve(listener, move |setup, _| {
        count.fetch_add(1, Ordering::Relaxed);
        future::ready(if setup.payload().data() == b"good" {
            Ok(Seen::default().echo())
        } else {
            Err(Failure::rejected("who are you?"))
        })
    }));
    asked
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_tried_again() {
    let name = unique_name();
    let asked = strict(&name);
    let peer = client(&name, Reconnect::new());
    let state = until(&peer, |state| {
        matches!(state, ConnectionState::GaveUp { .. })
    })
    .await;
    let ConnectionState::GaveUp { error, attempts: 1 } = state else {
        panic!("{state:?}")
    };
    assert!(matches!(error, Error::Closed(CloseReason::Refused(_))));
    let error = peer.request_response("x").await.unwrap_err();
    assert!(
        matches!(&error, Error::Closed(CloseReason::Refused(failure)) if failure.message() == "who are you?")
    );
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_tried_again_if_so_wanted_with_a_payload_made_anew() {
    let name = unique_name();
    let asked = strict(&name);
    let made = Arc::new(AtomicUsize::new(0));
    let tokens = Client::new().setup_with(move || {
        let n = made.fetch_add(1, Ordering::Relaxed);
        async move {
            sleep(10 * MS).await;
            Payload::new(if n < 2 { "stale" } else { "good" })
        }
    });
    let settings = Reconnect::new().retry_if(|reason| matches!(reason, CloseReason::Refused(_)));
    let peer = tokens.reconnecting(MemoryConnector::new(&name), settings);
    until(&peer, |state| {
        matches!(state, ConnectionState::Connected { session: 3 })
    })
    .await;
    assert!(peer.request_response("x").await.is_ok());
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_setup_that_fits_no_frame_is_not_tried_again() {
    let setup = Client::new().setup(vec![0; 17 << 20]);
    let peer = setup.reconnecting(MemoryConnector::new(unique_name()), Reconnect::new());
    let error = peer.request_response("x").await.unwrap_err();
    assert!(matches!(error, Error::TooLong { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn states_tell_that_a_session_was_lost_and_another_made() {
    let name = unique_name();
    let server = Up::serve(&name, Seen::default().echo());
    // So slow that no state is missed.
    let slow = Client::new().setup_with(|| sleep(MS).map(|()| Payload::default()));
    let peer = slow.reconnecting(MemoryConnector::new(&name), steady());
    let mut states = peer.states();
    let mut next = async || format!("{:?}", states.next().await);
    assert!(next().await.contains("Disconnected { reason: None"));
    assert_eq!(next().await, "Some(Connecting { attempt: 1 })");
    assert_eq!(next().await, "Some(Connected { session: 1 })");
    server.kill().await;
    let lost = next().await;
    assert!(
        lost.contains("Disconnected { reason: Some(") && lost.contains("Some(200ms)"),
        "{lost}"
    );
    let _server = Up::serve(&name, Seen::default().echo());
    assert_eq!(next().await, "Some(Connecting { attempt: 2 })");
    assert_eq!(next().await, "Some(Connected { session: 2 })");
    drop(peer);
    assert_eq!(next().await, "Some(Closed)");
    assert_eq!(next().await, "None");
}

#[tokio::test(start_paused = true)]
async fn on_demand_means_that_attempts_are_made_for_requests_alone() {
    let name = unique_name();
    let day = Duration::from_secs(86_400);
    let connector = Noted::new(&name);
    let peer = Client::new().reconnecting(connector.clone(), steady().dial(Dial::OnDemand));
    sleep(day).await;
    assert_eq!(connector.times().len(), 0);

    let waits = timeout(500 * MS, peer.request_response("x")).await;
    assert!(waits.is_err());
    sleep(day).await;
    // At 0, 200; and the one due at 600 when nobody waits any more is not made.
    assert_eq!(connector.times().len(), 2);

    let fast = peer.when_down(WhenDown::FailFast);
    assert!(fast.request_response("x").await.is_err());
    sleep(day).await;
    assert_eq!(
        connector.times().len(),
        3,
        "it asked for an attempt, and one"
    );

    let server = Up::serve(&name, Seen::default().echo());
    assert!(fast.request_response("x").await.is_err());
    connected(&peer).await;
    assert!(fast.request_response("x").await.is_ok());
    assert_eq!(connector.times().len(), 4);

    server.kill().await;
    sleep(day).await;
    assert_eq!(connector.times().len(), 4);
    let _server = Up::serve(&name, Seen::default().echo());
    let asked = Instant::now();
    assert!(peer.request_response("x").await.is_ok());
    assert!(asked.elapsed() < 10 * MS, "nobody has to wait for a delay");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_is_given_up_and_made_again() {
    struct Hangs(Arc<AtomicUsize>, MemoryConnector);
    #[async_trait::async_trait]
    impl Connector for Hangs {
        async fn connect(&self) -> Result<Link, TransportError> {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                future::pending::<()>().await;
            }
            self.1.connect().await
        }
    }
    let name = unique_name();
    let _server = Up::serve(&name, Seen::default().echo());
    let made = Arc::new(AtomicUsize::new(0));
    let connector = Hangs(Arc::clone(&made), MemoryConnector::new(&name));
    let settings = Reconnect::new().attempt_timeout(Duration::from_secs(2));
    let peer = Client::new().reconnecting(connector, settings);
    let start = Instant::now();
    assert!(peer.request_response("x").await.is_ok());
    assert!((2000 * MS..2300 * MS).contains(&start.elapsed()));
    assert_eq!(made.load(Ordering::Relaxed), 2);
}
