//! The interop program: a server with a fixed service, and a client that is
//! moved by JSON lines, so that any RSocket implementation can be tested
//! against this one as a black box.
//!
//! ```text
//! interop server --tcp 7878 --unix /run/interop
//! interop driver
//! ```
//!
//! `examples/interop/README.md` has the service and the driver's protocol, and
//! the matrix of implementations that uses both. Read on in this order:
//!
//! - [`service`]: what is answered, by the server and by the driver alike;
//! - [`server`]: one service on many transports at once;
//! - [`driver`]: requests as its input asks for them, with exact credit;
//! - [`call`]: one request of the driver, from its command to its last event;
//! - [`json`], [`output`]: the lines that go in and out.
//!
//! Nothing but the public API is used.

mod call;
mod driver;
mod json;
mod output;
mod server;
mod service;

use std::process::ExitCode;

use clap::Parser;

/// A server, and a client moved by JSON lines, to test RSocket implementations with.
#[derive(Parser)]
#[command(name = "interop", version)]
enum Command {
    /// Serves the interop service until killed.
    Server(server::Args),
    /// Reads commands as JSON lines and reports what happens as JSON lines.
    Driver,
}

fn main() -> ExitCode {
    let command = Command::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match command {
            Command::Server(args) => server::run(args).await,
            Command::Driver => driver::run().await,
        }
    });
    // Dropping it would wait for the thread that reads standard input, and that
    // one waits for a line.
    runtime.shutdown_background();
    code
}
