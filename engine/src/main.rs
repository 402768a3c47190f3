//! The `temper` binary.
#![recursion_limit = "256"]

fn main() -> std::process::ExitCode {
    temper_engine::main()
}
