//! A server process that is killed and started again on its port.

use std::{
    future,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rsocket_core::{
    Backoff, Client, CloseReason, ConnectionState, Error, Handlers, Reconnect, Reconnecting,
    WhenDown, serve, testkit::halves::watched, transport::Listener as _,
};
use rsocket_transport_tcp::{TcpConnector, TcpListener};

/// Where the server process is to listen.
const LISTEN: &str = "RSOCKET_TEST_LISTEN";

/// Goes before the address in the server's output.
const LISTENING: &str = "listening on ";

/// The server: echoes, but for "hang", which it never answers.
#[test]
#[ignore = "the other tests run it, as a process of its own"]
fn serve_until_killed() {
    let Ok(address) = std::env::var(LISTEN) else {
        return; // Somebody runs all that is ignored.
    };
    // Ends with the process that started it, however that ends.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.unwrap();
        println!("\n{LISTENING}{}", listener.local_addr());
        let echo = Handlers::new().on_request_response(|request| async move {
            if request.data() == b"hang" {
                future::pending::<()>().await;
            }
            Ok(request)
        });
        let accept = move |_, _| future::ready(Ok(echo.clone()));
        serve(listener, accept).await.unwrap();
    });
}

/// A process that runs [`serve_until_killed`].
struct Server(Child);

impl Server {
    /// Starts it, and returns where it listens.
    fn start(address: &str) -> (Self, String) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "reconnect::serve_until_killed",
                "--nocapture",
            ])
            .env(LISTEN, address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let address = output
            .lines()
            .find_map(|line| Some(line.unwrap().strip_prefix(LISTENING)?.to_owned()))
            .expect("it says where it listens");
        (Self(child), address)
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn until(peer: &Reconnecting, is_it: impl Fn(&ConnectionState) -> bool) -> ConnectionState {
    let mut states = peer.states();
    loop {
        let state = states.next().await.unwrap();
        if is_it(&state) {
            return state;
        }
    }
}

// java#540, #654: a server that was restarted is found again.
#[tokio::test]
async fn a_server_process_that_is_killed_and_started_again_answers_those_who_waited() {
    watched(async {
        let (server, address) = Server::start("127.0.0.1:0");
        let backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
        let peer = Client::new().reconnecting(
            TcpConnector::new(address.as_str()),
            Reconnect::new().backoff(backoff),
        );
        assert_eq!(peer.request_response("1").await.unwrap().data(), b"1");

        let in_flight = peer.request_response("hang");
        // What follows on the same connection shows that it has arrived.
        assert!(peer.request_response("2").await.is_ok());
        server.kill();
        let in_flight = in_flight.await;
        assert!(
            matches!(
                in_flight,
                Err(Error::Closed(CloseReason::Peer | CloseReason::Transport(_)))
            ),
            "{in_flight:?}"
        );
        until(&peer, |state| !state.is_connected()).await;
        let fast = peer.when_down(WhenDown::FailFast);
        let refused = fast.request_response("x").await;
        assert!(
            matches!(refused, Err(Error::NotConnected(_))),
            "{refused:?}"
        );
        let waiting: Vec<_> = (0..100)
            .map(|n: u32| {
                let call = peer.request_response(n.to_string());
                tokio::spawn(async move { (n.to_string(), call.await) })
            })
            .collect();
        // Until an attempt failed for want of a server.
        until(&peer, |state| {
            matches!(state, ConnectionState::Connecting { attempt: 4.. })
        })
        .await;
        assert_eq!(peer.waiting(), 100);

        let (_server, again) = Server::start(&address);
        assert_eq!(again, address);
        for call in waiting {
            let (n, answer) = call.await.unwrap();
            assert_eq!(answer.unwrap().data_utf8(), Some(n.as_str()));
        }
        assert!(matches!(
            peer.state(),
            ConnectionState::Connected { session: 2 }
        ));
        assert!(fast.request_response("x").await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_server_that_was_not_there_yet_is_found_when_it_comes() {
    watched(async {
        // Taken and given back, so that nobody listens there.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr();
        assert!(listener.url().ends_with(&address.to_string()));
        drop(listener);
        let peer = Client::new().reconnecting(TcpConnector::new(address), Reconnect::new());
        let early = peer.request_response("early");
        let is_refused = |state: &ConnectionState| {
            matches!(state, ConnectionState::Disconnected { reason: Some(reason), .. }
                if reason.to_string().contains("refused"))
        };
        until(&peer, is_refused).await;
        let (_server, _) = Server::start(&address.to_string());
        assert_eq!(early.await.unwrap().data(), b"early");
    })
    .await;
}
