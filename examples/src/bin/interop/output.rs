//! Standard output, by the line.

use std::{io::Write as _, thread::JoinHandle};

use tokio::sync::mpsc;

use crate::json::Event;

/// Reports events; all clones write the same output, each line whole.
///
/// A thread of its own writes, since a pipe that nobody reads blocks its
/// writer. What waits for it is bounded: then those who report wait, the
/// library with them, and at last the peer.
#[derive(Clone)]
pub(crate) struct Events(mpsc::Sender<Message>);

enum Message {
    Line(String),
    End,
}

/// The thread that writes.
pub(crate) struct Writer {
    events: Events,
    thread: JoinHandle<()>,
}

impl Events {
    /// Lines that may wait.
    const CAPACITY: usize = 256;

    pub(crate) fn start() -> (Self, Writer) {
        let (sender, lines) = mpsc::channel(Self::CAPACITY);
        let events = Self(sender);
        let thread = std::thread::spawn(move || write_all(lines));
        let writer = Writer {
            events: events.clone(),
            thread,
        };
        (events, writer)
    }

    /// Reports an event of request `id`; 0 is the connection.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, nothing was reported.
    pub(crate) async fn emit(&self, id: u64, event: Event) {
        // It fails when nobody reads the output any more: nobody to tell.
        let _ = self.0.send(Message::Line(event.to_line(id))).await;
    }

    /// Reports a panic, if there is room: whoever panics cannot wait.
    pub(crate) fn emit_crash(&self, message: String) {
        let line = Event::Crash { message }.to_line(0);
        let _ = self.0.try_send(Message::Line(line));
    }
}

impl Writer {
    /// Writes what was reported before this call, and ends.
    pub(crate) async fn finish(self) {
        let _ = self.events.0.send(Message::End).await;
        let _ = tokio::task::spawn_blocking(|| self.thread.join()).await;
    }
}

/// Whatever is at hand goes out at once; no line waits for another.
fn write_all(mut messages: mpsc::Receiver<Message>) {
    let mut waiting = Vec::new();
    let mut text = String::new();
    while messages.blocking_recv_many(&mut waiting, Events::CAPACITY) > 0 {
        let mut end = false;
        for message in waiting.drain(..) {
            match message {
                Message::Line(line) => text.push_str(&line),
                Message::End => end = true,
            }
        }
        let mut out = std::io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        if end || written.is_err() {
            return;
        }
        text.clear();
    }
}
