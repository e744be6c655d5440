//! Two event descriptors that two processes ring in turn: what it costs to sleep
//! and to be woken, and so the most that anything reaches whose sides sleep.
//!
//! In two ways: threads that sleep in the read, and tasks that tokio wakes when
//! there is something to read. The difference is the runtime's.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use tokio::io::{Interest, unix::AsyncFd};

use crate::child::Announce;
use crate::load::{Counter, Meter};
use crate::plan::Load;

fn address(name: &str) -> Result<SocketAddr> {
    Ok(SocketAddr::from_abstract_name(name)?)
}

/// Answers one client's rings.
///
/// # Errors
///
/// When the descriptors cannot be made or handed over.
pub fn serve(announce: Announce) -> Result<()> {
    let [asked, answered] = hand_over(announce, EfdFlags::EFD_CLOEXEC)?;
    loop {
        asked.read()?;
        answered.write(1)?;
    }
}

/// Likewise, as a task.
///
/// # Errors
///
/// As [`serve`].
pub async fn serve_awaited(announce: Announce) -> Result<()> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let [asked, answered] = hand_over(announce, flags)?;
    let asked = awaited(asked)?;
    loop {
        heard(&asked).await?;
        answered.write(1)?;
    }
}

/// Makes the descriptors, and gives them to the first client.
fn hand_over(announce: Announce, flags: EfdFlags) -> Result<[EventFd; 2]> {
    let name = format!("rsocket-bench-{}", process::id());
    let listener = UnixListener::bind_addr(&address(&name)?)?;
    announce(&name);
    let (client, _) = listener.accept()?;
    let asked = EventFd::from_flags(flags)?;
    let answered = EventFd::from_flags(flags)?;
    let fds = [&asked, &answered].map(|bell| bell.as_fd_raw());
    sendmsg::<()>(
        client.as_raw_fd(),
        &[IoSlice::new(b"!")],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        None,
    )?;
    Ok([asked, answered])
}

/// To be read by a task of the current runtime.
#[expect(unsafe_code, reason = "a descriptor is lent to the runtime")]
fn awaited(bell: EventFd) -> Result<AsyncFd<EventFd>> {
    // SAFETY: it owns one descriptor, the same for as long as it lives.
    let bell = unsafe { AsyncFd::register_with_interest(bell, Interest::READABLE) };
    Ok(bell?)
}

async fn heard(bell: &AsyncFd<EventFd>) -> Result<()> {
    bell.async_io(Interest::READABLE, |bell| Ok(bell.read()?))
        .await?;
    Ok(())
}

/// Rings and waits, until something fails.
///
/// # Errors
///
/// When there is no such server, or `load` is more than one in flight.
pub fn drive(name: &str, load: Load, meter: Arc<Meter>) -> Result<()> {
    let [asked, answered] = meet(name, load)?;
    let mut counter = Counter::new(meter, 0);
    loop {
        let sent = Instant::now();
        asked.write(1)?;
        answered.read()?;
        counter.time(sent.elapsed(), 1);
        counter.add(1, load.bytes() as u64);
    }
}

/// Likewise, as a task of a runtime.
///
/// # Errors
///
/// As [`drive`].
pub async fn drive_awaited(name: &str, load: Load, meter: Arc<Meter>) -> Result<()> {
    let [asked, answered] = meet(name, load)?;
    let answered = awaited(answered)?;
    let mut counter = Counter::new(meter, 0);
    loop {
        let sent = Instant::now();
        asked.write(1)?;
        heard(&answered).await?;
        counter.time(sent.elapsed(), 1);
        counter.add(1, load.bytes() as u64);
    }
}

/// Takes the descriptors from the server, for a load that they can carry.
fn meet(name: &str, load: Load) -> Result<[EventFd; 2]> {
    ensure!(
        matches!(load, Load::Tasks { in_flight: 1, .. }),
        "bells have no {load:?}"
    );
    let server = UnixStream::connect_addr(&address(name)?)?;
    let mut byte = [0];
    let mut iov = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; 2]);
    let message = recvmsg::<()>(
        server.as_raw_fd(),
        &mut iov,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let fds = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => <[RawFd; 2]>::try_from(fds).ok(),
        _ => None,
    });
    Ok(fds.context("two descriptors")?.map(own))
}

#[expect(unsafe_code, reason = "descriptors that came in a message")]
fn own(fd: RawFd) -> EventFd {
    // SAFETY: the kernel has just made this descriptor for us, and nobody else
    // knows of it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the server sends event descriptors.
    unsafe { EventFd::from_owned_fd(fd) }
}

trait Raw {
    fn as_fd_raw(&self) -> RawFd;
}

impl Raw for EventFd {
    fn as_fd_raw(&self) -> RawFd {
        use std::os::fd::AsFd as _;
        self.as_fd().as_raw_fd()
    }
}
