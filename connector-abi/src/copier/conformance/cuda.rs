//! The suite on a CUDA driver: the stand-in, and a real one where there is one.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use libloading::Library;
use tempfile::TempDir;

use super::*;

type Retain = unsafe extern "C" fn(*mut usize, c_int) -> c_int;
type Create = unsafe extern "C" fn(*mut usize, c_uint) -> c_int;
type Allocate = unsafe extern "C" fn(*mut u64, usize) -> c_int;
type CopyIn = unsafe extern "C" fn(u64, *const c_void, usize) -> c_int;
type CopyOut = unsafe extern "C" fn(*mut c_void, u64, usize) -> c_int;
type Set = unsafe extern "C" fn(u64, u8, usize, usize) -> c_int;
type Fail = unsafe extern "C" fn(*const c_char, c_int, c_int);
type Violations = unsafe extern "C" fn(*mut *const c_char) -> c_int;

/// A driver as the tests use it: beside what the copier does, they allocate and compute.
pub(in crate::copier) struct TestDriver {
    library: Library,
    path: PathBuf,
    /// The stand-in's own copy of its file.
    _directory: Option<TempDir>,
}

/// The stand-in, compiled once. Each test loads a copy of the file, so that each has a driver of its own.
fn twin_file() -> &'static Path {
    static FILE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = FILE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("libcuda.so.1");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("twin/cuda.c");
        let output = Command::new("cc")
            .args([
                "-std=gnu11",
                "-O1",
                "-g",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-shared",
                "-fPIC",
                "-o",
            ])
            .args([&path, &source])
            .arg("-lpthread")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        (directory, path)
    });
    path
}

impl TestDriver {
    /// A stand-in of this version.
    pub(in crate::copier) fn twin(version: c_int) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("libcuda.so.1");
        std::fs::copy(twin_file(), &path).unwrap();
        let driver = Self::load(path, Some(directory)).unwrap();
        // SAFETY: the function of that name has this signature.
        let set = unsafe {
            driver
                .library
                .get::<unsafe extern "C" fn(c_int)>(b"twin_version\0")
        }
        .unwrap();
        // SAFETY: takes any number.
        unsafe { set(version) };
        driver.start();
        driver
    }

    /// The driver of this machine's GPU.
    fn real() -> Option<Self> {
        let driver = Self::load(PathBuf::from("libcuda.so.1"), None)?;
        // SAFETY: takes no pointers.
        let status = unsafe { driver.find::<unsafe extern "C" fn(c_uint) -> c_int>("cuInit")(0) };
        if status != 0 {
            return None;
        }
        driver.start();
        Some(driver)
    }

    fn load(path: PathBuf, directory: Option<TempDir>) -> Option<Self> {
        // SAFETY: the initialisers of a CUDA driver or of the stand-in.
        let library = unsafe { Library::new(&path) }.ok()?;
        Some(Self {
            library,
            path,
            _directory: directory,
        })
    }

    /// Makes the primary context of device 0 current in this thread, as an engine's is.
    fn start(&self) {
        let mut context = 0_usize;
        self.call("cuInit", |call: unsafe extern "C" fn(c_uint) -> c_int| {
            // SAFETY: takes no pointers.
            unsafe { call(0) }
        });
        self.call("cuDevicePrimaryCtxRetain", |call: Retain| {
            // SAFETY: a place for a context.
            unsafe { call(&raw mut context, 0) }
        });
        self.call(
            "cuCtxPushCurrent_v2",
            |call: unsafe extern "C" fn(usize) -> c_int| {
                // SAFETY: a context that was just retained.
                unsafe { call(context) }
            },
        );
    }

    fn find<F: Copy>(&self, name: &str) -> F {
        // SAFETY: the callers name functions with the types of their signatures.
        *unsafe { self.library.get::<F>(name.as_bytes()) }.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn call<F: Copy>(&self, name: &str, run: impl FnOnce(F) -> c_int) {
        assert_eq!(run(self.find(name)), 0, "{name}");
    }

    pub(in crate::copier) fn options(&self) -> CudaOptions {
        CudaOptions {
            driver: Some(self.path.clone().into_os_string()),
            device: Some(0),
            pin: true,
            pin_piece_bytes: 64 << 10,
            bounce_bytes: 24 << 10,
        }
    }

    pub(in crate::copier) fn stream(&self) -> usize {
        let mut stream = 0_usize;
        self.call("cuStreamCreate", |call: Create| {
            // SAFETY: a place for a stream.
            unsafe { call(&raw mut stream, 1) }
        });
        stream
    }

    // What only the stand-in has

    pub(in crate::copier) fn fail(&self, call: &CStr, after: c_int, code: c_int) {
        // SAFETY: a NUL-terminated name.
        unsafe { self.find::<Fail>("twin_fail")(call.as_ptr(), after, code) };
    }

    pub(in crate::copier) fn order(&self, name: &str, value: c_int) {
        // SAFETY: `twin_lose`, `twin_delay` and `twin_capture` take a number.
        unsafe { self.find::<unsafe extern "C" fn(c_int)>(name)(value) };
    }

    pub(in crate::copier) fn capture_stream(&self, stream: usize, on: c_int) {
        // SAFETY: a stream of this driver.
        unsafe { self.find::<unsafe extern "C" fn(usize, c_int)>("twin_stream_capture")(stream, on) };
    }

    pub(in crate::copier) fn calls(&self, name: &CStr) -> u64 {
        // SAFETY: a NUL-terminated name.
        unsafe { self.find::<unsafe extern "C" fn(*const c_char) -> u64>("twin_calls")(name.as_ptr()) }
    }

    pub(in crate::copier) fn ask(&self, name: &str) -> u64 {
        // SAFETY: `twin_pinned` and `twin_leaks` take nothing.
        unsafe { self.find::<unsafe extern "C" fn() -> u64>(name)() }
    }

    /// Fails if the program did what it must not.
    #[track_caller]
    pub(in crate::copier) fn assert_no_violation(&self) {
        let mut what = std::ptr::null();
        // SAFETY: a place for a text.
        let count = unsafe { self.find::<Violations>("twin_violations")(&raw mut what) };
        // SAFETY: the stand-in's text is static.
        let what = unsafe { CStr::from_ptr(what) }.to_string_lossy();
        assert_eq!(count, 0, "{what}");
    }
}

/// A driver and the engine's stream.
pub(in crate::copier) struct CudaRig {
    pub(in crate::copier) driver: Arc<TestDriver>,
    pub(in crate::copier) options: CudaOptions,
    pub(in crate::copier) stream: usize,
    scratch: RefCell<Option<usize>>,
    is_twin: bool,
}

const SCRATCH_BYTES: usize = 64 << 20;

impl CudaRig {
    pub(in crate::copier) fn new(driver: &Arc<TestDriver>, options: CudaOptions, is_twin: bool) -> Self {
        Self {
            driver: Arc::clone(driver),
            options,
            stream: driver.stream(),
            scratch: RefCell::default(),
            is_twin,
        }
    }

    fn fill(&self, at: usize, value: u8, bytes: usize) {
        self.driver.call("cuMemsetD8Async", |call: Set| {
            // SAFETY: device memory that `allocate` made.
            unsafe { call(at as u64, value, bytes, self.stream) }
        });
    }
}

impl Rig for CudaRig {
    fn copier(&self) -> Copier {
        Copier::cuda(&self.options).unwrap()
    }

    fn allocate(&mut self, bytes: usize) -> usize {
        let mut base = 0_u64;
        self.driver.call("cuMemAlloc_v2", |call: Allocate| {
            // SAFETY: a place for an address.
            unsafe { call(&raw mut base, bytes) }
        });
        base as usize
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        self.driver.call("cuMemcpyHtoD_v2", |call: CopyIn| {
            // SAFETY: device memory that `allocate` made, and bytes of ours.
            unsafe { call(at as u64, bytes.as_ptr().cast(), bytes.len()) }
        });
    }

    fn read(&self, at: usize, bytes: usize) -> Vec<u8> {
        let mut found = vec![0; bytes];
        self.driver.call("cuMemcpyDtoH_v2", |call: CopyOut| {
            // SAFETY: device memory that `allocate` made, and a place for as many bytes.
            unsafe { call(found.as_mut_ptr().cast(), at as u64, bytes) }
        });
        found
    }

    fn after(&self) -> After {
        After::Stream(self.stream)
    }

    fn compute(&self, at: usize, value: u8, bytes: usize) {
        if self.is_twin {
            self.driver.order("twin_delay", 1000);
            self.fill(at, value, bytes);
            return;
        }
        // Work that takes a real device a while.
        let scratch = self.scratch.borrow().unwrap_or_else(|| {
            let mut base = 0_u64;
            self.driver.call("cuMemAlloc_v2", |call: Allocate| {
                // SAFETY: a place for an address.
                unsafe { call(&raw mut base, SCRATCH_BYTES) }
            });
            base as usize
        });
        *self.scratch.borrow_mut() = Some(scratch);
        for _ in 0..50 {
            self.fill(scratch, value, SCRATCH_BYTES);
        }
        self.fill(at, value, bytes);
    }
}

/// Versions without the batched copy, with its first form and with its second.
pub(in crate::copier) const VERSIONS: [c_int; 3] = [12_040, 12_080, 13_000];

#[test]
fn the_stand_in_device_copies_as_promised() {
    for version in VERSIONS {
        for pin in [true, false] {
            let driver = Arc::new(TestDriver::twin(version));
            let options = CudaOptions {
                pin,
                ..driver.options()
            };
            check(|| {
                driver.order("twin_delay", 0);
                CudaRig::new(&driver, options.clone(), true)
            });
            driver.assert_no_violation();
            // The test's own reference to the context is what is left.
            assert_eq!(
                (driver.ask("twin_pinned"), driver.ask("twin_leaks")),
                (0, 1),
                "{version} {pin}"
            );
        }
    }
}

#[test]
fn a_gpu_copies_as_promised() {
    let Some(driver) = TestDriver::real() else {
        eprintln!("skipped: no CUDA driver with a device on this machine");
        return;
    };
    let driver = Arc::new(driver);
    for pin in [true, false] {
        let options = CudaOptions {
            pin,
            ..driver.options()
        };
        check(|| CudaRig::new(&driver, options.clone(), false));
    }
}
