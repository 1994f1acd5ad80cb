//! `sterna`: the command line. Reads the arguments, runs the command, turns errors into messages and exit codes:
//! 0 done, 1 failed, 2 wrong usage, 130 stopped with Ctrl-C, SIGTERM or SIGHUP.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use sterna::args::Cli;
use sterna::commands;
use sterna::ui::{interrupt, message};

fn main() -> ExitCode {
    interrupt::install();
    let cli = Cli::from_command_line();
    let mut out = io::BufWriter::new(io::stdout());
    let result = commands::dispatch(cli, &mut out);
    // Also after an error: what was printed before it is a result.
    let flushed = out.flush();
    match result.and_then(|()| Ok(flushed?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if interrupt::is_interrupted(&error) => {
            message::line(&message::said(&error));
            ExitCode::from(interrupt::EXIT_CODE)
        }
        Err(error) => {
            message::error(&message::said(&error));
            ExitCode::FAILURE
        }
    }
}

/// Whoever read our output has enough of it: no failure of ours.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe))
}
