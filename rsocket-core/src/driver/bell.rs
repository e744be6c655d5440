//! Whom a link calls when there is something to read.
//!
//! A link remembers one waker. While a licence is out ([`super::solo`]) that is
//! the bell's, which never changes, so that what the link remembers is never out
//! of date; and the bell knows who reads at the moment.

use std::{
    sync::Arc,
    task::{Context, Wake, Waker},
};

#[cfg(all(test, loom))]
use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};
#[cfg(not(all(test, loom)))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};

/// Calls the task that waits for its answer, if it reads for itself, and the
/// driver otherwise.
pub(super) struct Bell {
    /// The link called since the bell was last [hushed](Bell::hush). Set under
    /// the lock.
    rung: AtomicBool,
    /// A copy of what the connection's lock guards, to be asked without it.
    licensed: AtomicBool,
    calls: Mutex<Calls>,
}

struct Calls {
    /// Called instead of the driver, once.
    solo: Option<Waker>,
    driver: Waker,
}

impl Bell {
    pub(super) fn new() -> Self {
        Self {
            rung: AtomicBool::new(false),
            licensed: AtomicBool::new(false),
            calls: Mutex::new(Calls {
                solo: None,
                driver: Waker::noop().clone(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        match self.calls.lock() {
            Ok(calls) => calls,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// Whether a licence may be out.
    #[inline]
    pub(super) fn is_licensed(&self) -> bool {
        // Only worth a try: who goes on takes the lock and sees.
        self.licensed.load(Ordering::Relaxed)
    }

    pub(super) fn set_licensed(&self, licensed: bool) {
        self.licensed.store(licensed, Ordering::Relaxed);
    }

    /// The driver's task is now this one.
    pub(super) fn set_driver(&self, waker: &Waker) {
        let new = waker.clone();
        let old = std::mem::replace(&mut self.lock().driver, new);
        drop(old);
    }

    /// Before the link is looked at: what it called for so far is seen then.
    pub(super) fn hush(&self) {
        // Acquire: what the call was about is to be seen by the look.
        self.rung.swap(false, Ordering::AcqRel);
    }

    /// Whether the link called and was not looked at since.
    pub(super) fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// Has the next call go to the task of `cx`. False if there was one already:
    /// then nobody was called in its place, and the link is to be looked at.
    pub(super) fn call_me(&self, cx: &Context<'_>) -> bool {
        let mut calls = self.lock();
        if self.is_rung() {
            return false;
        }
        match &calls.solo {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => {
                let old = calls.solo.replace(cx.waker().clone());
                drop(calls);
                drop(old);
            }
        }
        true
    }

    /// From now on calls go to the driver.
    pub(super) fn withdraw(&self) {
        let solo = self.lock().solo.take();
        drop(solo);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut calls = self.lock();
        // Under the lock, so that whoever asks to be called sees it, or is called.
        self.rung.store(true, Ordering::Release);
        let waker = match calls.solo.take() {
            Some(solo) => solo,
            None => calls.driver.clone(),
        };
        drop(calls);
        waker.wake();
    }
}
