//! The same service twice: with messages that are encoded and decoded, and with
//! views, which are neither.
//!
//! ```text
//! cargo run --release --example views
//! ```
//!
//! A client sends batches of quotes to a server in another process, over shared
//! memory, and the server says what each batch is worth. With Protocol Buffers
//! the quotes are put into a message, the message is encoded, the bytes are
//! copied into shared memory, and all that is undone on the other side. With
//! views the client writes the quotes where the server will find them
//! ([`Requester::buffer`](rsocket_core::Requester::buffer)), and the server reads
//! them where they are.
//!
//! The table says how long a request takes for who makes it: building the batch,
//! sending it, its reading by the server, and the short answer. The ways take
//! turns, so that what else the machine does hits them alike.

mod quotes;
#[cfg(target_os = "linux")]
mod sides;

use clap::Parser;

/// Compares encoded messages with views over shared memory.
#[derive(Parser)]
#[cfg_attr(
    not(target_os = "linux"),
    expect(dead_code, reason = "has no shared memory")
)]
struct Args {
    /// Turns of each way.
    #[arg(long, default_value_t = 100)]
    turns: usize,

    /// Requests in a turn, of the long batches; four times as many of the short
    /// ones.
    #[arg(long, default_value_t = 50)]
    requests: u64,

    /// Be the server, at addresses that begin with this name. For the program's
    /// own use.
    #[arg(long, hide = true)]
    serve: Option<String>,
}

#[cfg(target_os = "linux")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    match args.serve {
        Some(name) => sides::serve(&name).await,
        None => sides::compare(args.turns, args.requests).await,
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    Args::parse();
    println!("Shared memory is for Linux only.");
}
