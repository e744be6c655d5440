//! A client that does what its input says and reports what happens.

use std::{
    collections::{HashMap, hash_map::Entry},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use rsocket_core::{
    Client, CloseReason, Requester,
    transport::{TransportError, UrlError},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

use crate::{
    call::{self, Call, Tell},
    json::{Caps, Connect, Event, Op, parse},
    output::Events,
    server::with_cause,
    service::{Counters, Service},
};

/// Media type of data and metadata.
const MIME: &str = "application/octet-stream";

/// Does as standard input says, until `quit` or its end.
pub(crate) async fn run() -> ExitCode {
    let (events, writer) = Events::start();
    report_panics(events.clone());
    let mut driver = Driver {
        events,
        counters: Arc::default(),
        connection: None,
    };
    let mut input = BufReader::new(tokio::io::stdin());
    let mut line = Vec::new();
    loop {
        line.clear();
        match input.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => break,
            Ok(_) if line.trim_ascii().is_empty() => {}
            Ok(_) => match parse(&line) {
                Ok((_, Op::Quit)) => break,
                Ok((id, op)) => driver.handle(id, op).await,
                Err((id, message)) => driver.events.emit(id, Event::error(message)).await,
            },
        }
    }
    writer.finish().await;
    ExitCode::SUCCESS
}

/// A panic of the library is what a tester looks for; stderr may be unread.
fn report_panics(events: Events) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        events.emit_crash(panic.to_string());
        report(panic);
    }));
}

/// At most one connection at a time.
struct Driver {
    events: Events,
    counters: Arc<Counters>,
    connection: Option<Connection>,
}

impl Driver {
    async fn handle(&mut self, id: u64, op: Op) {
        match op {
            Op::Caps => self.events.emit(id, caps()).await,
            Op::Connect(options) => {
                let event = match self.connect(&options).await {
                    Ok(()) => Event::Ok,
                    Err(message) => Event::error(message),
                };
                self.events.emit(id, event).await;
            }
            Op::Close => {
                self.close().await;
                self.events.emit(id, Event::Ok).await;
            }
            Op::Quit => {}
            op => {
                let done = match &mut self.connection {
                    Some(connection) => connection.handle(id, op),
                    None => Err("not connected".to_owned()),
                };
                if let Err(message) = done {
                    self.events.emit(id, Event::error(message)).await;
                }
            }
        }
    }

    async fn connect(&mut self, options: &Connect) -> Result<(), String> {
        let connector = examples::transports()
            .connector(&options.url)
            .map_err(|error| cannot_use(&error))?;
        self.close().await;

        let service = Service::new(&self.counters);
        let mut client = Client::new()
            .data_mime(MIME)
            .metadata_mime(MIME)
            .keepalive(
                Duration::from_millis(options.keepalive_ms.unwrap_or(20_000)),
                Duration::from_millis(options.lifetime_ms.unwrap_or(90_000)),
            )
            .setup(options.setup())
            // `close` cancels what this side asked for; only what the server
            // asks for may hold it up.
            .drain_timeout(Duration::from_secs(1))
            .responder(service.clone());
        if let Some(len) = options.mtu {
            client = client.fragment(len);
        }
        if let Some(resume) = options.resume() {
            client = client.resume(resume);
        }
        if let Some(leases) = options.lease() {
            client = client.lease(leases);
        }
        let requester = client
            .connect(connector)
            .await
            .map_err(|error| call::code_and_message(error).1)?;
        service.set_peer(requester.clone());
        self.connection = Some(Connection::new(requester, self.events.clone()));
        Ok(())
    }

    async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }
}

fn caps() -> Event {
    let transports = examples::transports();
    let speaks = |wanted| transports.schemes().any(|scheme| scheme == wanted);
    Event::Caps(Box::new(Caps {
        implementation: concat!("rsocket-core ", env!("CARGO_PKG_VERSION")),
        tcp: speaks("tcp"),
        ws: speaks("ws"),
        request_n: true,
        initial_n: true,
        cancel_rr: true,
        cancel_stream: true,
        lease: true,
        resume: true,
        mtu: true,
        channel: true,
        channel_demand: true,
        channel_error: true,
        push: true,
        fnf: true,
        responder: true,
        errorcodes: true,
    }))
}

/// Testers tell by its beginning what is missing from what fails.
fn not_supported(what: &str) -> String {
    format!("not supported: {what}")
}

fn cannot_use(error: &TransportError) -> String {
    let cause = std::error::Error::source(error);
    match cause.and_then(|cause| cause.downcast_ref()) {
        Some(unknown @ UrlError::UnknownScheme { .. }) => not_supported(&unknown.to_string()),
        _ => with_cause(error),
    }
}

/// A connection and the requests on it.
struct Connection {
    requester: Requester,
    events: Events,
    /// How to reach running requests.
    running: HashMap<u64, mpsc::UnboundedSender<Tell>>,
    /// The tasks of running requests; each returns the request's id.
    calls: JoinSet<u64>,
    /// Reports the connection's end.
    watch: JoinHandle<()>,
}

impl Connection {
    fn new(requester: Requester, events: Events) -> Self {
        let watch = {
            let (requester, events) = (requester.clone(), events.clone());
            tokio::spawn(async move {
                let event = end_of_connection(requester.closed().await);
                events.emit(0, event).await;
            })
        };
        Self {
            requester,
            events,
            running: HashMap::new(),
            calls: JoinSet::new(),
            watch,
        }
    }

    fn handle(&mut self, id: u64, op: Op) -> Result<(), String> {
        match op {
            Op::Rr(content) => {
                let payload = content.into_payload()?;
                self.start(id, |call| call::response(call, payload));
            }
            Op::Fnf(content) => {
                let payload = content.into_payload()?;
                self.start(id, |call| call::fire_and_forget(call, payload));
            }
            Op::Push(content) => {
                let metadata = content.into_metadata()?;
                self.start(id, |call| call::metadata_push(call, metadata));
            }
            Op::Stream(request) => {
                let payload = request.content.into_payload()?;
                self.start(id, |call| call::stream(call, payload, request.n));
            }
            Op::Channel(request) => {
                let payload = request.content.into_payload()?;
                self.start(id, |call| call::channel(call, payload, request.n));
            }
            Op::RequestN { n } => self.tell(id, Tell::RequestN(n)),
            Op::Cancel => self.tell(id, Tell::Cancel),
            Op::Send(content) => self.tell(id, Tell::Send(content.into_payload()?)),
            Op::SendComplete => self.tell(id, Tell::Complete),
            Op::SendError { message } => self.tell(id, Tell::Fail(message)),
            Op::Caps | Op::Connect(_) | Op::Close | Op::Quit => {}
        }
        Ok(())
    }

    /// Sends a request, and leaves what follows to a task of its own.
    fn start<F>(&mut self, id: u64, run: impl FnOnce(Call) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.reap();
        // Unbounded: it holds what the tester said and the peer gave no credit
        // for, and a bound would hold up commands that give credit.
        let (tell, told) = mpsc::unbounded_channel();
        let call = Call {
            id,
            requester: self.requester.clone(),
            events: self.events.clone(),
            told,
        };
        let mut run = Box::pin(run(call));
        // Polled once here, for that is what sends it: so requests leave in the
        // order of their commands, whichever task comes first.
        if run.as_mut().now_or_never().is_none() {
            self.running.insert(id, tell);
            self.calls.spawn(async move {
                run.await;
                id
            });
        }
    }

    /// The request may have ended meanwhile, and then there is nobody to tell.
    fn tell(&self, id: u64, tell: Tell) {
        if let Some(call) = self.running.get(&id) {
            let _ = call.send(tell);
        }
    }

    /// Forgets requests that have ended.
    fn reap(&mut self) {
        while let Some(ended) = self.calls.try_join_next() {
            if let Ok(id) = ended
                && let Entry::Occupied(call) = self.running.entry(id)
                // Else the id is in use again.
                && call.get().is_closed()
            {
                call.remove();
            }
        }
    }

    /// Gives up all requests and ends the connection in good order; the end is
    /// reported before this returns.
    async fn close(mut self) {
        self.calls.shutdown().await;
        self.requester.close().await;
        let _ = self.watch.await;
    }
}

fn end_of_connection(reason: CloseReason) -> Event {
    let message = reason.to_string();
    match reason {
        CloseReason::Local
        | CloseReason::Peer
        | CloseReason::DrainTimeout
        | CloseReason::NotResumed { .. }
        | CloseReason::Transport(_) => Event::Closed { message },
        CloseReason::Refused(failure)
        | CloseReason::PeerError(failure)
        | CloseReason::ResumeRefused(failure) => Event::ConnError {
            code: failure.code().get(),
            message: failure.message().to_owned(),
        },
        CloseReason::KeepaliveTimeout { .. } => Event::KeepaliveTimeout,
        // The peer broke the protocol: what testers look for.
        _ => Event::Crash { message },
    }
}
