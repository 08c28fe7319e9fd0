//! The `lb` binary: hands over to `cli`.
//!
//! Must not know: anything else.

fn main() -> std::process::ExitCode {
    lb_user::cli::main()
}
