//! An allocation of ours that fails under the ceiling lifts it and is tried again: only the engine and the host meet
//! the ceiling as an out-of-memory error, which they can report; Rust would abort the process.
#![allow(unsafe_code, reason = "a global allocator is unsafe to implement")]

use std::alloc::{GlobalAlloc, Layout, System};

use crate::guard::ceiling;

struct Lifting;

#[global_allocator]
static ALLOCATOR: Lifting = Lifting;

// SAFETY: every call is the system allocator's own, at most twice.
unsafe impl GlobalAlloc for Lifting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the system allocator's.
        let memory = unsafe { System.alloc(layout) };
        if memory.is_null() && ceiling::release_now() {
            // SAFETY: as above.
            return unsafe { System.alloc(layout) };
        }
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: `memory` came from the system allocator, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the system allocator's.
        let memory = unsafe { System.alloc_zeroed(layout) };
        if memory.is_null() && ceiling::release_now() {
            // SAFETY: as above.
            return unsafe { System.alloc_zeroed(layout) };
        }
        memory
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract is the system allocator's.
        let grown = unsafe { System.realloc(memory, layout, size) };
        if grown.is_null() && ceiling::release_now() {
            // SAFETY: as above; a failed realloc leaves the old block as it was.
            return unsafe { System.realloc(memory, layout, size) };
        }
        grown
    }
}
