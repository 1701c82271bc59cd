//! Runs work that a hostile file could make endless: on a thread of its own, with limits on memory, time and stack.
//!
//! A chat template can double a string forty times with a hundred instructions, so instructions alone bound nothing. The crate's allocator
//! counts what the watched thread holds; over the limit the thread reports and stays asleep for good, since an allocator must neither unwind
//! nor return. Its stack and memory, bounded, are lost to the process: the price of an error instead of a crash.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Touched only as far as used. Deeply nested values are freed by recursion: 4 million instructions nest a value deep enough for half of this.
const STACK_BYTES: usize = 256 << 20;

#[derive(Clone, Copy)]
pub struct Limits {
    pub bytes: usize,
    pub time: Duration,
}

impl Limits {
    /// Generous for any real conversation: a render takes milliseconds and a few times its input.
    pub fn for_input(bytes: usize) -> Self {
        Limits { bytes: (256 << 20) + 32 * bytes, time: Duration::from_secs(60) }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Stop {
    Finished,
    Memory,
    Stack,
}

struct Watch {
    held: AtomicIsize,
    limit: isize,
    abandoned: AtomicBool,
    /// Allocating below this address means recursion without end, as over a value that contains itself: what grows by doubling allocates
    /// at least once between half the stack and all of it.
    stack_floor: AtomicUsize,
    over: Mutex<Option<Stop>>,
    wake: Condvar,
}

thread_local! {
    static WATCHED: Cell<*const Watch> = const { Cell::new(std::ptr::null()) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

impl Counting {
    #[inline]
    fn charge(bytes: isize) {
        let watch = WATCHED.try_with(Cell::get).unwrap_or(std::ptr::null());
        if !watch.is_null() {
            // SAFETY: the pointer is set and cleared by the thread itself while it holds the Arc.
            unsafe { &*watch }.charge(bytes);
        }
    }
}

impl Watch {
    #[cold]
    fn stop(&self, reason: Stop) -> ! {
        // What follows must not be counted: locking may allocate on some platforms.
        let _ = WATCHED.try_with(|cell| cell.set(std::ptr::null()));
        if let Ok(mut over) = self.over.lock() {
            *over = Some(reason);
        }
        self.wake.notify_all();
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }

    fn charge(&self, bytes: isize) {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if bytes > 0 {
            let here = &held as *const isize as usize;
            if held > self.limit || self.abandoned.load(Ordering::Relaxed) {
                self.stop(Stop::Memory);
            } else if here < self.stack_floor.load(Ordering::Relaxed) {
                self.stop(Stop::Stack);
            }
        }
    }
}

// SAFETY: everything goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::charge(layout.size() as isize);
        System.alloc(layout)
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::charge(layout.size() as isize);
        System.alloc_zeroed(layout)
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        System.dealloc(pointer, layout);
        Self::charge(-(layout.size() as isize));
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::charge(size as isize - layout.size() as isize);
        System.realloc(pointer, layout, size)
    }
}

/// Runs `work` under `limits`; `what` begins the text of the error. A panic becomes an Internal error.
pub fn run<T: Send + 'static>(what: &str, limits: Limits, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let watch = Arc::new(Watch {
        held: AtomicIsize::new(0),
        limit: limits.bytes as isize,
        abandoned: AtomicBool::new(false),
        stack_floor: AtomicUsize::new(0),
        over: Mutex::new(None),
        wake: Condvar::new(),
    });
    let slot = Arc::new(Mutex::new(None));
    let (watch_inside, slot_inside) = (watch.clone(), slot.clone());
    let thread = std::thread::Builder::new().name("text_hf".into()).stack_size(STACK_BYTES).spawn(move || {
        let top = &slot_inside as *const _ as usize;
        watch_inside.stack_floor.store(top.saturating_sub(STACK_BYTES / 2), Ordering::Relaxed);
        WATCHED.with(|cell| cell.set(Arc::as_ptr(&watch_inside)));
        let result = catch_unwind(AssertUnwindSafe(work));
        WATCHED.with(|cell| cell.set(std::ptr::null()));
        let result = result.unwrap_or_else(|panic| Err(Error::internal(panic_text(panic.as_ref()))));
        *slot_inside.lock().unwrap() = Some(result);
        *watch_inside.over.lock().unwrap() = Some(Stop::Finished);
        watch_inside.wake.notify_all();
    });
    let thread = thread.map_err(|e| Error::internal(format!("{what}: cannot start a thread: {e}")))?;

    let deadline = Instant::now() + limits.time;
    let mut over = watch.over.lock().unwrap();
    while over.is_none() {
        let now = Instant::now();
        if now >= deadline {
            watch.abandoned.store(true, Ordering::Relaxed);
            return Err(Error::template(format!("{what} takes longer than {} s", limits.time.as_secs())));
        }
        over = watch.wake.wait_timeout(over, deadline - now).unwrap().0;
    }
    let reason = *over;
    drop(over);
    match reason {
        Some(Stop::Memory) => Err(Error::template(format!("{what} needs more than {} MiB of memory", limits.bytes >> 20))),
        Some(Stop::Stack) => Err(Error::template(format!("{what} nests values too deeply"))),
        _ => {
            let _ = thread.join();
            let result = slot.lock().unwrap().take();
            result.unwrap_or_else(|| Err(Error::internal(format!("{what} gave no result"))))
        }
    }
}

pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("unknown failure").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_memory_is_an_error() {
        let limits = Limits { bytes: 64 << 20, time: Duration::from_secs(30) };
        let grow = move || {
            let mut text = String::from("x");
            loop {
                text = text.clone() + &text;
                if text.len() > 1 << 40 {
                    return Ok(text.len());
                }
            }
        };
        assert!(run("the test", limits, grow).unwrap_err().text.contains("64 MiB"));
        assert_eq!(run("the test", limits, || Ok(vec![0u8; 1 << 20].len())).unwrap(), 1 << 20);
    }

    #[test]
    fn too_much_time_and_panics_are_errors() {
        let limits = Limits { bytes: 64 << 20, time: Duration::from_millis(50) };
        let endless = || -> Result<()> {
            loop {
                std::thread::sleep(Duration::from_millis(5));
                drop(vec![1u8]);
            }
        };
        assert!(run("the test", limits, endless).unwrap_err().text.contains("longer"));
        let limits = Limits::for_input(0);
        assert!(run("the test", limits, || -> Result<()> { panic!("oh") }).unwrap_err().text.contains("oh"));
    }
}
