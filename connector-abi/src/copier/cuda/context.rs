//! Contexts, streams, events and pinned memory of the driver as values that give back what they hold.
//!
//! Every call is made inside [`Entered`]: with the context current in the thread, and with the thread's stream capture
//! mode relaxed. The latter matters where the engine records a graph in another thread: by default many calls of ours, an
//! event's query among them, would be refused then and would spoil the engine's capture as well.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use super::driver::{Address, Driver, Handle};
use super::error::{DriverError, NOT_READY};
use crate::ClientError;

const STREAM_NON_BLOCKING: c_uint = 1;
const EVENT_BLOCKING_SYNC: c_uint = 1;
const EVENT_DISABLE_TIMING: c_uint = 2;
const HOST_PORTABLE: c_uint = 1;
const CAPTURE_MODE_RELAXED: c_int = 2;
const POINTER_MEMORY_TYPE: c_int = 2;
const POINTER_IS_MANAGED: c_int = 8;
const POINTER_DEVICE: c_int = 9;
const MEMORY_TYPE_DEVICE: u32 = 2;

/// The context that the engine computes in, kept alive.
pub(super) struct Context {
    pub(super) driver: Driver,
    handle: Handle,
    device: c_int,
    /// The context is its device's primary one and was retained.
    retained: bool,
}

impl Context {
    /// The primary context of a device, or the one that is current in this thread.
    pub(super) fn open(driver: Driver, ordinal: Option<u32>) -> Result<Arc<Self>, ClientError> {
        let mut context = Self {
            driver,
            handle: 0,
            device: 0,
            retained: false,
        };
        let current = match ordinal {
            Some(ordinal) => {
                let ordinal = c_int::try_from(ordinal)
                    .map_err(|_| ClientError::range("device", "a device's number", ordinal))?;
                // SAFETY: `device` is a place for a device.
                let status = unsafe { (context.driver.device_get)(&raw mut context.device, ordinal) };
                context.driver.check("cuDeviceGet", status)?;
                None
            }
            None => Some(context.find_current()?),
        };
        // SAFETY: `handle` is a place for a context.
        let status = unsafe { (context.driver.primary_retain)(&raw mut context.handle, context.device) };
        context.driver.check("cuDevicePrimaryCtxRetain", status)?;
        context.retained = true;
        if let Some(current) = current.filter(|current| *current != context.handle) {
            // A context that the engine made itself: it is the engine's to keep.
            context.release();
            context.handle = current;
        }
        Ok(Arc::new(context))
    }

    /// The current context; `device` becomes its device.
    fn find_current(&mut self) -> Result<Handle, ClientError> {
        let mut current = 0;
        // SAFETY: `current` is a place for a context.
        let status = unsafe { (self.driver.context_current)(&raw mut current) };
        self.driver.check("cuCtxGetCurrent", status)?;
        if current == 0 {
            return Err(ClientError::BadArgument(
                "device: want a number, because no CUDA context is current in this thread".to_owned(),
            ));
        }
        // SAFETY: `device` is a place for a device; a context is current.
        let status = unsafe { (self.driver.context_device)(&raw mut self.device) };
        self.driver.check("cuCtxGetDevice", status)?;
        Ok(current)
    }

    fn release(&mut self) {
        if std::mem::take(&mut self.retained) {
            // SAFETY: retained once, and nothing of it is used any more. A refusal leaves nothing to be done.
            unsafe { (self.driver.primary_release)(self.device) };
        }
    }

    /// Makes the context current in this thread until the value is dropped.
    pub(super) fn enter(&self) -> Result<Entered<'_>, DriverError> {
        // SAFETY: the context is alive: retained, or the engine's as it promised.
        self.check("cuCtxPushCurrent", unsafe {
            (self.driver.context_push)(self.handle)
        })?;
        let mut mode = CAPTURE_MODE_RELAXED;
        // SAFETY: `mode` is a place for a mode, with a valid one in it.
        let status = unsafe { (self.driver.capture_mode)(&raw mut mode) };
        let entered = Entered {
            context: self,
            mode: (status == 0).then_some(mode),
            thread: PhantomData,
        };
        self.check("cuThreadExchangeStreamCaptureMode", status)?;
        Ok(entered)
    }

    pub(super) fn check(&self, call: &'static str, status: c_int) -> Result<(), DriverError> {
        self.driver.check(call, status)
    }

    /// The device's number.
    pub(super) fn device(&self) -> i32 {
        self.device
    }

    /// The device's name, as people know it.
    pub(super) fn device_name(&self) -> String {
        let mut name = [0_u8; 128];
        // SAFETY: `name` has room for 127 bytes and a NUL.
        let status =
            unsafe { (self.driver.device_name)(name.as_mut_ptr().cast::<c_char>(), 127, self.device) };
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(0);
        match status {
            0 => String::from_utf8_lossy(&name[..end]).into_owned(),
            _ => "unknown".to_owned(),
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.release();
    }
}

/// A context that is current in this thread.
pub(super) struct Entered<'a> {
    context: &'a Context,
    mode: Option<c_int>,
    /// What is current is the thread's.
    thread: PhantomData<*const ()>,
}

impl Entered<'_> {
    fn driver(&self) -> &Driver {
        &self.context.driver
    }

    /// Why an address is not in plain memory of this context's device; `None`: it is.
    pub(super) fn not_device_memory(&self, address: usize) -> Option<String> {
        let ask = |attribute| {
            let mut value = 0_u32;
            // SAFETY: these attributes are numbers of 32 bits or less; any address may be asked about.
            let status = unsafe {
                (self.driver().pointer_attribute)(
                    (&raw mut value).cast::<c_void>(),
                    attribute,
                    address as Address,
                )
            };
            self.context
                .check("cuPointerGetAttribute", status)
                .map(|()| value)
        };
        match ask(POINTER_MEMORY_TYPE) {
            Ok(MEMORY_TYPE_DEVICE) => {}
            Ok(_) => return Some("host memory".to_owned()),
            Err(error) => return Some(format!("memory that is not the device's ({error})")),
        }
        if ask(POINTER_IS_MANAGED).is_ok_and(|managed| managed & 0xff != 0) {
            return Some("managed memory".to_owned());
        }
        match ask(POINTER_DEVICE) {
            Ok(device) if i64::from(device) == i64::from(self.context.device) => None,
            Ok(device) => Some(format!("memory of device {device}")),
            Err(error) => Some(format!("memory of an unknown device ({error})")),
        }
    }

    /// Whether a stream records a graph instead of working.
    pub(super) fn is_capturing(&self, stream: Handle) -> Result<bool, DriverError> {
        let mut state = 0;
        // SAFETY: `state` is a place for a state; that the stream is one is the caller's promise.
        let status = unsafe { (self.driver().stream_capturing)(stream, &raw mut state) };
        match self.context.check("cuStreamIsCapturing", status) {
            Err(error) if error.is_capture() => Ok(true),
            answer => answer.map(|()| state != 0),
        }
    }

    /// Pins memory for all contexts.
    ///
    /// # Safety
    /// The memory stays mapped until it was unpinned.
    pub(super) unsafe fn pin(&self, base: *mut u8, bytes: usize) -> Result<(), DriverError> {
        // SAFETY: the caller's promise.
        let status = unsafe { (self.driver().host_register)(base.cast(), bytes, HOST_PORTABLE) };
        self.context.check("cuMemHostRegister", status)
    }

    /// Ends the pinning of what was pinned at this address. No copy may be using it.
    pub(super) fn unpin(&self, base: *mut u8) -> Result<(), DriverError> {
        // SAFETY: an address that the driver does not know is refused.
        let status = unsafe { (self.driver().host_unregister)(base.cast()) };
        self.context.check("cuMemHostUnregister", status)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(mut mode) = self.mode {
            // SAFETY: `mode` is the thread's mode from before, and a place for ours.
            unsafe { (self.driver().capture_mode)(&raw mut mode) };
        }
        let mut popped = 0;
        // SAFETY: `popped` is a place for a context; ours was pushed by this thread.
        unsafe { (self.driver().context_pop)(&raw mut popped) };
    }
}

/// A stream of ours. It does not wait for the engine's default stream.
pub(super) struct Stream {
    context: Arc<Context>,
    handle: Handle,
}

impl Stream {
    pub(super) fn create(context: &Arc<Context>) -> Result<Self, DriverError> {
        let _entered = context.enter()?;
        let mut handle = 0;
        // SAFETY: `handle` is a place for a stream.
        let status = unsafe { (context.driver.stream_create)(&raw mut handle, STREAM_NON_BLOCKING) };
        context.check("cuStreamCreate", status)?;
        Ok(Self {
            context: Arc::clone(context),
            handle,
        })
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    /// What is given to the stream from now on waits for what the event stands for now.
    pub(super) fn wait_for(&self, _entered: &Entered<'_>, event: Handle) -> Result<(), DriverError> {
        // SAFETY: the stream is ours; the event is ours or the caller's, who keeps it until the batch has ended.
        let status = unsafe { (self.context.driver.stream_wait)(self.handle, event, 0) };
        self.context.check("cuStreamWaitEvent", status)
    }

    /// Sleeps or spins until all that was given to the stream is over.
    pub(super) fn synchronize(&self, _entered: &Entered<'_>) -> Result<(), DriverError> {
        // SAFETY: the stream is ours.
        let status = unsafe { (self.context.driver.stream_synchronize)(self.handle) };
        self.context.check("cuStreamSynchronize", status)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Without a context the stream is gone as well.
        if let Ok(_entered) = self.context.enter() {
            // SAFETY: created by `create`, destroyed once.
            unsafe { (self.context.driver.stream_destroy)(self.handle) };
        }
    }
}

/// A point in a stream.
pub(super) struct Event {
    context: Arc<Context>,
    handle: Handle,
}

impl Event {
    fn create(context: &Arc<Context>) -> Result<Self, DriverError> {
        let mut handle = 0;
        // SAFETY: `handle` is a place for an event; the caller has entered the context.
        let status = unsafe {
            (context.driver.event_create)(&raw mut handle, EVENT_BLOCKING_SYNC | EVENT_DISABLE_TIMING)
        };
        context.check("cuEventCreate", status)?;
        Ok(Self {
            context: Arc::clone(context),
            handle,
        })
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    /// From now on the event stands for the end of what was given to the stream so far.
    pub(super) fn record(&self, _entered: &Entered<'_>, stream: Handle) -> Result<(), DriverError> {
        // SAFETY: the event is ours; that the stream is one is our own or the caller's promise.
        let status = unsafe { (self.context.driver.event_record)(self.handle, stream) };
        self.context.check("cuEventRecord", status)
    }

    /// Whether that point was reached.
    pub(super) fn is_reached(&self, _entered: &Entered<'_>) -> Result<bool, DriverError> {
        // SAFETY: the event is ours.
        let status = unsafe { (self.context.driver.event_query)(self.handle) };
        if status == NOT_READY {
            return Ok(false);
        }
        match self.context.check("cuEventQuery", status) {
            Err(error) if error.is_capture() => Ok(false),
            answer => answer.map(|()| true),
        }
    }

    /// Sleeps until that point was reached.
    pub(super) fn synchronize(&self, _entered: &Entered<'_>) -> Result<(), DriverError> {
        // SAFETY: the event is ours.
        let status = unsafe { (self.context.driver.event_synchronize)(self.handle) };
        self.context.check("cuEventSynchronize", status)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(_entered) = self.context.enter() {
            // SAFETY: created by `create`, destroyed once; a stream that still waits for it is served by the driver.
            unsafe { (self.context.driver.event_destroy)(self.handle) };
        }
    }
}

/// Events that are not in use. Making one costs more than recording it.
pub(super) struct EventPool {
    context: Arc<Context>,
    free: Mutex<Vec<Event>>,
}

impl EventPool {
    pub(super) fn new(context: &Arc<Context>) -> Self {
        Self {
            context: Arc::clone(context),
            free: Mutex::default(),
        }
    }

    /// An event of nothing.
    pub(super) fn take(&self, _entered: &Entered<'_>) -> Result<Event, DriverError> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.map_or_else(|| Event::create(&self.context), Ok)
    }

    /// Keeps an event that nobody will ask any more.
    pub(super) fn give(&self, event: Event) {
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(event);
    }
}

/// Pinned memory of ours. It may be dropped only when no copy uses it.
pub(super) struct PinnedBuffer {
    context: Arc<Context>,
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the memory is plain memory of this process, owned by the value.
unsafe impl Send for PinnedBuffer {}

impl PinnedBuffer {
    pub(super) fn allocate(context: &Arc<Context>, bytes: usize) -> Result<Self, DriverError> {
        let _entered = context.enter()?;
        let mut base = std::ptr::null_mut();
        // SAFETY: `base` is a place for an address.
        let status = unsafe { (context.driver.host_allocate)(&raw mut base, bytes, HOST_PORTABLE) };
        context.check("cuMemHostAlloc", status)?;
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(|| DriverError {
            call: "cuMemHostAlloc",
            status: 2,
            name: "CUDA_ERROR_OUT_OF_MEMORY".to_owned(),
            text: "it returned NULL".to_owned(),
        })?;
        Ok(Self {
            context: Arc::clone(context),
            base,
            bytes,
        })
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        if let Ok(_entered) = self.context.enter() {
            // SAFETY: allocated by `allocate`, freed once; no copy uses it, as its owner sees to.
            unsafe { (self.context.driver.host_free)(self.base.as_ptr().cast()) };
        }
    }
}
