//! The emulated device: our kernels' source compiled by this machine's C++ compiler, behind emulation.hpp.
//!
//! Memory ends where a page ends that nobody may touch, so that a kernel which reads or writes beyond it dies
//! there and then: a test that ends with SIGSEGV found one that does. A test that ends with SIGILL found undefined
//! behaviour (an address that is not aligned, say).

use bulkhead_kernels::gpu::{
    Argument, Device, KERNELS, Launch, LaunchError, Plain, Shape, Span, SpanMut, source,
};
use std::ffi::{CStr, CString, c_char, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// As in emulation.hpp.
const MULTIPROCESSORS: u32 = 5;
const SHARED_BYTES_MAX: u32 = 232_448;
const PAGE: usize = 4096;
/// What memory holds that nobody wrote: as a float, no number.
const GARBAGE: u8 = 0xFF;

/// Orders in which threads run: ascending, descending, and the seeds of two random ones.
pub const ORDERS: [u32; 4] = [0, 1, 2, 3];

/// What emulation.hpp is told of a launch.
#[repr(C)]
struct Told {
    grid: [u32; 3],
    block: u32,
    shared_bytes: u32,
    order: u32,
    fresh: u32,
}

type Emulate = unsafe extern "C" fn(
    *const c_char,
    *const Told,
    *mut *mut c_void,
    *const u32,
    u32,
) -> *const c_char;

/// The device has one state: whoever launches takes a turn.
static TURN: Mutex<()> = Mutex::new(());

/// An emulated device on which threads run in one of the [`ORDERS`].
pub struct Emulated {
    pub order: u32,
    /// Blocks begin with garbage in shared memory, and not with what the last one left.
    pub fresh: bool,
    emulate: Emulate,
    _turn: MutexGuard<'static, ()>,
}

impl Emulated {
    pub fn new(order: u32) -> Self {
        Emulated::of(order, &all_of_it())
    }

    /// With a fault: `wrong` in place of `right`, which is somewhere in the kernels.
    pub fn with_fault(order: u32, right: &str, wrong: &str) -> Self {
        let text = all_of_it();
        assert_eq!(text.matches(right).count(), 1, "{right:?} is there once");
        Emulated::of(order, &text.replace(right, wrong))
    }

    fn of(order: u32, text: &str) -> Self {
        Emulated {
            order,
            fresh: true,
            emulate: emulate(text),
            _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl Launch for Emulated {
    unsafe fn launch(
        &self,
        kernel: &'static str,
        shape: Shape,
        arguments: &mut [Argument],
    ) -> Result<(), LaunchError> {
        let name = CString::new(kernel).expect("no kernel's name has a zero");
        let told = Told {
            grid: shape.grid,
            block: shape.block,
            shared_bytes: shape.shared_bytes,
            order: self.order,
            fresh: u32::from(self.fresh),
        };
        let sizes: Vec<u32> = arguments.iter().map(Argument::bytes).collect();
        let mut pointers: Vec<*mut c_void> = arguments.iter_mut().map(Argument::pointer).collect();
        // SAFETY: the function is that of the library, which checks the name and the arguments' sizes; that they
        // are the kernel's is the caller's word.
        let why = unsafe {
            (self.emulate)(
                name.as_ptr(),
                &told,
                pointers.as_mut_ptr(),
                sizes.as_ptr(),
                sizes.len() as u32,
            )
        };
        if why.is_null() {
            return Ok(());
        }
        // SAFETY: it is a constant of the library.
        let why = unsafe { CStr::from_ptr(why) };
        Err(LaunchError::Device {
            at: kernel,
            detail: why.to_string_lossy().into_owned(),
        })
    }

    fn multiprocessors(&self) -> u32 {
        MULTIPROCESSORS
    }

    fn shared_bytes_max(&self) -> u32 {
        SHARED_BYTES_MAX
    }
}

/// Memory that ends at a page nobody may touch.
pub struct Fenced {
    pages: *mut u8,
    mapped: usize,
    start: usize,
    len: usize,
}

impl Fenced {
    fn new(bytes: &[u8]) -> Self {
        // As much aligned as the driver's own memory is, at least for all that is kept here; what is left of the
        // last page behind it is garbage, which is looked at in the end.
        let room = bytes.len().next_multiple_of(16);
        let mapped = room.next_multiple_of(PAGE) + PAGE;
        // SAFETY: a mapping of its own, at an address of the system's choice.
        let pages = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(pages, libc::MAP_FAILED, "there is memory");
        let pages: *mut u8 = pages.cast();
        let start = mapped - PAGE - room;
        // SAFETY: all of it is in the mapping, whose last page is shut afterwards.
        unsafe {
            pages.write_bytes(GARBAGE, mapped - PAGE);
            pages
                .add(start)
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            let shut = libc::mprotect(pages.add(mapped - PAGE).cast(), PAGE, libc::PROT_NONE);
            assert_eq!(shut, 0, "the last page is shut");
        }
        Fenced {
            pages,
            mapped,
            start,
            len: bytes.len(),
        }
    }

    fn around(&self) -> &[u8] {
        // SAFETY: the mapping without its last page.
        unsafe { std::slice::from_raw_parts(self.pages, self.mapped - PAGE) }
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        let (before, rest) = self.around().split_at(self.start);
        let clean = before
            .iter()
            .chain(&rest[self.len..])
            .all(|byte| *byte == GARBAGE);
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.pages.cast(), self.mapped) };
        if !std::thread::panicking() {
            assert!(clean, "a kernel wrote beside its memory");
        }
    }
}

impl Device for Emulated {
    type Memory = Fenced;

    fn upload(&self, bytes: &[u8]) -> Result<Fenced, LaunchError> {
        Ok(Fenced::new(bytes))
    }

    fn download(&self, memory: &Fenced, bytes: &mut [u8]) -> Result<(), LaunchError> {
        bytes.copy_from_slice(&memory.around()[memory.start..][..memory.len]);
        Ok(())
    }

    fn span<'a, T: Plain>(&self, memory: &'a Fenced) -> Span<'a, T> {
        let address = memory.around()[memory.start..].as_ptr() as u64;
        // SAFETY: the memory lives as long as the span, and ends there.
        unsafe { Span::new(address, memory.len / size_of::<T>()) }
    }

    fn span_mut<'a, T: Plain>(&self, memory: &'a mut Fenced) -> SpanMut<'a, T> {
        let address = memory.pages as u64 + memory.start as u64;
        // SAFETY: as above, and nobody else has it.
        unsafe { SpanMut::new(address, memory.len / size_of::<T>()) }
    }
}

/// The one function of the library that is made of a text.
fn emulate(text: &str) -> Emulate {
    let library = build(text);
    let path = CString::new(library.to_str().expect("the build's path is text"));
    // SAFETY: loading it runs nothing but its own constructors of empty vectors.
    let loaded = unsafe { libc::dlopen(path.expect("no zero").as_ptr(), libc::RTLD_NOW) };
    assert!(!loaded.is_null(), "{} cannot be loaded", library.display());
    // SAFETY: the library is loaded, and stays so.
    let found = unsafe { libc::dlsym(loaded, c"bulkhead_emulate".as_ptr()) };
    assert!(!found.is_null(), "the library has its function");
    // SAFETY: all_of_it() defines it with this signature.
    unsafe { std::mem::transmute::<*mut c_void, Emulate>(found) }
}

/// The emulation, the kernels, and the table of them.
fn all_of_it() -> String {
    let mut text = source(include_str!("emulation.hpp"));
    text.push_str(
        "\n#line 1 \"table\"\nextern \"C\" const char *bulkhead_emulate(const char *name, const ",
    );
    text.push_str(
        "emulated::Shape *shape, void **with, const unsigned *sizes, unsigned count) {\n",
    );
    text.push_str("  static const std::vector<emulated::Kernel> kernels = {\n");
    for name in KERNELS {
        text.push_str(&format!("      emulated::named<{name}>(\"{name}\"),\n"));
    }
    text.push_str(
        "  };\n  return emulated::launch(kernels, name, *shape, with, sizes, count);\n}\n",
    );
    text
}

/// Compiles it, unless this very text was compiled before.
fn build(text: &str) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = folder.join(format!("emulated-{:016x}.so", hasher.finish()));
    if library.is_file() {
        return library;
    }
    // Tests of one process compile too, each another text or the same.
    static BUILDS: AtomicUsize = AtomicUsize::new(0);
    let build = BUILDS.fetch_add(1, Ordering::Relaxed);
    let own = |ending| folder.join(format!("emulated-{}-{build}.{ending}", std::process::id()));
    let (from, to) = (own("cpp"), own("so"));
    std::fs::write(&from, text).expect("the build's folder is there");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let made = Command::new(&compiler)
        .args([
            "-std=c++17",
            "-O1",
            "-g",
            "-fPIC",
            "-shared",
            "-ffp-contract=off",
        ])
        .args(["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"])
        // Longjmp from stack to stack is what fibers are made of.
        .args([
            "-U_FORTIFY_SOURCE",
            "-fsanitize=undefined",
            "-fsanitize-undefined-trap-on-error",
        ])
        .arg("-o")
        .args([&to, &from])
        .output();
    let made = made.unwrap_or_else(|error| {
        panic!(
            "no C++ compiler: {compiler} ({error}). Install one (g++ or clang++), or name it in CXX"
        )
    });
    assert!(
        made.status.success(),
        "{compiler} does not compile the kernels:\n{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let _ = std::fs::remove_file(from);
    // Others may have been quicker; the result is the same.
    std::fs::rename(to, &library).expect("it was just made");
    library
}
