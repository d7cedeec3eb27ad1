//! `trellis`: the command line. Everything is in the library; this file only chooses the allocator, for a small and
//! steady memory with buffers that are freed on other threads than those that made them.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    trellis::cli::main()
}
