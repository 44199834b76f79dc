//! The CUDA driver library, found at run time: building needs no CUDA, and a machine without a GPU just has no driver.
//!
//! Functions are looked up with the version whose signature stands here, by `cuGetProcAddress` where the driver has it,
//! else by the name of that version. Handles are plain numbers, as wide as the pointers that the driver deals in.

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};

use libloading::Library;

use super::error::DriverError;
use crate::ClientError;

/// What every function of the driver returns; 0 is success.
pub(super) type Status = c_int;
/// A context, stream or event of the driver.
pub(super) type Handle = usize;
/// An address in device memory or in pinned host memory.
pub(super) type Address = u64;

/// The name under which the driver is installed.
const DRIVER_NAME: &str = "libcuda.so.1";
/// Functions without a suffix take the legacy default stream for stream 0, as the engine's do.
const LEGACY_STREAM: u64 = 1;

/// How a piece of a batch is to be copied: `CUmemcpyAttributes`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CopyAttributes {
    /// 1: the source is read in stream order.
    pub(super) source_order: c_int,
    /// Type and id; read for managed memory only.
    pub(super) source_hint: [c_int; 2],
    /// As above.
    pub(super) target_hint: [c_int; 2],
    /// 1: rather overlap with compute.
    pub(super) flags: c_uint,
}

/// `cuMemcpyBatchAsync` as of CUDA 12.8: one argument says which copy was refused.
pub(super) type CopyBatch1 = unsafe extern "C" fn(
    *const Address,
    *const Address,
    *const usize,
    usize,
    *const CopyAttributes,
    *const usize,
    usize,
    *mut usize,
    Handle,
) -> Status;

/// `cuMemcpyBatchAsync` as of CUDA 13.0: without that argument.
pub(super) type CopyBatch2 = unsafe extern "C" fn(
    *const Address,
    *const Address,
    *const usize,
    usize,
    *const CopyAttributes,
    *const usize,
    usize,
    Handle,
) -> Status;

/// How batches are copied.
#[derive(Clone, Copy, Debug)]
pub(super) enum CopyBatch {
    /// One call for many pieces, CUDA 13.0.
    Version2(CopyBatch2),
    /// One call for many pieces, CUDA 12.8.
    Version1(CopyBatch1),
    /// The driver is older: a call for each piece.
    None,
}

macro_rules! driver_functions {
    ($($field:ident: $name:literal / $export:literal @ $version:literal ($($argument:ty),*);)*) => {
        /// The functions that are used, with the signatures of those versions.
        pub(super) struct Driver {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> Status,)*
            /// How batches are copied.
            pub(super) copy_batch: CopyBatch,
        }

        fn find_all(finder: &Finder<'_>) -> Result<Driver, ClientError> {
            Ok(Driver {
                $($field: {
                    let address = finder.find($name, $export, $version)?;
                    // SAFETY: the driver's function of that name and version has this signature (its cudaTypedefs.h).
                    unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> Status>(address)
                    }
                },)*
                copy_batch: finder.copy_batch(),
            })
        }
    };
}

driver_functions! {
    init: c"cuInit" / "cuInit" @ 2000 (c_uint);
    error_name: c"cuGetErrorName" / "cuGetErrorName" @ 6000 (Status, *mut *const c_char);
    error_text: c"cuGetErrorString" / "cuGetErrorString" @ 6000 (Status, *mut *const c_char);
    device_get: c"cuDeviceGet" / "cuDeviceGet" @ 2000 (*mut c_int, c_int);
    device_name: c"cuDeviceGetName" / "cuDeviceGetName" @ 2000 (*mut c_char, c_int, c_int);
    primary_retain: c"cuDevicePrimaryCtxRetain" / "cuDevicePrimaryCtxRetain" @ 7000 (*mut Handle, c_int);
    primary_release: c"cuDevicePrimaryCtxRelease" / "cuDevicePrimaryCtxRelease_v2" @ 11000 (c_int);
    context_current: c"cuCtxGetCurrent" / "cuCtxGetCurrent" @ 4000 (*mut Handle);
    context_device: c"cuCtxGetDevice" / "cuCtxGetDevice" @ 2000 (*mut c_int);
    context_push: c"cuCtxPushCurrent" / "cuCtxPushCurrent_v2" @ 4000 (Handle);
    context_pop: c"cuCtxPopCurrent" / "cuCtxPopCurrent_v2" @ 4000 (*mut Handle);
    capture_mode: c"cuThreadExchangeStreamCaptureMode" / "cuThreadExchangeStreamCaptureMode" @ 10010 (*mut c_int);
    stream_create: c"cuStreamCreate" / "cuStreamCreate" @ 2000 (*mut Handle, c_uint);
    stream_destroy: c"cuStreamDestroy" / "cuStreamDestroy_v2" @ 4000 (Handle);
    stream_wait: c"cuStreamWaitEvent" / "cuStreamWaitEvent" @ 3020 (Handle, Handle, c_uint);
    stream_synchronize: c"cuStreamSynchronize" / "cuStreamSynchronize" @ 2000 (Handle);
    stream_capturing: c"cuStreamIsCapturing" / "cuStreamIsCapturing" @ 10000 (Handle, *mut c_int);
    event_create: c"cuEventCreate" / "cuEventCreate" @ 2000 (*mut Handle, c_uint);
    event_destroy: c"cuEventDestroy" / "cuEventDestroy_v2" @ 4000 (Handle);
    event_record: c"cuEventRecord" / "cuEventRecord" @ 2000 (Handle, Handle);
    event_query: c"cuEventQuery" / "cuEventQuery" @ 2000 (Handle);
    event_synchronize: c"cuEventSynchronize" / "cuEventSynchronize" @ 2000 (Handle);
    host_register: c"cuMemHostRegister" / "cuMemHostRegister_v2" @ 6050 (*mut c_void, usize, c_uint);
    host_unregister: c"cuMemHostUnregister" / "cuMemHostUnregister" @ 4000 (*mut c_void);
    host_allocate: c"cuMemHostAlloc" / "cuMemHostAlloc" @ 2020 (*mut *mut c_void, usize, c_uint);
    host_free: c"cuMemFreeHost" / "cuMemFreeHost" @ 2000 (*mut c_void);
    copy: c"cuMemcpyAsync" / "cuMemcpyAsync" @ 4000 (Address, Address, usize, Handle);
    pointer_attribute: c"cuPointerGetAttribute" / "cuPointerGetAttribute" @ 4000 (*mut c_void, c_int, Address);
}

impl Driver {
    /// Loads the driver, or another library with its functions, and initialises it. It is never unloaded: it has threads
    /// of its own, and the engine uses it too.
    pub(super) fn load(path: Option<&OsStr>) -> Result<Self, ClientError> {
        let name = path.unwrap_or(OsStr::new(DRIVER_NAME));
        // SAFETY: loading runs the library's initialisers: those of the CUDA driver, or of what the operator named.
        let library = unsafe { Library::new(name) };
        let library = library.map_err(|error| ClientError::NoDriver(error.to_string()))?;
        // Its functions are used for as long as the process lives.
        let library: &'static Library = Box::leak(Box::new(library));
        let driver = find_all(&Finder::new(library)?)?;
        // SAFETY: takes no pointers; 0 is the only value there is.
        driver.check("cuInit", unsafe { (driver.init)(0) })?;
        Ok(driver)
    }

    /// Success, or what the driver says of its failure.
    pub(super) fn check(&self, call: &'static str, status: Status) -> Result<(), DriverError> {
        if status == 0 {
            return Ok(());
        }
        Err(DriverError {
            call,
            status,
            name: Self::say(self.error_name, status),
            text: Self::say(self.error_text, status),
        })
    }

    fn say(ask: unsafe extern "C" fn(Status, *mut *const c_char) -> Status, status: Status) -> String {
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: `text` is a place for a pointer.
        let answer = unsafe { ask(status, &raw mut text) };
        if answer != 0 || text.is_null() {
            return "unknown".to_owned();
        }
        // SAFETY: the driver's texts are static and NUL-terminated.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}

/// `cuGetProcAddress` as of CUDA 12.0.
type GetProcAddress2 =
    unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, u64, *mut c_int) -> Status;
/// `cuGetProcAddress` as of CUDA 11.3.
type GetProcAddress1 = unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, u64) -> Status;

type DriverGetVersion = unsafe extern "C" fn(*mut c_int) -> Status;

/// Finds functions by name and version.
struct Finder<'a> {
    library: &'a Library,
    proc2: Option<GetProcAddress2>,
    proc1: Option<GetProcAddress1>,
    /// The newest CUDA that the driver serves, e.g. 12080.
    driver_version: c_int,
}

impl<'a> Finder<'a> {
    fn new(library: &'a Library) -> Result<Self, ClientError> {
        // SAFETY: the function of that name has this signature.
        let proc2 = unsafe { library.get::<GetProcAddress2>(b"cuGetProcAddress_v2\0") };
        // SAFETY: as above.
        let proc1 = unsafe { library.get::<GetProcAddress1>(b"cuGetProcAddress\0") };
        let (proc2, proc1) = (proc2.ok().map(|found| *found), proc1.ok().map(|found| *found));
        // SAFETY: the function of that name has this signature.
        let version = unsafe { library.get::<DriverGetVersion>(b"cuDriverGetVersion\0") };
        let version = version.map_err(|error| ClientError::NoDriver(error.to_string()))?;
        let mut driver_version = 0;
        // SAFETY: `driver_version` is a place for a number.
        if unsafe { version(&raw mut driver_version) } != 0 {
            driver_version = 0;
        }
        Ok(Self {
            library,
            proc2,
            proc1,
            driver_version,
        })
    }

    fn find(&self, name: &CStr, export: &str, version: c_int) -> Result<*mut c_void, ClientError> {
        if let Some(found) = self.find_versioned(name, version) {
            return Ok(found);
        }
        // SAFETY: the type is that of an address; it is called only after it was given its function's type.
        let symbol = unsafe { self.library.get::<*mut c_void>(export.as_bytes()) };
        // SAFETY: the library is never unloaded, so the address stays good.
        match symbol.map(|symbol| unsafe { symbol.try_as_raw_ptr() }) {
            Ok(Some(address)) if !address.is_null() => Ok(address),
            _ => Err(ClientError::NoDriver(format!("the CUDA driver has no {export}"))),
        }
    }

    fn find_versioned(&self, name: &CStr, version: c_int) -> Option<*mut c_void> {
        let mut found = std::ptr::null_mut();
        let mut why = 0;
        let status = if let Some(find) = self.proc2 {
            // SAFETY: a NUL-terminated name, a place for an address and one for a number.
            unsafe {
                find(
                    name.as_ptr(),
                    &raw mut found,
                    version,
                    LEGACY_STREAM,
                    &raw mut why,
                )
            }
        } else {
            // SAFETY: a NUL-terminated name and a place for an address.
            unsafe { self.proc1?(name.as_ptr(), &raw mut found, version, LEGACY_STREAM) }
        };
        (status == 0 && !found.is_null()).then_some(found)
    }

    /// The signature of the batched copy differs between versions, so only a driver that says it has a version is asked
    /// for it.
    fn copy_batch(&self) -> CopyBatch {
        let name = c"cuMemcpyBatchAsync";
        if self.driver_version >= 13_000
            && let Some(found) = self.find_versioned(name, 13_000)
        {
            // SAFETY: the signature of version 13.0 (the driver's cudaTypedefs.h).
            return CopyBatch::Version2(unsafe { std::mem::transmute::<*mut c_void, CopyBatch2>(found) });
        }
        if self.driver_version >= 12_080
            && let Some(found) = self.find_versioned(name, 12_080)
        {
            // SAFETY: the signature of version 12.8 (the driver's cudaTypedefs.h).
            return CopyBatch::Version1(unsafe { std::mem::transmute::<*mut c_void, CopyBatch1>(found) });
        }
        CopyBatch::None
    }
}

const _: () = {
    assert!(size_of::<CopyAttributes>() == 24);
    assert!(size_of::<Handle>() == size_of::<*mut c_void>());
};
