//! The binary: parses the command line, starts, and turns the outcome into an exit code.

use std::process::ExitCode;

use mimalloc::MiMalloc;

// Every ranged read allocates a buffer that another thread may free. glibc gives such memory back to the heap one
// coalescing walk at a time, which was a fifth of the processor time of a small read.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    orlop::cli::run(std::env::args_os())
}
