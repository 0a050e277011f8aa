//! `ward.on(callback)`: events as dictionaries. On the caller's thread at once; from the guard's own threads through a
//! queue, because a callback may wait for the GIL and the guard may not.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::event::{Bus, Event, SubscriptionId, What};
use crate::guard::Guardian;
use crate::guard::watch;

thread_local! {
    /// Set while a callback runs here, so that an event about a failing callback does not call it again.
    static CALLING: Cell<bool> = const { Cell::new(false) };
}

/// The callback, which the subscription owns for Python's garbage collector, and the bus calls.
struct Callback {
    held: Mutex<Option<Py<PyAny>>>,
    /// The collector ends weak references before it takes anything apart: so it is known that it has begun. A function that is
    /// called then has no globals any more, and the process dies.
    weak: Option<Py<PyWeakrefReference>>,
}

impl Callback {
    fn get(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let gone = |weak: &Py<PyWeakrefReference>| weak.bind(py).upgrade().is_none();
        if self.weak.as_ref().is_some_and(gone) {
            return None;
        }
        self.held.lock().as_ref().map(|callback| callback.clone_ref(py))
    }
}

/// A running subscription; `cancel()` ends it.
#[pyclass(frozen, module = "duckward")]
pub(super) struct Subscription {
    callback: Arc<Callback>,
    bus: Arc<Bus>,
    id: Mutex<Option<SubscriptionId>>,
}

#[pymethods]
impl Subscription {
    /// Ends the subscription; a second call does nothing.
    fn cancel(&self, py: Python<'_>) {
        py.detach(|| {
            if let Some(id) = self.id.lock().take() {
                self.bus.unsubscribe(id);
            }
        });
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(callback) = self.callback.held.try_lock() {
            visit.call(&*callback)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let callback = self.callback.held.lock().take();
        drop(callback);
    }

    fn __repr__(&self) -> &'static str {
        if self.id.lock().is_some() {
            "<duckward.Subscription>"
        } else {
            "<duckward.Subscription: cancelled>"
        }
    }
}

/// Subscribes `callback`.
pub(super) fn subscribe(guardian: &Arc<Guardian>, callback: &Bound<'_, PyAny>) -> Subscription {
    let bus = guardian.bus();
    let callback = Arc::new(Callback {
        // There are callables without weak references.
        weak: PyWeakrefReference::new(callback).map(Bound::unbind).ok(),
        held: Mutex::new(Some(callback.clone().unbind())),
    });
    let (sender, receiver) = channel::<Event>();
    let late = Late {
        sender: Mutex::new(sender),
    };
    {
        let (callback, bus) = (Arc::clone(&callback), Arc::downgrade(bus));
        // Ends when the subscription is dropped, with the sender.
        std::thread::Builder::new()
            .name("duckward-events".to_owned())
            .spawn(move || deliver_late(&receiver, &callback, &bus))
            .map_or_else(
                |error| tracing::warn!(target: "duckward", "no thread for callbacks: {error}"),
                drop,
            );
    }
    let held = Arc::clone(&callback);
    let subscriber = move |event: &Event| {
        if watch::on_guard_thread() {
            late.send(event.clone());
            return Ok(());
        }
        if CALLING.get() {
            return Ok(());
        }
        call(&callback, event)
    };
    let id = bus.subscribe(Arc::new(subscriber));
    Subscription {
        callback: held,
        bus: Arc::clone(bus),
        id: Mutex::new(Some(id)),
    }
}

struct Late {
    sender: Mutex<Sender<Event>>,
}

impl Late {
    fn send(&self, event: Event) {
        // Without its thread there is nobody to tell.
        let _ = self.sender.lock().send(event);
    }
}

fn deliver_late(receiver: &Receiver<Event>, callback: &Callback, bus: &std::sync::Weak<Bus>) {
    while let Ok(event) = receiver.recv() {
        if let Err(message) = call(callback, &event)
            && let Some(bus) = bus.upgrade()
            && !matches!(event.what, What::CallbackFailed { .. })
        {
            CALLING.set(true);
            bus.publish(What::CallbackFailed { message });
            CALLING.set(false);
        }
    }
}

/// Calls `callback` with the event; what it raised is shown as an unraisable exception, and returned.
fn call(callback: &Callback, event: &Event) -> Result<(), String> {
    let json = serde_json::to_string(event).map_err(|error| error.to_string())?;
    let called = Python::try_attach(|py| {
        let Some(callback) = callback.get(py) else {
            return Ok(());
        };
        CALLING.set(true);
        let outcome = py
            .import(intern!(py, "json"))
            .and_then(|module| module.call_method1(intern!(py, "loads"), (json,)))
            .and_then(|event| callback.call1(py, (event,)));
        CALLING.set(false);
        outcome.map(drop).map_err(|error| {
            let message = error.to_string();
            error.write_unraisable(py, Some(callback.bind(py)));
            message
        })
    });
    // A callback has nothing to say once the interpreter goes.
    called.unwrap_or(Ok(()))
}
